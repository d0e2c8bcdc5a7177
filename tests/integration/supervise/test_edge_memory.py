"""What a real Envoy gives up as its memory fills, mark by mark, and that it takes everything back.

The marks are those of the rendered configuration. How full memory is comes from a file, in the place of the heap: a
heap cannot be held at 93 % by a test. That the heap itself is what counts is in test_edge_overload.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio

from gateway.settings import load_settings
from gateway.supervise.binaries import BinaryMissing, find_envoy
from tests.integration.supervise.test_balancer import METHOD, WHOLE
from tests.integration.supervise.test_balancer import running as running_balancer
from tests.integration.supervise.test_edge import Edge, running_edge
from tests.integration.supervise.test_edge_overload import CHAT, settled, stat, until_stat
from tests.waiting import until

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)

HEAP, FROM_FILE = "envoy.resource_monitors.fixed_heap", "envoy.resource_monitors.injected_resource"
ACTIONS = "overload.envoy.overload_actions"
IN_ORDER = {  # by the share of memory from which on it is done in full
    "shrink_heap": 0.85,
    "disable_http_keepalive": 0.90,
    "reduce_timeouts": 0.92,
    "stop_accepting_requests": 0.95,
    "stop_accepting_connections": 0.98,
    "reset_high_memory_stream": 0.99,
}


class Memory:
    """The share in use that Envoy reads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._draft = folder / "memory", folder / "memory.draft"
        self.put(0.0)

    def put(self, share: float) -> None:
        self._draft.write_text(str(share))
        os.replace(self._draft, self._file)  # Envoy looks when a file takes the place

    def change(self, config: str) -> str:
        """The configuration with the file in the place of the heap."""
        start = config.index(f"    - name: {HEAP}\n")
        end = config.index("  buffer_factory_config")
        kind = "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig"
        monitor = (
            f"    - name: {FROM_FILE}\n      typed_config:\n"
            f'        "@type": {kind}\n        filename: {self._file}\n'
        )
        return (config[:start] + monitor + config[end:]).replace(f"name: {HEAP},", f"name: {FROM_FILE},")


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "memory")


@pytest_asyncio.fixture
async def edge(tmp_path: Path, memory: Memory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path / "edge", memory.change) as made:
        yield made


async def actions(port: int) -> set[str]:
    """Those that are done in full. port: Envoy's admin port."""
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}/stats?filter=^{ACTIONS}.*active$"
        lines = (await client.get(url)).text.splitlines()
    return {line.split(".")[3] for line in lines if line.endswith(": 1")}


async def until_actions(port: int, wanted: set[str]) -> None:
    deadline_s = time.monotonic() + 5
    while await actions(port) != wanted:
        assert time.monotonic() < deadline_s, (await actions(port), wanted)
        await asyncio.sleep(0.02)


async def test_things_are_given_up_in_their_order_and_all_taken_back(edge: Edge, memory: Memory) -> None:
    port = edge.settings.envoy_admin_port
    assert list(IN_ORDER.values()) == sorted(IN_ORDER.values())
    for number, mark in enumerate(IN_ORDER.values()):
        memory.put(mark - 0.005)
        await until_actions(port, set(list(IN_ORDER)[:number]))
        memory.put(mark + 0.001)
        await until_actions(port, set(list(IN_ORDER)[: number + 1]))
    memory.put(0.5)
    await until_actions(port, set())


async def test_from_the_second_mark_on_an_answer_ends_its_connection(edge: Edge, memory: Memory) -> None:
    async with httpx.AsyncClient(base_url=edge.base_url) as client:
        assert "connection" not in (await client.get("/v1/models")).headers
        memory.put(0.91)
        await until_stat(edge, f"{ACTIONS}.disable_http_keepalive.active", 1)
        answer = await client.get("/v1/models")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        memory.put(0.5)
        await until_stat(edge, f"{ACTIONS}.disable_http_keepalive.active", 0)
        assert "connection" not in (await client.get("/v1/models")).headers


async def test_idle_connections_are_closed_and_busy_ones_are_not(edge: Edge, memory: Memory) -> None:
    for worker in edge.workers:
        worker.behave = "hang"
    _, idle = await asyncio.open_connection("127.0.0.1", edge.settings.port)
    with contextlib.closing(idle):
        async with httpx.AsyncClient(base_url=edge.base_url) as client:
            busy = asyncio.create_task(client.post(CHAT, json={}, timeout=30))
            await until(lambda: edge.num_requests() == 1)
            await until_stat(edge, "http.edge.downstream_cx_active", 2)
            memory.put(0.94)
            await until_stat(edge, "http.edge.downstream_cx_active", 1)
            assert not busy.done()
            assert await stat(edge, "http.edge.downstream_cx_idle_timeout") == 1
            busy.cancel()
            await asyncio.wait({busy})


async def test_the_streams_that_hold_most_are_reset_and_small_ones_go_on(edge: Edge, memory: Memory) -> None:
    """Of HTTP/2 and gRPC. One over HTTP/1.1 that is not read ends by the worker's own patience."""
    for worker in edge.workers:
        worker.behave = "hang"
    options = {"base_url": edge.base_url, "http1": False, "http2": True, "timeout": 30}
    async with httpx.AsyncClient(**options) as small, httpx.AsyncClient(**options) as large:  # type: ignore[arg-type]
        waits = asyncio.create_task(small.post(CHAT, json={}))
        await until(lambda: edge.num_requests() == 1)
        for worker in edge.workers:
            worker.behave = "pump"
        async with large.stream("POST", CHAT, json={}) as answer:
            await settled(edge)  # as nothing is read
            memory.put(1.0)
            # Envoy looks once, as the mark is passed: a reader who begins before that may hold too little to be reset.
            await until_stat(edge, "envoy.overload_actions.reset_high_memory_stream.count", 1)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in answer.aiter_raw():
                    pass
        assert not waits.done()
        waits.cancel()
        await asyncio.wait({waits})


async def test_at_the_last_mark_nobody_new_is_let_in_and_whoever_waited_is_served_when_it_is_over(
    edge: Edge, memory: Memory
) -> None:
    async with httpx.AsyncClient(base_url=edge.base_url) as known, httpx.AsyncClient() as new:
        assert (await known.get("/v1/models")).status_code == 200
        memory.put(0.985)
        await until_stat(edge, f"{ACTIONS}.stop_accepting_connections.active", 1)
        waits = asyncio.create_task(new.get(edge.base_url + "/v1/models", timeout=30))
        refused = await known.get("/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert (
            await stat(edge, "http.edge.downstream_cx_total") == 1
        )  # which the admin port told, and it answers
        assert not waits.done()
        memory.put(0.5)
        assert (await waits).status_code == 200


async def test_calls_of_triton_are_exempt_from_all_of_it(tmp_path: Path, memory: Memory) -> None:
    """What was let in is finished: calls that are open, new ones, and those on new connections."""
    async with running_balancer(tmp_path / "balancer", memory.change) as balancer:
        balancer.behave("headers message hang", "headers message hang")
        open_call = balancer.channel.unary_stream(METHOD)(b"question", timeout=30)
        assert await open_call.read() == b"1"
        memory.put(1.0)
        await until_actions(balancer.settings.envoy_admin_port, set(IN_ORDER))
        balancer.behave(WHOLE, WHOLE)
        assert await balancer.call() == ([b"1", b"2"], grpc.StatusCode.OK)
        async with grpc.aio.insecure_channel(
            balancer.settings.triton_target, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = channel.unary_stream(METHOD)(b"question", timeout=5)
            assert [message async for message in call] == [b"1", b"2"]
        assert not open_call.done()
        open_call.cancel()
