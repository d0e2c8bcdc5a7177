"""The open files of a real Envoy: whatever clients do, it does not run out of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.settings import load_settings
from gateway.supervise.binaries import BinaryMissing, find_envoy
from gateway.supervise.render import FileShares
from tests.integration.supervise.test_edge import Edge, running_edge
from tests.waiting import until

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)

CHAT = "/v1/chat/completions"
OPEN_FILES = 900
THREADS = 2  # of Envoy
SHARES = FileShares.of(OPEN_FILES)


@contextlib.contextmanager
def holding(edge: Edge) -> Iterator[None]:
    """Within, workers answer nobody but who asks for their health, until they let go."""
    for worker in edge.workers:
        worker.behave = "hold"
    try:
        yield
    finally:
        let_go(edge)


def let_go(edge: Edge) -> None:
    for worker in edge.workers:
        worker.behave = "answer"
        worker.let_go.set()


async def end(tasks: list[asyncio.Task[httpx.Response]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_http2_streams_beyond_the_open_files_are_refused_at_once_and_envoy_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine of many cores so few files would not be enough for an idle connection of every thread.
    monkeypatch.setattr(os, "cpu_count", lambda: 2 * THREADS)
    async with running_edge(tmp_path, open_files=OPEN_FILES) as edge, contextlib.AsyncExitStack() as stack:
        stack.enter_context(holding(edge))
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=edge.base_url,
                    http1=False,
                    http2=True,
                    limits=httpx.Limits(max_connections=1),
                    timeout=60,
                )
            )
            for _ in range(10)  # httpx has no more than 100 streams on each
        ]
        # Without bodies: httpx fails where an answer comes before it has sent one.
        tasks = [asyncio.create_task(client.get(CHAT)) for _ in range(100) for client in clients]
        stack.push_async_callback(end, tasks)

        def is_settled() -> bool:
            return sum(task.done() for task in tasks) + edge.num_requests() == len(tasks)

        envoy = edge.processes[0]
        await until(lambda: is_settled() or envoy.poll() is not None, "that each is refused or at a worker")
        assert envoy.poll() is None, "Envoy has ended"
        refused = [task.result() for task in tasks if task.done()]
        assert {answer.status_code for answer in refused} == {503}
        assert {answer.json()["error"]["code"] for answer in refused} == {"overloaded"}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert SHARES.streams <= edge.num_requests() <= SHARES.streams + THREADS
        async with httpx.AsyncClient(base_url=edge.base_url) as client:
            assert (await client.get("/health/ready")).status_code == 200, "whoever watches still sees it"
            assert (await client.post(CHAT, json={})).status_code == 503
            let_go(edge)
            answers = Counter(answer.status_code for answer in await asyncio.gather(*tasks))
            assert answers == {503: len(refused), 200: len(tasks) - len(refused)}
            assert {(await client.post(CHAT, json={})).status_code for _ in range(20)} == {200}
        assert envoy.poll() is None


async def test_as_many_clients_of_http1_as_may_connect_all_get_through(tmp_path: Path) -> None:
    async with running_edge(tmp_path, open_files=OPEN_FILES) as edge, contextlib.AsyncExitStack() as stack:
        stack.enter_context(holding(edge))
        connections = await asyncio.gather(
            *[asyncio.open_connection("127.0.0.1", edge.settings.port) for _ in range(SHARES.connections)]
        )
        for _, writer in connections:
            stack.callback(writer.close)
        for _, writer in connections:
            writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
        await until(lambda: edge.num_requests() == len(connections), "that each is at a worker", within_s=30)
        let_go(edge)
        heads = await asyncio.gather(*[reader.readline() for reader, _ in connections])
        assert set(heads) == {b"HTTP/1.1 200 OK\r\n"}
