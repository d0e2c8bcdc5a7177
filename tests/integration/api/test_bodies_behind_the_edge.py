"""Bodies that tell no length, through a real Envoy to a real gateway: they meet the same limits as any other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from gateway.api.decode import LINGER_BYTES
from tests.integration.api.conftest import Gateway
from tests.integration.api.test_behind_the_edge import edge
from tests.integration.supervise.test_edge import Edge
from tests.integration.supervise.test_edge_overload import stat, until_stat
from tests.integration.upstream.raw_server import framed

__all__ = ["edge"]

CHAT, FILES = "/v1/chat/completions", "/v1/files"
KIB, MIB = 2**10, 2**20
PIECE = b" " * (64 * KIB)
PATIENCE_S = 30.0
MAX_SENT_BYTES = LINGER_BYTES + 32 * MIB  # read away, the limit, all buffers on the way
MAX_GATEWAY_BYTES = 16 * MIB  # the limit of 4 MiB, with its copies while it grows
MAX_ENVOY_BYTES = 1 * MIB
BOUNDARY = "gate"
FORM_HEAD = (
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
).encode()
JSON, FORM = "application/json", f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(autouse=True)
async def alone(edge: Edge) -> None:
    """All requests are for the real gateway."""
    edge.workers[1].is_ready = False
    await until_stat(edge, "cluster.gateway.membership_healthy", 1)


@dataclass
class Told:
    """What a client saw that sends for as long as it is let.

    num_sent: bytes until the answer came. is_closing: the server said so, and did.
    """

    status: int = 0
    body: bytes = b""
    num_sent: int = 0
    is_closing: bool = False


async def endless_http1(gateway: Gateway, edge: Edge, method: str, path: str, kind: str) -> Told:
    """A chunked body without end. Read until the server ends the connection, whatever becomes of the writing."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n"
        f"authorization: {gateway.auth()['authorization']}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    first = FORM_HEAD if kind == FORM else b" "
    told, sent = Told(), [0]
    with socket.create_connection(("127.0.0.1", edge.settings.port), PATIENCE_S) as client:

        def pour() -> None:
            with contextlib.suppress(OSError):
                client.sendall(head.encode() + framed(first))
                while True:
                    client.sendall(framed(PIECE))
                    sent[0] += len(PIECE)
                    if not told.num_sent and select.select([client], [], [], 0)[0]:
                        told.num_sent = sent[0]  # seen here at once, where the reader's turn may come late

        def read() -> bytes:
            """Raises: TimeoutError when the connection does not end."""
            seen = b""
            with contextlib.suppress(ConnectionError):  # who goes on sending after the end is told by a reset
                while piece := client.recv(64 * KIB):
                    told.num_sent = told.num_sent or sent[0]
                    seen += piece
            return seen

        pouring = asyncio.create_task(asyncio.to_thread(pour))
        answer, _, told.body = (await asyncio.to_thread(read)).partition(b"\r\n\r\n")
        await pouring
    told.status, told.is_closing = int(answer.split()[1]), b"connection: close" in answer
    return told


async def endless_http2(gateway: Gateway, edge: Edge, method: str, path: str, kind: str) -> Told:
    """A body of DATA frames without end and without a content-length; then the same connection is used again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.settings.port)
    http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    http.initiate_connection()
    common = [(":scheme", "http"), (":authority", "localhost"), *gateway.auth().items()]
    http.send_headers(1, [(":method", method), (":path", path), *common, ("content-type", kind)])
    http.send_data(1, FORM_HEAD if kind == FORM else b" ")
    told, bodies, ended = Told(is_closing=True), {1: b"", 3: b""}, set[int]()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while 3 not in ended:
                if 1 not in ended:
                    _send_what_fits(http, told)
                writer.write(http.data_to_send())
                await writer.drain()
                for event in http.receive_data(await reader.read(64 * KIB)):
                    match event:
                        case h2.events.ResponseReceived(stream_id=1):
                            told.status = int(dict(event.headers)[":status"])
                        case h2.events.DataReceived():
                            bodies[event.stream_id] += event.data
                            http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        case h2.events.StreamEnded(stream_id=1):
                            ended.add(1)
                            http.send_headers(
                                3, [(":method", "GET"), (":path", "/v1/models"), *common], end_stream=True
                            )
                        case h2.events.StreamEnded():
                            ended.add(event.stream_id)
                        case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                            assert 1 in ended, f"cut before the answer: {event}"
    finally:
        writer.close()
    told.body = bodies[1]
    assert json.loads(bodies[3])["object"] == "list", "the connection serves its other streams"
    return told


def _send_what_fits(http: h2.connection.H2Connection, told: Told) -> None:
    while (room := http.local_flow_control_window(1)) > 0:
        piece = PIECE[: min(room, http.max_outbound_frame_size)]
        http.send_data(1, piece)
        told.num_sent += len(piece)


@contextlib.asynccontextmanager
async def held_little(edge: Edge) -> AsyncIterator[None]:
    """Neither this process, which has the gateway and the client in it, nor Envoy may hold much more meanwhile."""
    _start_of_peak()
    before, envoy_before = _status_bytes("VmRSS"), await of_envoy(edge)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, await of_envoy(edge))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert most - envoy_before < MAX_ENVOY_BYTES
    assert _status_bytes("VmHWM") - before < MAX_GATEWAY_BYTES


def _start_of_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith(name))


async def of_envoy(edge: Edge) -> int:
    """Bytes that Envoy has allocated."""
    url = f"http://127.0.0.1:{edge.settings.envoy_admin_port}/memory"
    async with httpx.AsyncClient() as client:
        return int((await client.get(url)).json()["allocated"])


CASES = [
    pytest.param("POST", CHAT, JSON, "The body is larger than 4194304 bytes (TIDEGATE_MAX_BODY_BYTES).", id="chat"),
    pytest.param(
        "POST", "/v1/embeddings", JSON, "The body is larger than 4194304 bytes (TIDEGATE_MAX_BODY_BYTES).",
        id="another route",
    ),
    pytest.param(
        "POST", FILES, FORM, "The file is larger than 200000 bytes (TIDEGATE_MAX_FILE_BYTES).", id="upload"
    ),
    pytest.param(
        "GET", "/v1/models", JSON, "The body is larger than TIDEGATE_MAX_BODY_BYTES allows.", id="no body wanted"
    ),
]  # fmt: skip


@pytest.mark.parametrize("client", [endless_http1, endless_http2], ids=["http1", "http2"])
@pytest.mark.parametrize(("method", "path", "kind", "message"), CASES)
async def test_a_body_without_length_or_end_is_refused_and_not_kept(
    gateway: Gateway, edge: Edge, client: Any, method: str, path: str, kind: str, message: str
) -> None:
    async with held_little(edge):
        told: Told = await client(gateway, edge, method, path, kind)
    assert (told.status, told.is_closing) == (413, True)
    assert json.loads(told.body)["error"]["message"] == message
    assert told.num_sent < MAX_SENT_BYTES
    assert not [path for path in gateway.settings.files_dir.rglob("*") if path.is_file()]
    assert gateway.services.lifecycle.inflight == 0


@pytest.mark.parametrize("is_http2", [False, True], ids=["http1", "http2"])
async def test_a_refused_body_that_ends_leaves_the_connection_to_the_next_request(
    gateway: Gateway, edge: Edge, is_http2: bool
) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(6 * MIB // len(PIECE)):
            yield PIECE

    headers = gateway.auth() | {"content-type": JSON}
    async with httpx.AsyncClient(
        base_url=edge.base_url, headers=headers, http1=not is_http2, http2=is_http2, timeout=PATIENCE_S
    ) as client:
        for _ in range(3):
            refused = await client.post(CHAT, content=body())
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "payload_too_large")
            assert "content-length" not in refused.request.headers
        assert (await client.get("/v1/models")).status_code == 200
    assert await stat(edge, "http.edge.downstream_cx_total") == 1
