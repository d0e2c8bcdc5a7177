"""examples/front/nginx.conf in a real nginx, in front of a small server of events: nothing is held back."""

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

import httpx
import pytest
import pytest_asyncio

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
