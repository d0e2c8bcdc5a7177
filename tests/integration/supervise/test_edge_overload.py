"""The caps of the edge, met by a real Envoy with scripted workers behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from pathlib import Path

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.settings import load_settings
from gateway.supervise.binaries import BinaryMissing, find_envoy
from gateway.supervise.edge import Edge as Admin
from tests.integration.supervise.test_edge import Edge, edge, running_edge
from tests.waiting import until

__all__ = ["edge"]

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)

CHAT = "/v1/chat/completions"
KIB = 2**10


async def stat(edge: Edge, name: str) -> int:
    url = f"http://127.0.0.1:{edge.settings.envoy_admin_port}/stats?filter=^{name}$"
    async with httpx.AsyncClient() as client:
        return int((await client.get(url)).text.rpartition(":")[2] or 0)


async def test_beyond_the_outer_wall_a_request_is_refused_in_our_shape(tmp_path: Path) -> None:
    async with (
        running_edge(tmp_path, edge_requests_per_s=10) as edge,
        httpx.AsyncClient(base_url=edge.base_url) as client,
    ):
        answers = [await client.post(CHAT, json={}) for _ in range(60)]
        seen = Counter(answer.status_code for answer in answers)
        assert set(seen) == {200, 503}
        assert 20 <= seen[200] <= 40, seen  # a burst of two seconds' worth, and what came in meanwhile
        assert edge.num_requests() == seen[200], "what is refused costs the gateway nothing"
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.json()["error"]["type"] == "overloaded_error"
        assert refused.headers["retry-after"] == "1"


async def test_beyond_the_outer_wall_a_grpc_call_is_refused_with_our_code(tmp_path: Path) -> None:
    async with (
        running_edge(tmp_path, edge_requests_per_s=1) as edge,
        grpc.aio.insecure_channel(f"127.0.0.1:{edge.settings.port}") as channel,
    ):
        reasons = set()
        for _ in range(10):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_stream("/tidegate.v1.ChatService/Chat")(b"", timeout=10).read()
            status = rpc_status.from_call(caught.value)
            if status is None:
                continue  # what our scripted workers answer to gRPC
            info = error_details_pb2.ErrorInfo()
            status.details[0].Unpack(info)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            reasons.add(info.reason)
        assert "overloaded" in reasons


async def test_whoever_watches_the_service_sees_it_through_a_flood(tmp_path: Path) -> None:
    async with (
        running_edge(tmp_path, edge_requests_per_s=1) as edge,
        httpx.AsyncClient(base_url=edge.base_url) as client,
    ):
        for _ in range(10):
            await client.post(CHAT, json={})
        answers = [await client.get("/health/ready") for _ in range(10)]
        assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/health/ready"), ("POST", "/health/x"), ("GET", "/health/x")]
)
async def test_what_only_looks_like_a_look_at_health_meets_the_wall(
    tmp_path: Path, method: str, path: str
) -> None:
    async with (
        running_edge(tmp_path, edge_requests_per_s=1) as edge,
        httpx.AsyncClient(base_url=edge.base_url) as client,
    ):
        answers = [await client.request(method, path) for _ in range(30)]
        refused = [answer.json()["error"]["code"] for answer in answers if answer.status_code == 503]
        assert refused
        assert set(refused) == {"overloaded"}
        assert edge.num_requests() <= 30 - len(refused), "what is refused costs the gateway nothing"


async def test_without_a_rate_there_is_no_wall(tmp_path: Path) -> None:
    async with (
        running_edge(tmp_path, edge_requests_per_s=0) as edge,
        httpx.AsyncClient(base_url=edge.base_url) as client,
    ):
        assert {(await client.post(CHAT, json={})).status_code for _ in range(50)} == {200}


async def test_connections_beyond_the_cap_are_closed_and_a_freed_place_is_taken(tmp_path: Path) -> None:
    async with running_edge(tmp_path, edge_connections=16) as edge, contextlib.AsyncExitStack() as stack:
        held = [await asyncio.open_connection("127.0.0.1", edge.settings.port) for _ in range(16)]
        for _, writer in held:
            stack.callback(writer.close)
        await until_stat(edge, "http.edge.downstream_cx_active", 16)
        async with httpx.AsyncClient(base_url=edge.base_url) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get("/v1/models")
            held[0][1].close()
            await until_stat(edge, "http.edge.downstream_cx_active", 15)
            assert (await client.get("/v1/models")).status_code == 200


async def until_stat(edge: Edge, name: str, wanted: int) -> None:
    deadline_s = time.monotonic() + 5
    while await stat(edge, name) != wanted:
        assert time.monotonic() < deadline_s, f"{name} is {await stat(edge, name)}, not {wanted}"
        await asyncio.sleep(0.02)


def tiny_heap(config: str) -> str:
    """So small that accepting new work stops at once, and connections are still taken."""
    assert "envoy.overload_actions.stop_accepting_connections" in config
    config = config.replace("max_heap_size_bytes: 2147483648", "max_heap_size_bytes: 1024")
    start = config.index("    - name: envoy.overload_actions.stop_accepting_connections")
    return config[:start] + config[config.index("static_resources:") :]


async def test_when_memory_runs_out_new_requests_are_refused_in_our_shape(tmp_path: Path) -> None:
    async with (
        running_edge(tmp_path, tiny_heap) as edge,
        httpx.AsyncClient(base_url=edge.base_url) as client,
    ):
        deadline_s = time.monotonic() + 5  # Envoy looks at its memory four times a second
        while (answer := await client.post(CHAT, json={})).status_code == 200:
            assert time.monotonic() < deadline_s
        num_before = edge.num_requests()
        answer = await client.post(CHAT, json={})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "overloaded"
        assert answer.headers["retry-after"] == "1"
        assert edge.num_requests() == num_before


async def test_a_stream_that_breaks_after_its_first_byte_is_never_sent_again(edge: Edge) -> None:
    for worker in edge.workers:
        worker.behave = "cut"
    async with httpx.AsyncClient(base_url=edge.base_url) as client:
        for number in range(1, 5):
            seen = b""
            async with client.stream("POST", CHAT, json={}) as answer:
                with contextlib.suppress(httpx.RemoteProtocolError):
                    async for piece in answer.aiter_raw():
                        seen += piece
            assert seen == b"data: first\n\n"
            assert edge.num_requests() == number


async def test_a_body_too_large_to_keep_is_refused_in_our_shape_when_its_worker_dies(edge: Edge) -> None:
    """Between two tries Envoy keeps what came of a body, up to its buffer: what is more ends the request, with 507."""
    for worker in edge.workers:
        await worker.stop()  # listens no more, while Envoy still believes in it
    async with httpx.AsyncClient(base_url=edge.base_url) as client:
        for _ in range(20):
            answer = await client.post(CHAT, content=b" " * (512 * KIB))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
            assert answer.headers["retry-after"] == "1"
    assert edge.num_requests() == 0


async def test_a_client_that_reads_nothing_holds_little_and_stops_the_worker(edge: Edge) -> None:
    """What the worker could get rid of: Envoy's two buffers, and the kernel's on both of its sides."""
    for worker in edge.workers:
        worker.behave = "pump"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", edge.settings.port))
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
        taken = await settled(edge)
    assert taken < 768 * KIB


async def settled(edge: Edge, quiet_s: float = 0.5) -> int:
    """Bytes pumped when no more are taken."""
    deadline_s = time.monotonic() + 20
    last, since_s = -1, 0.0
    while time.monotonic() < deadline_s:
        now = sum(worker.num_pumped for worker in edge.workers)
        if now != last:
            last, since_s = now, time.monotonic()
        elif now and time.monotonic() - since_s > quiet_s:
            return now
        await asyncio.sleep(0.02)
    raise AssertionError(f"the worker never stopped; {last} bytes")


async def test_one_http2_connection_opens_no_more_streams_than_its_cap(tmp_path: Path) -> None:
    """The rest waits in the client, as HTTP/2 has it."""

    def few_streams(config: str) -> str:
        return config.replace("max_concurrent_streams: 1024", "max_concurrent_streams: 3")

    async with running_edge(tmp_path, few_streams) as edge:
        for worker in edge.workers:
            worker.behave = "hang"
        async with httpx.AsyncClient(
            base_url=edge.base_url, http1=False, http2=True, limits=httpx.Limits(max_connections=1)
        ) as client:
            tasks = [asyncio.create_task(client.post(CHAT, json={}, timeout=5)) for _ in range(6)]
            await until(lambda: edge.num_requests() == 3)
            assert await stat(edge, "http.edge.downstream_rq_active") == 3
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_degraded_worker_gets_requests_only_when_all_are(edge: Edge) -> None:
    """A worker that is short of memory says so in its health, and refuses: it must not draw what others can take."""
    first, second = edge.workers
    async with httpx.AsyncClient(base_url=edge.base_url) as client:
        first.health_headers = "x-envoy-degraded: memory\r\n"
        await until_stat(edge, "cluster.gateway.membership_degraded", 1)
        assert {(await client.get("/v1/models")).json()["port"] for _ in range(20)} == {second.port}
        second.health_headers = first.health_headers
        await until_stat(edge, "cluster.gateway.membership_degraded", 2)
        seen = {(await client.get("/v1/models")).json()["port"] for _ in range(20)}
        assert seen == {first.port, second.port}


async def test_several_processes_share_the_port_and_drain_together(tmp_path: Path) -> None:
    async with running_edge(tmp_path, edge_processes=2) as edge:
        ports = [edge.settings.edge_admin_port(index) for index in (0, 1)]
        for _ in range(40):  # each on a connection of its own
            assert (await asyncio.to_thread(httpx.get, edge.base_url + "/v1/models")).status_code == 200
        totals = []
        async with httpx.AsyncClient() as client:
            for port in ports:
                url = f"http://127.0.0.1:{port}/stats?filter=^http.edge.downstream_rq_total$"
                totals.append(int((await client.get(url)).text.rpartition(":")[2]))
        assert sum(totals) == 40
        assert all(totals), totals
        admin = Admin(edge.settings)
        assert await asyncio.to_thread(admin.num_open_requests) == 0
        await asyncio.to_thread(admin.drain)
        for _ in range(4):
            with pytest.raises(httpx.ConnectError):
                await asyncio.to_thread(httpx.get, edge.base_url + "/v1/models")
