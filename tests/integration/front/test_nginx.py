"""examples/front/nginx.conf in a real nginx, in front of small servers of events and of calls: nothing is held back."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from gateway.proto import chat_pb2, chat_pb2_grpc
from tests.fakes.certificates import make_pair
from tests.fakes.triton_process import free_port

ROOT = Path(__file__).parents[3]
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
if NGINX is None:
    pytest.skip("nginx (Debian's nginx-light) is not installed", allow_module_level=True)


class EventServer:
    """Sends one event, and the next only when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.heads: list[str] = []
        self.has_left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                b"d\r\ndata: first\n\n\r\n"
            )
            await writer.drain()
            left = asyncio.create_task(reader.read(1))
            went = asyncio.create_task(self.go_on.wait())
            await asyncio.wait({left, went}, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                self.has_left.set()
            else:
                writer.write(b"e\r\ndata: second\n\n\r\n0\r\n\r\n")
                await writer.drain()
            for task in (left, went):
                task.cancel()
        writer.close()


@contextlib.contextmanager
def nginx_before(inner: int, folder: Path) -> Iterator[int]:
    """A running nginx with the example's configuration; yields its port."""
    assert NGINX is not None
    port = free_port()
    make_pair(folder, "DNS:localhost", certificate="tls.crt", key="tls.key")
    site = (ROOT / "examples" / "front" / "nginx.conf").read_text()
    site = site.replace("127.0.0.1:8080", f"127.0.0.1:{inner}").replace("8443 ssl", f"127.0.0.1:{port} ssl")
    site = site.replace("/etc/nginx/tls", str(folder))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    log = folder / "error.log"
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {log};\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}{site}\n}}\n"
    )
    nginx = subprocess.Popen([NGINX, "-e", str(log), "-c", str(config)])
    try:
        deadline_s = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert nginx.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        yield port
    finally:
        nginx.terminate()
        nginx.wait(10)


@pytest_asyncio.fixture
async def front(tmp_path: Path) -> AsyncIterator[tuple[EventServer, str, Path]]:
    events, inner = EventServer(), free_port()
    server = await asyncio.start_server(events.serve, "127.0.0.1", inner)
    try:
        with nginx_before(inner, tmp_path) as port:
            yield events, f"https://localhost:{port}/v1/chat/completions", tmp_path / "tls.crt"
    finally:
        server.close()


def curl(url: str, certificate: Path) -> list[str]:
    """A client that speaks HTTP/2; httpx's needs a package that is not ours."""
    return ["curl", "--silent", "--no-buffer", "--http2", "--include", "--cacert", str(certificate), url]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_an_event_arrives_over_http2_before_the_next_one_is_made(
    front: tuple[EventServer, str, Path],
) -> None:
    events, url, certificate = front
    client = await asyncio.create_subprocess_exec(*curl(url, certificate), stdout=asyncio.subprocess.PIPE)
    assert client.stdout is not None
    async with asyncio.timeout(20):
        assert (await client.stdout.readline()).startswith(b"HTTP/2 200")
        while (await client.stdout.readline()) != b"data: first\n":
            pass
        events.go_on.set()
        assert b"data: second\n" in await client.stdout.read()
        await client.wait()


async def test_a_client_that_leaves_is_told_to_the_service(front: tuple[EventServer, str, Path]) -> None:
    events, url, certificate = front
    async with (
        httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(certificate))) as client,
        client.stream("GET", url) as answer,
    ):
        async for line in answer.aiter_lines():
            assert line == "data: first"
            break
    async with asyncio.timeout(10):
        await events.has_left.wait()
    assert "connection: close" not in events.heads[0].lower()


class CallServer(chat_pb2_grpc.ChatServiceServicer):  # type: ignore[misc]
    """Answers a call with one event, and the next only when the test says so; without a model it refuses."""

    def __init__(self) -> None:
        self.go_on, self.has_left = asyncio.Event(), asyncio.Event()
        self.metadata: dict[str, str] = {}

    async def Chat(
        self, request: chat_pb2.ChatRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[chat_pb2.ChatEvent]:
        self.metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        if not request.model:
            trailing = (("x-request-id", "r-1"),)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Later.", trailing_metadata=trailing)
        try:
            yield chat_pb2.ChatEvent(delta=chat_pb2.Delta(text="first"))
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.has_left.set()
            raise
        yield chat_pb2.ChatEvent(delta=chat_pb2.Delta(text="second"))
        yield chat_pb2.ChatEvent(done=chat_pb2.Done())


@pytest_asyncio.fixture
async def calls(tmp_path: Path) -> AsyncIterator[tuple[CallServer, grpc.aio.Channel]]:
    """The server, and a client's channel that ends at nginx."""
    servicer, server, healthy = CallServer(), grpc.aio.server(), health.HealthServicer()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    inner = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with nginx_before(inner, tmp_path) as port:
            certificate = grpc.ssl_channel_credentials((tmp_path / "tls.crt").read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{port}", certificate) as channel:
                yield servicer, channel
    finally:
        await server.stop(None)


async def test_a_call_arrives_before_the_next_event_is_made(
    calls: tuple[CallServer, grpc.aio.Channel],
) -> None:
    server, channel = calls
    stub = chat_pb2_grpc.ChatServiceStub(channel)  # type: ignore[no-untyped-call]
    stream = stub.Chat(
        chat_pb2.ChatRequest(model="fast"), timeout=20, metadata=(("authorization", "Bearer k"),)
    )
    assert (await stream.read()).delta.text == "first"
    server.go_on.set()
    assert (await stream.read()).delta.text == "second"
    assert (await stream.read()).WhichOneof("event") == "done"
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK
    assert server.metadata["authorization"] == "Bearer k"


async def test_a_refusal_keeps_its_status_words_and_trailing_metadata(
    calls: tuple[CallServer, grpc.aio.Channel],
) -> None:
    stub = chat_pb2_grpc.ChatServiceStub(calls[1])  # type: ignore[no-untyped-call]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Chat(chat_pb2.ChatRequest(), timeout=20).read()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == "Later."
    assert ("x-request-id", "r-1") in tuple(refused.value.trailing_metadata())


async def test_a_call_that_is_left_is_told_to_the_service(
    calls: tuple[CallServer, grpc.aio.Channel],
) -> None:
    server, channel = calls
    stub = chat_pb2_grpc.ChatServiceStub(channel)  # type: ignore[no-untyped-call]
    stream = stub.Chat(chat_pb2.ChatRequest(model="fast"), timeout=20)
    assert (await stream.read()).delta.text == "first"
    stream.cancel()
    async with asyncio.timeout(10):
        await server.has_left.wait()


async def test_health_is_asked_through_it_too(calls: tuple[CallServer, grpc.aio.Channel]) -> None:
    reply = await health_pb2_grpc.HealthStub(calls[1]).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
