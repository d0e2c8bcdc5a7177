"""The edge listener of a real Envoy, with scripted workers behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.listener import listening_socket
from gateway.settings import Settings, load_settings
from gateway.supervise import render
from gateway.supervise.assets import find_assets
from gateway.supervise.binaries import BinaryMissing, find_envoy
from tests.waiting import until

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)


class Worker:
    """A scripted gateway worker.

    behave: answer, hold (answer when it is let go), break (close after the request), hang, cut (close after the first
    piece of a stream), pump (a stream without end, as fast as it is taken).
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_ready = True
        self.behave = "answer"
        self.requests: list[dict[str, str]] = []
        self.num_broken_off = 0
        self.num_pumped = 0  # bytes
        self.health_headers = ""
        self.let_go = asyncio.Event()
        self._server: asyncio.Server

    async def start(self) -> None:
        sock = listening_socket(
            "127.0.0.1", self.port
        )  # as a real worker's, so that the kernel holds as little
        self._server = await asyncio.start_server(self._serve, sock=sock)

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                if "/health/ready" in head[0]:
                    status = "200 OK" if self.is_ready else "503 Service Unavailable"
                    await self._send(writer, status, b"{}", self.health_headers)
                    continue
                self.requests.append(headers)
                if self.behave == "break":
                    break
                if self.behave == "hang":
                    await reader.read(1)
                    self.num_broken_off += 1
                    break
                if self.behave in {"cut", "pump"}:
                    await self._stream(writer)
                    break
                if self.behave == "hold":
                    await self.let_go.wait()
                await self._send(writer, "200 OK", json.dumps({"port": self.port}).encode())
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter, status: str, body: bytes, headers: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b"d\r\ndata: first\n\n\r\n")
        await writer.drain()
        while self.behave == "pump":
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            self.num_pumped += 4096
            await writer.drain()


class Edge:
    def __init__(
        self, settings: Settings, workers: list[Worker], processes: list[subprocess.Popen[bytes]]
    ) -> None:
        self.settings = settings
        self.workers = workers
        self.processes = processes
        self.base_url = f"http://127.0.0.1:{settings.port}"

    def num_requests(self) -> int:
        return sum(len(worker.requests) for worker in self.workers)


def port_with_room(span: int) -> int:
    """A free port; so are those that a service takes above it, and that at `span`, as far as one look can tell."""
    offsets = (0, 1, 2, 10, 11, *range(300, 308), span)
    for first in range(21000, 32000, 37):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in sorted({first + offset for offset in offsets}):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", port))
            return first
    raise RuntimeError("no free ports")


@pytest_asyncio.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def running_edge(
    folder: Path,
    change: Callable[[str], str] = lambda config: config,
    open_files: int = 0,
    **explicit: object,
) -> AsyncIterator[Edge]:
    """change: what else a test wants in the configuration. open_files: of each Envoy. explicit: settings."""
    port = port_with_room(300)
    settings = load_settings({}, var=folder, port=port, gateway_workers=2, **explicit)
    workers = [Worker(settings.worker_port(index)) for index in (0, 1)]
    for worker in workers:
        await worker.start()
    for folder in (settings.run_dir, settings.log_dir):
        folder.mkdir(parents=True)
    processes = []
    for index, name in enumerate(render.envoy_names(settings)):
        config = settings.run_dir / f"{name}.yaml"
        rendered = render.render_envoy(settings, find_assets(), index, open_files=open_files)
        config.write_text(change(rendered))
        with (folder / f"{name}.log").open("wb") as log:
            command = render.envoy_command(settings, config)
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))  # noqa: ASYNC220 - returns at once
        if open_files:
            resource.prlimit(processes[-1].pid, resource.RLIMIT_NOFILE, (open_files, open_files))
    try:
        for index in range(settings.edge_processes):
            await both_healthy(settings.edge_admin_port(index))
        yield Edge(settings, workers, processes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
        for worker in workers:
            await worker.stop()


async def both_healthy(admin_port: int) -> None:
    async with httpx.AsyncClient() as client:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            with contextlib.suppress(httpx.HTTPError):
                url = f"http://127.0.0.1:{admin_port}/clusters"
                lines = (await client.get(url)).text.splitlines()
                found = [line for line in lines if line.startswith("gateway")]
                if sum(line.endswith("::health_flags::healthy") for line in found) == 4:  # two doors
                    return
            await asyncio.sleep(0.05)
    raise AssertionError("Envoy did not find both workers healthy")


@pytest_asyncio.fixture
async def client(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=edge.base_url, timeout=10) as made:
        yield made


async def test_http1_and_http2_share_the_port(edge: Edge) -> None:
    async with httpx.AsyncClient(base_url=edge.base_url, http1=False, http2=True) as client:
        answer = await client.get("/v1/models")
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
    assert answer.headers["server"] == "tidegate"


async def test_without_a_ready_worker_a_grpc_call_gets_our_code_and_a_delay(edge: Edge) -> None:
    for worker in edge.workers:
        worker.is_ready = False
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.settings.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_stream("/tidegate.v1.ChatService/Chat")(b"", timeout=10).read()
    status = rpc_status.from_call(caught.value)
    assert status is not None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (info.reason, retry.retry_delay.seconds) == ("upstream_unavailable", 1)
    assert caught.value.details() == "The service is not ready for this request; try again."


async def test_without_a_ready_worker_the_refusal_is_ours(edge: Edge, client: httpx.AsyncClient) -> None:
    for worker in edge.workers:
        worker.is_ready = False
    answer = await client.get("/v1/models")
    deadline_s = time.monotonic() + 5
    while answer.status_code == 200 and time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
        answer = await client.get("/v1/models")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == "upstream_unavailable"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/files"),
        ("POST", "/health/ready"),
        ("GET", "/health/ready"),
        ("POST", "/health/x"),
    ],
)
async def test_a_body_above_the_largest_upload_never_reaches_a_worker(
    edge: Edge, method: str, path: str
) -> None:
    body = b"0" * (edge.settings.max_file_bytes + 2 * 2**20)
    answer = await asyncio.to_thread(httpx.request, method, edge.base_url + path, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert edge.num_requests() == 0


BAD_HEADERS = [
    pytest.param({"tenant_id": "x"}, 400, id="underscore"),
    pytest.param({f"h{number}": "x" for number in range(120)}, 431, id="too many"),
    pytest.param({"long": "x" * 40_000}, 431, id="too large"),
]


@pytest.mark.parametrize(("headers", "status"), BAD_HEADERS)
async def test_bad_headers_are_refused_in_our_shape(
    edge: Edge, client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    answer = await client.get("/v1/models", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "invalid_request")
    assert edge.num_requests() == 0


@pytest.mark.parametrize(("headers", "_"), BAD_HEADERS)
async def test_over_http2_bad_headers_cost_their_stream_and_no_other(
    edge: Edge, headers: dict[str, str], _: int
) -> None:
    """Envoy's codec resets it, before there could be an answer."""
    async with httpx.AsyncClient(base_url=edge.base_url, http1=False, http2=True) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="StreamReset"):
            await client.get("/v1/models", headers=headers)
        assert edge.num_requests() == 0
        assert (await client.get("/v1/models")).status_code == 200
    admin = f"http://127.0.0.1:{edge.settings.envoy_admin_port}/stats?filter=^http.edge.downstream_cx_total$"
    async with httpx.AsyncClient() as client:
        assert (await client.get(admin)).text.strip().endswith(": 1"), "the same connection"


async def test_a_worker_learns_the_true_peer_whatever_the_client_says(
    edge: Edge, client: httpx.AsyncClient
) -> None:
    forged = {"x-tidegate-peer": "10.1.2.3", "x-envoy-retry-on": "5xx", "x-request-id": "mine"}
    await client.get("/v1/models", headers=[*forged.items(), ("x-tidegate-peer", "10.1.2.4")])
    seen = next(request for worker in edge.workers for request in worker.requests)
    assert seen["x-tidegate-peer"] == "127.0.0.1"
    assert "x-envoy-retry-on" not in seen
    assert seen["x-request-id"] != "mine"


async def test_a_post_that_reached_a_worker_is_never_sent_again(
    edge: Edge, client: httpx.AsyncClient
) -> None:
    for worker in edge.workers:
        worker.behave = "break"
    answer = await client.post("/v1/chat/completions", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert edge.num_requests() == 1


async def test_a_worker_that_is_gone_costs_no_request(edge: Edge, client: httpx.AsyncClient) -> None:
    await edge.workers[0].stop()
    answers = [await client.post("/v1/chat/completions", json={}) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}


async def test_a_draining_worker_gets_no_new_requests(edge: Edge, client: httpx.AsyncClient) -> None:
    edge.workers[0].is_ready = False
    admin = f"http://127.0.0.1:{edge.settings.envoy_admin_port}/clusters"
    deadline_s = time.monotonic() + 5
    while "failed_active_hc" not in (await client.get(admin)).text.partition("triton::")[0]:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)
    before = len(edge.workers[0].requests)
    for _ in range(6):
        assert (await client.get("/v1/models")).json() == {"port": edge.workers[1].port}
    assert len(edge.workers[0].requests) == before


async def test_a_client_that_leaves_frees_the_worker_at_once(edge: Edge, client: httpx.AsyncClient) -> None:
    for worker in edge.workers:
        worker.behave = "hang"
    task = asyncio.create_task(client.post("/v1/chat/completions", json={}))
    await until(lambda: edge.num_requests() == 1)
    left_s = time.monotonic()
    task.cancel()
    await until(lambda: any(worker.num_broken_off for worker in edge.workers))
    assert time.monotonic() - left_s < 2  # it would hang for ever


async def test_the_access_log_tells_the_request_but_not_its_query(
    edge: Edge, client: httpx.AsyncClient
) -> None:
    await client.get("/v1/models?question=secret")
    log = edge.settings.log_dir / "envoy-access.log"
    await until(lambda: b"/v1/models" in log.read_bytes())
    entry = json.loads(log.read_text().splitlines()[0])
    assert (entry["path"], entry["status"], entry["flags"]) == ("/v1/models", 200, "-")
    assert "secret" not in log.read_text()
