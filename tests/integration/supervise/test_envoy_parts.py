"""`tidegate run edge` and `run balancer` with a real Envoy: how each starts, serves and ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from gateway.settings import Settings, load_settings
from gateway.supervise.binaries import BinaryMissing, find_envoy
from tests.fakes.parts import PartProcess, running_part, status_of
from tests.fakes.replica import Replica
from tests.integration.supervise.test_edge import port_with_room
from tests.waiting import until

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)

pytestmark = pytest.mark.timeout(120)

SOON_S = 5.0  # an end that waits for nothing, on a busy machine
DRAIN_S = 30.0


class Worker:
    """A gateway worker that is always ready, and whose streams go on until they are told to end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.may_end = asyncio.Event()
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def stop(self) -> None:
        self.may_end.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/health/ready" in head or b"/v1/models" in head:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                while not self.may_end.is_set():
                    writer.write(b"1\r\n.\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.05)
                writer.write(b"4\r\nlast\r\n0\r\n\r\n")
        writer.close()


class Edge:
    def __init__(self, settings: Settings, part: PartProcess, worker: Worker) -> None:
        self.settings, self.part, self.worker = settings, part, worker
        self.url = f"http://127.0.0.1:{settings.port}"
        self.ready_url = f"http://127.0.0.1:{settings.envoy_stats_port}/ready"

    async def ready(self) -> int:
        return await asyncio.to_thread(status_of, self.ready_url)

    async def end(self, limit_s: float) -> int:
        return await asyncio.to_thread(self.part.end, limit_s)


@contextlib.asynccontextmanager
async def running_edge(folder: Path, drain_s: float = DRAIN_S) -> AsyncIterator[Edge]:
    port = port_with_room(290)
    settings = load_settings({}, var=folder, port=port, gateway_host="127.0.0.1", drain_s=drain_s)
    worker = Worker(settings.worker_port(0))
    await worker.start()
    try:
        with running_part("edge", settings) as part:
            edge = Edge(settings, part, worker)
            await asyncio.to_thread(part.until_ready, edge.ready_url)
            deadline_s = time.monotonic() + 20
            while await asyncio.to_thread(status_of, f"{edge.url}/v1/models") != 200:
                assert time.monotonic() < deadline_s, part.output
            yield edge
    finally:
        await worker.stop()


class Reading:
    """A caller that reads one stream to its end."""

    def __init__(self, edge: Edge) -> None:
        self.text = ""
        self.task = asyncio.create_task(self._read(edge.url))

    async def _read(self, url: str) -> None:
        chat = f"{url}/v1/chat/completions"
        async with httpx.AsyncClient(timeout=30) as client, client.stream("POST", chat, json={}) as answer:
            async for piece in answer.aiter_text():
                self.text += piece

    async def begun(self) -> None:
        await until(lambda: "first" in self.text)


async def is_closed(edge: Edge) -> bool:
    """Whether a new caller gets no connection."""
    return await asyncio.to_thread(status_of, f"{edge.url}/v1/models") == 0


async def test_the_edge_is_not_ready_first_then_lets_open_streams_end(tmp_path: Path) -> None:
    async with running_edge(tmp_path) as edge:
        readings = [Reading(edge) for _ in range(3)]
        for reading in readings:
            await reading.begun()
        edge.part.terminate()
        deadline_s = time.monotonic() + SOON_S
        while not (await edge.ready() == 503 and await is_closed(edge)):
            assert time.monotonic() < deadline_s
        lengths = [len(reading.text) for reading in readings]
        await until(
            lambda: all(len(each.text) > length for each, length in zip(readings, lengths, strict=True))
        )
        assert edge.part.process.poll() is None
        edge.worker.may_end.set()
        for reading in readings:
            await reading.task
            assert reading.text.endswith("last")
        assert await edge.end(SOON_S) == 0


async def test_the_edge_without_open_streams_ends_at_once(tmp_path: Path) -> None:
    async with running_edge(tmp_path) as edge:
        edge.part.terminate()
        assert await edge.end(SOON_S) == 0


async def test_a_stream_that_outlasts_the_drain_is_cut(tmp_path: Path) -> None:
    async with running_edge(tmp_path, drain_s=2.0) as edge:
        reading = Reading(edge)
        await reading.begun()
        told_s = time.monotonic()
        edge.part.terminate()
        assert await edge.end(2.0 + SOON_S) == 0
        assert time.monotonic() - told_s > 2.0
        with pytest.raises(httpx.HTTPError):
            await reading.task
        assert "last" not in reading.text


async def test_a_second_signal_ends_the_wait(tmp_path: Path) -> None:
    async with running_edge(tmp_path) as edge:
        reading = Reading(edge)
        await reading.begun()
        edge.part.terminate()
        deadline_s = time.monotonic() + SOON_S
        while await edge.ready() != 503:
            assert time.monotonic() < deadline_s
        edge.part.terminate()
        assert await edge.end(SOON_S) == 0
        with pytest.raises(httpx.HTTPError):
            await reading.task


async def test_an_envoy_that_dies_takes_its_part_with_it(tmp_path: Path) -> None:
    async with running_edge(tmp_path) as edge:
        edge.part.child("envoy").kill()
        assert await edge.end(SOON_S) == 1


async def test_a_part_that_is_killed_leaves_no_envoy(tmp_path: Path) -> None:
    async with running_edge(tmp_path) as edge:
        envoy = edge.part.child("envoy")
        edge.part.process.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            await asyncio.to_thread(envoy.wait, SOON_S)
        assert await edge.ready() == 0


async def test_the_balancer_passes_calls_on_and_ends_at_once(tmp_path: Path) -> None:
    """It stops after those that it serves, so it waits for nobody."""
    port = port_with_room(307)
    settings = load_settings({}, var=tmp_path, port=port, triton_hosts="127.0.0.1", drain_s=DRAIN_S)
    grpc_port, _, _, guard_port = settings.triton_ports(0)
    replica = Replica(grpc_port, guard_port)
    await replica.start()
    try:
        with running_part("balancer", settings) as part:
            await asyncio.to_thread(part.until_ready, f"http://127.0.0.1:{settings.envoy_stats_port}/ready")
            async with grpc.aio.insecure_channel(settings.triton_target) as channel:
                call = channel.unary_stream("/inference.GRPCInferenceService/ModelStreamInfer")
                deadline_s = time.monotonic() + 20
                messages: list[bytes] = []
                while not messages:  # until it has found the replica healthy
                    assert time.monotonic() < deadline_s, part.output
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        messages = [each async for each in call(b"question", timeout=5)]
                assert messages == [b"1", b"2"]
                replica.behave = "headers message hang"
                held = call(b"question", timeout=60)
                assert await held.read() == b"1"
                part.terminate()
                assert await asyncio.to_thread(part.end, SOON_S) == 0
                with pytest.raises(grpc.aio.AioRpcError):
                    await held.read()
    finally:
        await replica.stop()
