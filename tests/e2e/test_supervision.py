"""Parts die, the service stays: every process is killed in turn, on a service of its own with two Triton replicas."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.conftest import Launch, Service, spawn, wait_for

RESTART_LIMIT_S = 60.0
NOTICED_LIMIT_S = 3.0


@pytest.fixture(scope="module")
def duo(launch: Launch) -> Iterator[Service]:
    service = launch(triton_replicas=2)
    yield service
    assert service.stop() == 0
    assert service.leftovers() == []


@pytest.fixture(autouse=True)
def everything_well(request: pytest.FixtureRequest) -> None:
    """Each test begins with both replicas in the balancer."""
    if "duo" in request.fixturenames:
        duo: Service = request.getfixturevalue("duo")
        wait_for(
            lambda: duo.is_ready() and all(map(duo.replica_is_healthy, (0, 1))), RESTART_LIMIT_S, "all well"
        )


def embed(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": "the tide comes in"})


def ask(client: httpx.Client) -> httpx.Response:
    messages = [{"role": "user", "content": "What does tidegate balance?"}]
    return client.post("/v1/chat/completions", json={"model": "auto", "messages": messages})


@contextmanager
def steady_requests(service: Service) -> Iterator[list[str]]:
    """Questions and embeddings without a pause from two threads. Yields the failures, filled until the end."""
    failures: list[str] = []
    over = threading.Event()

    def work() -> None:
        with service.client() as client:
            while not over.is_set():
                for call in (ask, embed):
                    response = call(client)
                    if response.status_code != 200:
                        failures.append(f"{response.status_code} {response.text}")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("part", ["gateway-0", "envoy", "redis", "ingest"])
def test_a_killed_part_is_started_again(duo: Service, part: str) -> None:
    before = duo.part_pid(part)
    psutil.Process(before).kill()
    wait_for(lambda: duo.part_pid(part) not in {0, before}, RESTART_LIMIT_S, f"{part} restarted")
    wait_for(duo.is_ready, RESTART_LIMIT_S, "the service is ready again")
    with duo.client() as client:
        wait_for(lambda: ask(client).status_code == 200, RESTART_LIMIT_S, "a question is answered")


def test_a_dead_stub_is_noticed_and_no_request_fails_meanwhile(duo: Service) -> None:
    triton = duo.triton(0)
    stub = next(child for child in triton.children() if any("/embed/" in word for word in child.cmdline()))
    with steady_requests(duo) as failures:
        stub.kill()
        wait_for(lambda: not duo.replica_is_healthy(0), NOTICED_LIMIT_S, "the guard says unhealthy")
        wait_for(lambda: not triton.is_running(), NOTICED_LIMIT_S, "the sick Triton is gone")
        wait_for(lambda: duo.replica_is_healthy(0), RESTART_LIMIT_S, "the replica is back")
    assert failures == []


def test_requests_succeed_while_a_replica_is_killed_between_them(duo: Service) -> None:
    with duo.client() as client:
        assert ask(client).status_code == 200
        duo.triton(1).kill()
        answers = [ask(client) for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 10


def test_a_frozen_stub_is_taken_out_and_replaced(duo: Service) -> None:
    triton = duo.triton(0)
    stub = next(child for child in triton.children() if any("/search/" in word for word in child.cmdline()))
    stub.suspend()
    wait_for(lambda: not duo.replica_is_healthy(0), 8, "the guard says unhealthy")
    wait_for(lambda: not triton.is_running(), 15, "the frozen Triton is gone")
    wait_for(lambda: duo.replica_is_healthy(0), RESTART_LIMIT_S, "the replica is back")


def test_a_flood_does_not_make_a_replica_look_sick(duo: Service) -> None:
    tritons = [duo.triton(replica).pid for replica in (0, 1)]
    passages = [
        f"Passage {number} tells at some length how the tide comes in and goes out. " * 8
        for number in range(64)
    ]
    over_s = time.monotonic() + 8

    def flood() -> None:
        with duo.client() as client:
            while time.monotonic() < over_s:
                client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": passages})

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    healthy = []
    while time.monotonic() < over_s:
        healthy += [duo.replica_is_healthy(replica) for replica in (0, 1)]
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert all(healthy)
    assert [duo.triton(replica).pid for replica in (0, 1)] == tritons


def test_a_killed_guard_takes_its_triton_along(duo: Service) -> None:
    triton = duo.triton(0)
    psutil.Process(duo.part_pid("triton-0")).kill()
    wait_for(lambda: not triton.is_running(), 5, "Triton ends with its guard")


def test_models_cannot_be_changed_through_the_balancer(duo: Service) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(duo.settings.triton_target) as channel:
        triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            triton.RepositoryModelUnload(
                service_pb2.RepositoryModelUnloadRequest(model_name="embed"), timeout=5
            )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_taken_port_is_named_with_its_setting(duo: Service, tmp_path: Path) -> None:
    refused = spawn(tmp_path / "var", tmp_path / "up.log", port=duo.settings.port)
    assert refused.process.wait(30) == 2
    assert refused.output.read_text().strip() == (
        f"port {duo.settings.port} is taken: set TIDEGATE_PORT to a free port."
    )


@pytest.fixture(scope="module")
def second_var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("second")


def test_a_second_service_runs_beside_the_first_and_ends_with_its_manager(
    duo: Service, launch: Launch, second_var: Path
) -> None:
    second = launch(second_var)
    for service in (duo, second):
        with service.client() as client:
            assert ask(client).status_code == 200
    second.remember()
    manager = psutil.Process(second.pid).children()[0]
    manager.kill()
    assert second.process.wait(30) == 1
    assert second.leftovers() == []


def test_nothing_survives_when_up_itself_is_killed(launch: Launch, second_var: Path) -> None:
    service = launch(second_var)
    service.remember()
    service.process.kill()
    service.process.wait(10)
    wait_for(
        lambda: not [p for p in service.seen if p.is_running() and p.status() != "zombie"], 40, "all are gone"
    )
    again = launch(second_var)  # neither lock nor file is in the way
    again.remember()
    assert again.stop() == 0
    assert again.leftovers() == []


def test_open_streams_finish_before_the_end(launch: Launch, second_var: Path) -> None:
    service = launch(second_var)
    # A request whose body is still on its way keeps its stream open for as long as we like.
    body = b'{"model": "auto", "messages": [{"role": "user", "content": "What is a tide gate?"}]}'
    let_go = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield body[:20]
        let_go.wait(20)
        yield body[20:]

    statuses: list[int] = []

    def work() -> None:
        with service.client() as client:
            headers = {"content-type": "application/json"}
            statuses.append(
                client.post("/v1/chat/completions", content=slowly(), headers=headers).status_code
            )

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)  # the request has to be on its way; nothing tells from outside that it is
    service.remember()
    service.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "Waiting for 1 open request" in service.output.read_text(), 10, "the drain waits")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.base_url}/health/ready")
    let_go.set()
    thread.join()
    assert statuses == [200]
    assert service.process.wait(60) == 0
    assert service.leftovers() == []


def test_the_process_list_shows_no_secret(duo: Service) -> None:
    secrets = [path.read_text().strip() for path in (duo.var / "secrets").iterdir()]
    words = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [value for value in secrets if value in words]
