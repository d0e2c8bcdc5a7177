"""What only the gRPC door has: messages that are none, sizes, metadata, slow readers, health, reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psutil
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.api import grpc_door as door_of_a_worker
from gateway.api.grpc_door import HARD_LIMIT_BYTES
from gateway.lifecycle import State
from gateway.proto import chat_pb2 as pb
from gateway.proto import chat_pb2_grpc
from tests.integration.api.conftest import MAX_STALL_S, Gateway
from tests.integration.api.doors import CHAT, GrpcDoor, Reply, grpc_failure, grpc_request
from tests.integration.api.test_both_doors import QUESTION, counted
from tests.waiting import until

SERVICE = "tidegate.v1.ChatService"
MIB = 2**20


@pytest_asyncio.fixture
async def door(gateway: Gateway) -> AsyncIterator[GrpcDoor]:
    made = GrpcDoor(gateway)
    yield made
    await made.close()


def question(**fields: Any) -> bytes:
    data: bytes = grpc_request({"model": "fast", "messages": QUESTION} | fields).SerializeToString()
    return data


def code(reply: Reply) -> str:
    assert reply.failure is not None
    assert reply.failure.message.endswith(".")
    assert len(reply.failure.message) < 500
    return reply.failure.code


# field 1 (model) and field 2 (messages) as bytes with a length
MALFORMED: dict[str, bytes] = {
    "text": b"{nope",
    "random": bytes(range(255, 0, -1)),
    "cut off": question()[:-3],
    "cut off in a number": b"\x28\xff",
    "endless number": b"\x28" + b"\xff" * 11,
    "length beyond the end": b"\x0a\xff\xff\xff\xff\x0f",
    "not utf-8": b"\x0a\x02\xff\xfe",
    "not utf-8 inside a message": b"\x0a\x04fast\x12\x06\x08\x03\x12\x02\xff\xfe",
    "lone surrogate": b"\x0a\x03\xed\xa0\x80",
    "group": b"\x0b\x0c",
    "wrong wire type": b"\x0a\x04fast\x10\x05\x17",
    "field zero": b"\x02\x00",
    "many unknown fields": b"\xa0\x06\x01" * 100_000,
    "many collections": b"\x1a\x00" * 100_000,
}


@pytest.mark.parametrize("case", MALFORMED, ids=lambda name: name.replace(" ", "-"))
async def test_what_is_no_message_is_refused_with_our_code(
    gateway: Gateway, door: GrpcDoor, case: str
) -> None:
    reply = await door.send(MALFORMED[case])
    assert code(reply) == "invalid_protobuf"
    assert reply.failure is not None
    assert reply.failure.status == 400
    assert counted(gateway) == {'{cause="invalid_protobuf",outcome="rejected",tier="none"}': 1.0}


async def test_an_empty_message_misses_the_model(door: GrpcDoor) -> None:
    reply = await door.send(b"")
    assert reply.failure is not None
    assert (reply.failure.code, reply.failure.param) == ("invalid_value", "model")


async def test_a_role_that_is_not_set_is_missed(door: GrpcDoor) -> None:
    reply = await door.send(
        pb.ChatRequest(model="fast", messages=[pb.Message(content="x")]).SerializeToString()
    )
    assert reply.failure is not None
    assert (reply.failure.code, reply.failure.param) == ("invalid_value", "messages[0]")
    assert "`role`" in reply.failure.message


async def test_an_unknown_enum_value_names_its_field(door: GrpcDoor) -> None:
    reply = await door.send(question(priority="vip"))
    assert reply.failure is not None
    assert reply.failure.message == "Invalid enum value '99' (at priority)."


async def test_numbers_that_json_does_not_know_are_refused(door: GrpcDoor) -> None:
    for value in (float("nan"), float("inf"), float("-inf")):
        for name in ("temperature", "top_p"):
            reply = await door.send(question(**{name: value}))
            assert reply.failure is not None
            assert (reply.failure.code, reply.failure.param) == ("invalid_value", name)


async def test_unknown_fields_are_ignored(door: GrpcDoor) -> None:
    assert (await door.send(question() + b"\xa0\x06\x01\xaa\x06\x02hi")).failure is None


async def test_a_call_without_a_message_is_told_so(gateway: Gateway, door: GrpcDoor) -> None:
    call = door.channel.stream_stream(CHAT)(metadata=tuple(gateway.auth().items()), timeout=5)
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    failure = grpc_failure(caught.value)
    assert (failure.code, failure.status) == ("no_message", 400)


async def test_a_message_that_never_comes_is_not_waited_for(
    gateway: Gateway, door: GrpcDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.api.grpc_door.BODY_TIMEOUT_S", 0.2)
    call = door.channel.stream_stream(CHAT)(metadata=tuple(gateway.auth().items()), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert grpc_failure(caught.value).code == "request_timeout"


async def test_a_key_is_asked_for_before_the_message_is_read(gateway: Gateway, door: GrpcDoor) -> None:
    call = door.channel.stream_stream(CHAT)(metadata=(("authorization", "Bearer nope"),), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert grpc_failure(caught.value).code == "invalid_api_key"


@pytest.mark.parametrize("entry", [b"\x12\x00", b"\x12\x02\x08\x03"], ids=["empty", "user"])
async def test_a_million_messages_are_refused_before_they_become_objects(
    door: GrpcDoor, entry: bytes
) -> None:
    data, process = entry * 1_000_000, psutil.Process()
    for _ in range(3):  # the library's own buffers come first
        assert code(await door.send(data)) == "too_many_messages"
    before = process.memory_info().rss
    for _ in range(10):
        assert code(await door.send(data)) == "too_many_messages"
    assert process.memory_info().rss - before < 64 * MIB  # both ends of the call, 4 MB each time


async def test_a_message_over_the_limit_has_our_code(gateway: Gateway, door: GrpcDoor) -> None:
    limit = gateway.services.settings.max_body_bytes
    assert code(await door.send(b"x" * (limit + 1))) == "payload_too_large"
    assert code(await door.send(b"\xff" * limit)) == "invalid_protobuf"


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_a_message_well_over_the_limit_is_refused_by_the_library(
    gateway: Gateway, door: GrpcDoor, compression: grpc.Compression
) -> None:
    """Without a code of ours: Envoy adds it (tests/e2e/test_grpc.py). What counts here is that it is not read."""
    limit = gateway.services.settings.max_body_bytes + HARD_LIMIT_BYTES
    call = door.channel.unary_stream(CHAT)(
        b"\0" * (limit + 1), metadata=tuple(gateway.auth().items()), compression=compression
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await until(lambda: sum(counted(gateway).values()) == 1)
    assert (await door.send(question())).failure is None


async def test_a_compressed_question_is_read_like_any_other(door: GrpcDoor) -> None:
    assert (await door.send(question(), compression=grpc.Compression.Gzip)).failure is None


@pytest.mark.parametrize(
    ("metadata", "code_expected"),
    [
        ({"x-tidegate-peer": "203.0.113.9"}, "invalid_api_key"),
        ({"origin": "https://evil.example"}, "forbidden"),
        ({"origin": "null"}, "forbidden"),
        ({"origin": "http://localhost:8080", "x-tidegate-host": "localhost:8080"}, "forbidden"),
        ({"sec-fetch-site": "cross-site"}, "forbidden"),
        ({"x-tidegate-host": "rebound.example"}, "forbidden"),
    ],
    ids=["remote", "origin", "opaque-origin", "page-of-ours", "cross-site", "rebinding"],
)
async def test_without_a_key_only_programs_of_this_machine_may_call(
    door: GrpcDoor, metadata: dict[str, str], code_expected: str
) -> None:
    assert code(await door.send(question(), key=None, metadata=metadata)) == code_expected
    assert (await door.send(question(), metadata=metadata)).failure is None  # a key opens from anywhere


async def test_an_unknown_method_is_unimplemented(door: GrpcDoor) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_request_id_comes_with_the_first_event_and_again_at_the_end(door: GrpcDoor) -> None:
    call = chat_pb2_grpc.ChatServiceStub(door.channel).Chat(pb.ChatRequest.FromString(question()))
    first = dict(await call.initial_metadata())["x-request-id"]
    async for event in call:
        last = event
    assert last.done.receipt.id == first == dict(await call.trailing_metadata())["x-request-id"]


async def test_text_that_comes_fast_shares_messages_and_none_is_lost(
    gateway: Gateway, door: GrpcDoor
) -> None:
    gateway.fast.texts = [f"{n} " for n in range(5000)]
    call = chat_pb2_grpc.ChatServiceStub(door.channel).Chat(pb.ChatRequest.FromString(question()))
    deltas = [event.delta.text async for event in call if event.HasField("delta")]
    assert "".join(deltas) == "".join(gateway.fast.texts)
    assert deltas[0] == "0 "
    assert len(deltas) < 1000


async def test_text_that_comes_slowly_is_sent_at_once(gateway: Gateway, door: GrpcDoor) -> None:
    gateway.fast.texts, gateway.fast.gap_s = ["a", "b", "c"], 0.5
    call = chat_pb2_grpc.ChatServiceStub(door.channel).Chat(pb.ChatRequest.FromString(question()))
    clock, seen = asyncio.get_running_loop().time, []
    async for event in call:
        if event.HasField("delta"):
            seen.append((event.delta.text, clock()))
    assert [text for text, _ in seen] == ["a", "b", "c"]
    assert seen[1][1] - seen[0][1] > 0.1


async def test_readers_that_take_nothing_hold_little_memory(gateway: Gateway, door: GrpcDoor) -> None:
    """Windows of 64 KiB, as Envoy has; the engine would give 20 MB to each."""
    gateway.queue.resize(40)
    gateway.fast.texts = ["x" * 10_000] * 2000
    process = psutil.Process()
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}", options=options) as channel:
        before = process.memory_info().rss
        calls = [
            channel.unary_stream(CHAT)(question(), metadata=tuple(gateway.auth().items())) for _ in range(40)
        ]
        await until(lambda: gateway.fast.started == 40)
        await asyncio.sleep(MAX_STALL_S / 2)
        assert process.memory_info().rss - before < 40 * MIB
        await until(lambda: gateway.queue.inflight == 0, within_s=10)
        assert counted(gateway) == {'{cause="client_gone",outcome="evicted",tier="fast"}': 40.0}
        for call in calls:
            call.cancel()
    gateway.fast.texts = None
    assert (await door.send(question())).failure is None


async def test_a_closed_connection_stops_the_work_like_a_cancel(gateway: Gateway, door: GrpcDoor) -> None:
    gateway.retriever.delay_s = 30
    await door.open(model="fast", messages=QUESTION)
    await until(lambda: gateway.retriever.started)
    await door.close()
    assert await until(lambda: gateway.services.lifecycle.inflight == 0) < 2
    assert gateway.retriever.cancelled == 1


async def test_a_port_that_is_taken_stops_the_start(gateway: Gateway) -> None:
    with pytest.raises(RuntimeError):
        await door_of_a_worker.GrpcDoor(gateway.services).start(gateway.grpc_port)


async def test_what_is_cut_off_at_the_stop_ends_at_once(gateway: Gateway, door: GrpcDoor) -> None:
    second = door_of_a_worker.GrpcDoor(gateway.services)
    port = await second.start(0)
    gateway.retriever.delay_s = 30
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(CHAT)(question(), metadata=tuple(gateway.auth().items()))
        reading = asyncio.ensure_future(call.read())
        await until(lambda: gateway.retriever.started)
        await asyncio.wait_for(second.stop(), 2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert (gateway.services.lifecycle.inflight, gateway.retriever.cancelled) == (0, 1)


async def test_health_follows_the_worker(gateway: Gateway, door: GrpcDoor) -> None:
    stub = health_pb2_grpc.HealthStub(door.channel)
    serving = health_pb2.HealthCheckResponse
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == serving.SERVING
    for service in ("", SERVICE):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert reply.status == serving.SERVING
    gateway.services.lifecycle.state = State.DRAINING
    assert (await watch.read()).status == serving.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch.cancel()


async def test_reflection_lists_the_services_and_shows_the_file(door: GrpcDoor) -> None:
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    replies = reflection_pb2_grpc.ServerReflectionStub(door.channel).ServerReflectionInfo(iter(asked))
    listed = await replies.read()
    names = {service.name for service in listed.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    shown = await replies.read()
    assert shown.file_descriptor_response.file_descriptor_proto == [pb.DESCRIPTOR.serialized_pb]
    replies.cancel()
