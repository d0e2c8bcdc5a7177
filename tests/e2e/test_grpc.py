"""gRPC through the real edge, on the port that serves HTTP too, down to the real models."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ResponseReceived, StreamReset

from gateway.proto import chat_pb2 as pb
from gateway.proto import chat_pb2_grpc
from tests.e2e.conftest import wait_for
from tests.e2e.test_request_path import (
    STOP_WITHIN_S,
    frozen,
    gateway_metric,
    is_retrieving,
    last_receipt,
    receipts,
)

ROOT = Path(__file__).parents[2]
SERVICE = "tidegate.v1.ChatService"
CHAT = f"/{SERVICE}/Chat"
QUESTION = "What does Envoy do?"
MIB = 2**20
DEADLINE_S = 1.5


def request(**fields: Any) -> Any:
    asked = [pb.Message(role=pb.ROLE_USER, content=QUESTION)]
    return pb.ChatRequest(**{"model": "fast", "messages": asked, "cache": pb.CACHE_USE_OFF} | fields)


@pytest_asyncio.fixture
async def channel(service: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.settings.port}") as made:
        yield made


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return chat_pb2_grpc.ChatServiceStub(channel)


def failure(error: grpc.aio.AioRpcError) -> tuple[str, bool]:
    """Our code, and whether trying again may help."""
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()}: {error.details()}"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason, len(status.details) > 1


async def test_an_answer_is_the_one_that_http_gives(service: Any, stub: Any) -> None:
    def told() -> str:
        body = {"model": "fast", "messages": [{"role": "user", "content": QUESTION}]}
        return str(client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])

    with service.client() as client:
        answers = ["", told()]
        while answers[-1] != answers[-2]:  # a document of the start became searchable only then
            assert len(answers) < 9
            events = [event async for event in stub.Chat(request(events=True), timeout=30)]
            answers.append(told())
        receipt = events[-1].done.receipt
        kept = client.get(f"/v1/receipts/{receipt.id}").json()
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["stage", "stage"]
    assert kinds[-1] == "done"
    assert set(kinds[2:-1]) == {"delta"}
    assert receipt.outcome == pb.OUTCOME_COMPLETED
    assert receipt.embed_ms > 0
    assert "".join(event.delta.text for event in events) == answers[-1]
    assert kept["outcome"] == "completed"
    assert [passage["text"] for passage in kept["passages"]] == [each.text for each in receipt.passages]


async def test_a_key_in_the_metadata_finds_its_tenant(service: Any, stub: Any) -> None:
    metadata = (("authorization", f"Bearer {service.api_key}"),)
    found = await stub.Retrieve(pb.RetrieveRequest(query=QUESTION, top_k=3), metadata=metadata, timeout=30)
    assert len(found.passages) == 3
    assert found.passages[0].score >= found.passages[2].score
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Retrieve(
            pb.RetrieveRequest(query="x"), metadata=(("authorization", "Bearer tg-" + "A" * 43),), timeout=30
        )
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert failure(caught.value) == ("invalid_api_key", False)


@pytest.mark.parametrize(
    "metadata",
    [(("x-tidegate-peer", "127.0.0.1"), ("x-tidegate-host", "localhost"), ("origin", "http://evil.example"))],
    ids=["spoofed"],
)
async def test_a_caller_cannot_speak_for_the_edge(stub: Any, metadata: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Retrieve(pb.RetrieveRequest(query="x"), metadata=metadata, timeout=30)
    assert failure(caught.value) == ("forbidden", False)


async def test_a_rebound_name_is_refused_without_a_key(service: Any) -> None:
    options = (("grpc.default_authority", "rebound.example"),)
    target = f"127.0.0.1:{service.settings.port}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await chat_pb2_grpc.ChatServiceStub(channel).Retrieve(pb.RetrieveRequest(query="x"), timeout=30)
    assert failure(caught.value) == ("forbidden", False)


async def test_health_is_told(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_shows_the_service_to_its_own_client(service: Any) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{service.settings.port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        method = DescriptorPool(database).FindServiceByName(SERVICE).FindMethodByName("Chat")
        assert method.input_type.full_name == "tidegate.v1.ChatRequest"
        assert method.server_streaming


async def leave(service: Any, stub: Any, after: int, held: Any) -> tuple[dict[str, Any], float]:
    """Ask, wait until `held()`, cancel. Returns the receipt and the seconds until leaving.

    after: the newest receipt before.
    """
    start = time.monotonic()
    call = stub.Chat(request())
    reading = asyncio.ensure_future(call.read())
    while not await asyncio.to_thread(held):
        assert not reading.done()
        assert time.monotonic() - start < 2.5
        await asyncio.sleep(0.01)
    left_s = time.monotonic() - start
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.to_thread(wait_for, lambda: receipts(service, after), 5, "the receipt")
    return receipts(service, after)[-1], left_s


@pytest.mark.parametrize(("model", "stage"), [("embed", "retrieving"), ("reader", "generating")])
async def test_a_cancelled_call_stops_the_work_in_time(
    service: Any, stub: Any, model: str, stage: str
) -> None:
    def held() -> bool:
        if stage == "retrieving":
            return is_retrieving(service)
        return gateway_metric(service, "tidegate_inflight", "fast") > 0

    after = last_receipt(service)
    with frozen(service, model):
        receipt, left_s = await leave(service, stub, after, held)
        assert gateway_metric(service, "tidegate_inflight", "fast") == 0
    assert (receipt["outcome"], receipt["cause"], receipt["stage"]) == ("evicted", "client_gone", stage)
    assert receipt["total_ms"] / 1000 < left_s + STOP_WITHIN_S


@pytest.mark.parametrize(("model", "stage"), [("embed", "retrieving"), ("reader", "generating")])
async def test_a_deadline_ends_the_call_with_our_code(
    service: Any, stub: Any, model: str, stage: str
) -> None:
    for _ in range(2):
        after = last_receipt(service)
        with frozen(service, model), pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.Chat(request(), timeout=DEADLINE_S):
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.to_thread(wait_for, lambda: receipts(service, after), 5, "the receipt")  # noqa: B023
        receipt = receipts(service, after)[-1]
        if receipt["cause"] != "client_gone":  # its own end came first: the machine was busy for 20 ms
            break
    assert (receipt["cause"], receipt["stage"]) == ("deadline_exceeded", stage)
    assert receipt["total_ms"] < 1000 * DEADLINE_S + 500


BAD: dict[str, tuple[bytes, grpc.StatusCode, str]] = {
    "ten megabytes": (b"x" * 10_000_000, grpc.StatusCode.RESOURCE_EXHAUSTED, "payload_too_large"),
    "a million messages": (b"\x12\x00" * 1_000_000, grpc.StatusCode.INVALID_ARGUMENT, "too_many_messages"),
    "not utf-8": (b"\x0a\x02\xff\xfe", grpc.StatusCode.INVALID_ARGUMENT, "invalid_protobuf"),
    "unknown role": (
        b"\x0a\x04fast\x12\x05\x08\x63\x12\x01x",
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_value",
    ),
}


async def test_bad_input_has_a_precise_status_and_leaves_the_gateway_as_it_was(
    service: Any, channel: grpc.aio.Channel
) -> None:
    worker = psutil.Process(service.part_pid("gateway-0"))
    before = 0
    for _ in range(6):
        for data, status, code in BAD.values():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_stream(CHAT)(data, timeout=10).read()
            assert caught.value.code() is status
            assert failure(caught.value)[0] == code
        before = before or worker.memory_info().rss  # after the first round
    grown_mib = (worker.memory_info().rss - before) / MIB
    assert grown_mib < 48


async def test_clients_that_never_read_hold_little_of_the_gateway_and_of_envoy(
    service: Any, channel: grpc.aio.Channel, stub: Any
) -> None:
    """With the largest last event there is, a receipt of 64 passages."""
    processes = [psutil.Process(service.part_pid(name)) for name in ("gateway-0", "envoy")]
    [event async for event in stub.Chat(request(top_k=64), timeout=30)]
    after = last_receipt(service)
    before = [process.memory_info().rss for process in processes]
    calls = [stub.Chat(request(top_k=64)) for _ in range(100)]
    await asyncio.to_thread(wait_for, lambda: len(receipts(service, after)) >= 99, 60, "the receipts")
    grown = [process.memory_info().rss - rss for process, rss in zip(processes, before, strict=True)]
    assert max(grown) < 100 * MIB
    for call in calls:
        call.cancel()


async def test_what_is_no_grpc_is_told_so_on_its_paths(service: Any) -> None:
    for http2 in (False, True):
        async with httpx.AsyncClient(http1=not http2, http2=http2, timeout=10) as client:
            answer = await client.post(f"{service.base_url}{CHAT}", json={"model": "fast"})
        assert answer.status_code == 415
        assert answer.json()["error"]["code"] == "unsupported_media_type"
    async with httpx.AsyncClient(timeout=10) as client:
        headers = {"content-type": "application/grpc"}
        half = await client.post(f"{service.base_url}{CHAT}", content=b"\0\0\0\0\0", headers=headers)
    assert (half.status_code, half.headers["grpc-status"]) == (200, "3")


async def test_the_edges_own_refusal_has_our_details(service: Any) -> None:
    """A request that announces more than the largest upload.

    Its body stays open, by hand: a client that ended it short of what it announced would break the protocol, and Envoy
    may reset such a stream before its answer is read.
    """
    connection = H2Connection()
    connection.initiate_connection()
    head = {
        ":method": "POST",
        ":scheme": "http",
        ":authority": f"127.0.0.1:{service.settings.port}",
        ":path": CHAT,
        "content-type": "application/grpc",
        "te": "trailers",
        "content-length": str(2**40),
    }
    connection.send_headers(1, list(head.items()))
    reader, writer = await asyncio.open_connection("127.0.0.1", service.settings.port)
    writer.write(connection.data_to_send())
    events: list[Any] = []
    try:
        async with asyncio.timeout(10):
            while not any(isinstance(event, ResponseReceived) for event in events):
                data = await reader.read(2**16)
                assert data, f"closed after {events}"
                events += connection.receive_data(data)
    finally:
        writer.close()
        await writer.wait_closed()
    # Behind a whole answer NO_ERROR only says that no more of the body is wanted (RFC 9113, 8.1).
    assert {event.error_code for event in events if isinstance(event, StreamReset)} <= {ErrorCodes.NO_ERROR}
    answer = dict(next(event.headers for event in events if isinstance(event, ResponseReceived)))
    assert answer[b"grpc-status"] == b"8"
    assert b"grpc-status-details-bin" in answer


def ask(service: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "TG_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=kept | {"TIDEGATE_VAR": str(service.var), "TG_API_KEY": service.api_key, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_the_command_line_gives_the_same_answer_over_both(service: Any) -> None:
    ask(service, "-m", "gateway", "ask", "--json", QUESTION)  # from now on both get the remembered answer
    over = {
        name: json.loads(ask(service, "-m", "gateway", "ask", "--json", *options, QUESTION).stdout)
        for name, options in {"http": (), "grpc": ("--grpc",)}.items()
    }
    for name in ("answer", "sources", "usage"):
        assert over["grpc"][name] == over["http"][name]
    assert set(over["grpc"]["receipt"]) == set(over["http"]["receipt"])


def test_the_command_line_takes_collections_over_grpc(service: Any) -> None:
    good = ask(service, "-m", "gateway", "ask", "--grpc", "-c", "tidegate-docs", QUESTION)
    assert (good.returncode, good.stderr) == (0, "")
    assert "Sources" in good.stdout
    bad = ask(service, "-m", "gateway", "ask", "--grpc", "-c", "nix", QUESTION)
    assert bad.returncode == 2


def test_the_example_streams_an_answer(service: Any) -> None:
    done = ask(service, "examples/grpc_chat.py", QUESTION, f"127.0.0.1:{service.settings.port}")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^\[\d+\] \S+", done.stdout, re.MULTILINE)


def test_the_grpcurl_line_of_the_examples_works(service: Any) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip(
            "grpcurl is not installed; only the request in its line is tried (tests/config/test_proto.py)"
        )
    line = next(
        line for line in (ROOT / "examples/README.md").read_text().splitlines() if line.startswith("grpcurl ")
    )
    line = line.replace("127.0.0.1:8080", f"127.0.0.1:{service.settings.port}")
    done = subprocess.run(
        ["bash", "-c", line],
        env=os.environ | {"TG_API_KEY": service.api_key},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert '"done"' in done.stdout, done.stderr
