"""The inner listener of a real Envoy, with scripted Triton replicas behind it: what is tried again, and what never."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio

from gateway.settings import Settings, load_settings
from gateway.supervise import render
from gateway.supervise.assets import find_assets
from gateway.supervise.binaries import BinaryMissing, find_envoy
from tests.fakes.replica import Replica
from tests.integration.supervise.test_edge import port_with_room
from tests.waiting import until

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
WHOLE = "headers message message ok"


@dataclass
class Balancer:
    settings: Settings
    replicas: list[Replica]
    channel: grpc.aio.Channel

    def behave(self, first: str, second: str = WHOLE) -> None:
        self.replicas[0].behave, self.replicas[1].behave = first, second

    def num_calls(self) -> int:
        return sum(replica.num_calls for replica in self.replicas)

    async def call(self, timeout_s: float = 5.0) -> tuple[list[bytes], grpc.StatusCode]:
        """The messages that arrived and the status behind them."""
        call = self.channel.unary_stream(METHOD)(b"question", timeout=timeout_s)
        messages = []
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for each in call:
                messages.append(each)
        return messages, await call.code()

    async def stat(self, name: str) -> int:
        url = f"http://127.0.0.1:{self.settings.envoy_admin_port}/stats?filter=^{name}$"
        async with httpx.AsyncClient() as client:
            return int((await client.get(url)).text.rpartition(":")[2] or 0)


def few_calls(config: str) -> str:
    """With a limit that a test can reach."""
    return config.replace("max_requests: 1024", "max_requests: 2")


@contextlib.asynccontextmanager
async def running(
    folder: Path, change: Callable[[str], str] = lambda config: config, **explicit: object
) -> AsyncIterator[Balancer]:
    settings = load_settings({}, var=folder, port=port_with_room(307), triton_replicas=2, **explicit)
    replicas = [Replica(ports[0], ports[3]) for ports in map(settings.triton_ports, (0, 1))]
    for replica in replicas:
        await replica.start()
    for made in (settings.run_dir, settings.log_dir):
        made.mkdir(parents=True)
    config = settings.run_dir / "envoy.yaml"
    config.write_text(change(render.render_envoy(settings, find_assets())))
    with (folder / "envoy.log").open("wb") as log:
        command = render.envoy_command(settings, config)
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - returns at once
    channel = grpc.aio.insecure_channel(settings.triton_target)
    try:
        balancer = Balancer(settings, replicas, channel)
        await _both_healthy(balancer)
        yield balancer
    finally:
        await channel.close()
        process.terminate()
        process.wait(10)
        for replica in replicas:
            await replica.stop()


async def _both_healthy(balancer: Balancer) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            if await balancer.stat("cluster.triton.membership_healthy") == 2:
                return
        await asyncio.sleep(0.05)
    raise AssertionError("Envoy did not find both replicas healthy")


@pytest_asyncio.fixture
async def balancer(tmp_path: Path) -> AsyncIterator[Balancer]:
    async with running(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "ending", ["cut", "reset", "refuse_stream", "unavailable"], ids=lambda word: f"then_{word}"
)
async def test_a_stream_that_breaks_after_its_first_message_is_never_sent_again(
    balancer: Balancer, ending: str
) -> None:
    """Not even by what Envoy would retry before it: the reader would see the beginning twice."""
    balancer.behave(f"headers message {ending}", f"headers message {ending}")
    for number in range(1, 5):
        messages, code = await balancer.call()
        assert (messages, code is grpc.StatusCode.OK) == ([b"1"], False)
        assert balancer.num_calls() == number
    assert await balancer.stat("cluster.triton.upstream_rq_retry") == 0


async def test_a_stream_that_breaks_after_its_headers_is_not_sent_again(balancer: Balancer) -> None:
    balancer.behave("headers cut", "headers cut")
    messages, code = await balancer.call()
    assert (messages, code is grpc.StatusCode.OK, balancer.num_calls()) == ([], False, 1)


async def test_a_call_that_a_replica_took_and_died_of_is_not_carried_to_the_next_one(
    balancer: Balancer,
) -> None:
    """It could be what killed it: the gateway, which knows the request, decides on its one further try."""
    balancer.behave("cut", "cut")
    messages, code = await balancer.call()
    assert (messages, code, balancer.num_calls()) == ([], grpc.StatusCode.UNAVAILABLE, 1)


@pytest.mark.parametrize("start", ["refuse_stream", "unavailable"], ids=str)
async def test_a_call_that_is_refused_before_its_first_byte_goes_to_the_other_replica(
    balancer: Balancer, start: str
) -> None:
    balancer.behave(start)
    for _ in range(4):
        messages, code = await balancer.call()
        assert (len(messages), code) == (2, grpc.StatusCode.OK)
    assert balancer.replicas[1].num_calls == 4


async def test_a_replica_out_of_reach_is_taken_out_though_its_guard_believes_in_it(
    balancer: Balancer,
) -> None:
    await balancer.replicas[0].stop_serving()
    deadline_s = time.monotonic() + 10
    while await balancer.stat("cluster.triton.outlier_detection.ejections_active") == 0:
        assert time.monotonic() < deadline_s
        messages, code = await balancer.call()
        assert (len(messages), code) == (2, grpc.StatusCode.OK)
    assert await balancer.stat("cluster.triton.membership_healthy") == 1
    await balancer.replicas[0].serve_again()
    before = balancer.replicas[0].num_calls
    while balancer.replicas[0].num_calls == before:  # 5 s after it was taken out
        assert time.monotonic() < deadline_s + 10
        messages, code = await balancer.call()
        assert (len(messages), code) == (2, grpc.StatusCode.OK)


async def test_of_two_replicas_out_of_reach_one_stays_in(balancer: Balancer) -> None:
    """Were both taken out, nobody would find out that they are back."""
    for replica in balancer.replicas:
        await replica.stop_serving()
    for _ in range(12):
        messages, code = await balancer.call()
        assert (messages, code) == ([], grpc.StatusCode.UNAVAILABLE)
    assert await balancer.stat("cluster.triton.outlier_detection.ejections_active") == 1
    for replica in balancer.replicas:
        await replica.serve_again()
    assert (await balancer.call())[1] is grpc.StatusCode.OK


async def test_calls_beyond_the_breaker_are_refused_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, few_calls) as balancer:
        balancer.behave("headers message hang", "headers message hang")
        held = [asyncio.create_task(balancer.call(timeout_s=20)) for _ in range(2)]
        await until(lambda: balancer.num_calls() == 2)
        started_s = time.monotonic()
        messages, code = await balancer.call()
        assert (messages, code) == ([], grpc.StatusCode.UNAVAILABLE)
        assert time.monotonic() - started_s < 2  # those that are held last twenty
        assert balancer.num_calls() == 2
        for task in held:
            task.cancel()
