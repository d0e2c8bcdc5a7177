"""A worker that is told to stop: not ready first, nothing that runs is cut, and nobody is kept on its connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from gateway.lifecycle import State
from gateway.proto import chat_pb2 as pb
from gateway.shutdown import cut_off, drain
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import (
    CHAT,
    RETRIEVE,
    Door,
    GrpcDoor,
    HttpDoor,
    grpc_failure,
    grpc_request,
)
from tests.integration.api.test_files_and_stores import store
from tests.integration.api.test_leaving import open_request
from tests.waiting import until

QUESTION = [{"role": "user", "content": "What is a tide gate?"}]
DRAIN_S = 2.0  # the lead is a quarter of it


@pytest_asyncio.fixture
async def doors(gateway: Gateway) -> AsyncIterator[list[Door]]:
    gateway.services.settings = replace(gateway.settings, drain_s=DRAIN_S)
    made = [HttpDoor(gateway), GrpcDoor(gateway)]
    yield list(made)
    for each in made:
        await each.close()


def begin(gateway: Gateway) -> asyncio.Task[bool]:
    return asyncio.create_task(drain(gateway.services, gateway.server, gateway.door))


async def refusing(gateway: Gateway) -> None:
    await until(lambda: not gateway.services.lifecycle.takes_work)


async def test_it_is_not_ready_first_and_takes_what_still_comes(gateway: Gateway, doors: list[Door]) -> None:
    gateway.services.settings = replace(
        gateway.settings, drain_s=8
    )  # a lead in which a busy machine asks twice
    drained = begin(gateway)
    await until(lambda: gateway.services.lifecycle.state is State.DRAINING)
    assert (await gateway.client.get("/health/ready")).status_code == 503
    for door in doors:
        reply = await door.ask(model="fast", messages=QUESTION)
        assert reply.failure is None
    assert await drained


async def test_streams_that_run_finish_and_the_drain_waits_for_them(
    gateway: Gateway, doors: list[Door]
) -> None:
    gateway.fast.texts, gateway.fast.gap_s = [f"word{n} " for n in range(30)], 0.04
    running = [asyncio.create_task(door.ask(model="fast", messages=QUESTION)) for door in doors]
    await until(lambda: gateway.fast.started == 2)
    drained = begin(gateway)
    await refusing(gateway)
    assert not any(task.done() for task in running)
    for reply in [await task for task in running]:
        assert reply.failure is None
        assert reply.text == "".join(gateway.fast.texts)
        assert reply.receipt is not None
    assert await drained


@pytest.mark.parametrize("started", [True, False], ids=["mid-stream", "before the first byte"])
async def test_what_the_drain_has_no_time_for_is_told_so(
    gateway: Gateway, doors: list[Door], started: bool
) -> None:
    gateway.services.settings = replace(gateway.settings, drain_s=0.2)
    gateway.fast.hold_s, gateway.fast.delay_s = 30, 0 if started else 30
    asked = [asyncio.create_task(doors[0].ask(model="fast", messages=QUESTION))]
    asked_whole = asyncio.create_task(gateway.ask())
    await until(lambda: gateway.fast.started == 2)
    assert not await begin(gateway)
    await cut_off(gateway.services, gateway.server, gateway.door)
    (reply,) = await asyncio.gather(*asked)
    assert reply.failure is not None
    assert (reply.failure.code, bool(reply.text)) == ("draining", started)
    whole = await asked_whole
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "draining")
    assert gateway.fast.cancelled == 2
    counted = gateway.services.metrics.requests.labels("failed", "draining", "fast")
    assert counted._value.get() == 2


async def test_after_the_lead_new_work_is_refused(gateway: Gateway, doors: list[Door]) -> None:
    gateway.fast.hold_s = 1.0
    held = asyncio.create_task(doors[0].ask(model="fast", messages=QUESTION))
    await until(lambda: gateway.fast.started)
    drained = begin(gateway)
    await refusing(gateway)
    reply = await gateway.ask()
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
    assert reply.headers["connection"] == "close"
    assert (await held).failure is None
    assert await drained


async def test_a_grpc_client_is_sent_elsewhere_while_its_call_finishes(
    gateway: Gateway, doors: list[Door]
) -> None:
    """Its connection takes no new call, so that its next one goes to another worker at once."""
    door = doors[1]
    assert isinstance(door, GrpcDoor)
    channel = door.channel
    gateway.fast.texts, gateway.fast.gap_s = [f"word{n} " for n in range(30)], 0.04
    running = asyncio.create_task(doors[1].ask(model="fast", messages=QUESTION))
    await until(lambda: gateway.fast.started == 1)
    drained = begin(gateway)
    await refusing(gateway)
    await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY, "the client is told")
    with pytest.raises(AssertionError, match=r"no details.*UNAVAILABLE"):  # the library's, not ours
        await doors[1].ask(model="fast", messages=QUESTION)
    assert gateway.fast.started == 1
    assert (await running).text == "".join(gateway.fast.texts)
    assert await drained


async def test_an_idle_connection_is_closed_and_a_busy_one_after_its_answer(
    gateway: Gateway, doors: list[Door]
) -> None:
    gateway.fast.hold_s = 1.0
    busy_reader, busy_writer = await open_request(gateway, stream=True)
    await until(lambda: gateway.fast.started)
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
    idle_writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    await idle_reader.readuntil(b'{"status":"live"}')
    drained = begin(gateway)
    assert await asyncio.wait_for(idle_reader.read(), 2) == b""
    text = await asyncio.wait_for(busy_reader.read(), 5)
    assert text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), text[-100:]
    assert await drained
    for writer in (idle_writer, busy_writer):
        writer.close()


async def test_an_upload_that_runs_is_waited_for(gateway: Gateway, doors: list[Door]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
    parts = (
        b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nthe tide',
        b"\r\n--x--\r\n",
    )
    writer.write(
        f"POST /v1/files HTTP/1.1\r\nhost: localhost\r\nauthorization: {gateway.auth()['authorization']}\r\n"
        f"content-type: multipart/form-data; boundary=x\r\ncontent-length: {sum(map(len, parts))}\r\n\r\n".encode()
        + parts[0]
    )
    await until(lambda: gateway.services.lifecycle.inflight)
    drained = begin(gateway)
    await refusing(gateway)
    assert not drained.done()
    writer.write(parts[1])
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 20"), head
    assert b"connection: close" in head.lower()
    assert json.loads(await reader.read())["filename"] == "a.txt"
    assert await drained
    writer.close()


ROUTES = {
    "/v1/chat/completions": {"model": "fast", "messages": QUESTION},
    "/v1/embeddings": {"model": "all-MiniLM-L6-v2", "input": "the tide"},
    "/v1/vector_stores": {"name": "tides"},
}


class Begun:
    """A request whose body is not all there yet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes) -> None:
        self.reader, self.writer, self.rest = reader, writer, rest

    @classmethod
    async def at(cls, gateway: Gateway, path: str) -> Begun:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
        body = json.dumps(ROUTES[path]).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {gateway.auth()['authorization']}\r\n"
        )
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        num_before = gateway.services.lifecycle._num_begun
        writer.write(head.encode() + body[:-10])
        await until(lambda: gateway.services.lifecycle._num_begun > num_before)
        return cls(reader, writer, body[-10:])

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Its status and body."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        assert b"connection: close" in head.lower()
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = json.loads(await self.reader.readexactly(size))
        self.writer.close()
        return int(head.split()[1]), body


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_that_is_under_way_is_waited_for_and_answered(
    gateway: Gateway, doors: list[Door], path: str
) -> None:
    begun = await Begun.at(gateway, path)
    assert gateway.services.lifecycle.inflight == 0  # it is not in work yet
    drained = begin(gateway)
    await refusing(gateway)
    refused = await gateway.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert not drained.done()
    begun.writer.write(begun.rest)
    status, _ = await begun.answer()
    assert status in {200, 201}
    assert await drained


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_that_does_not_come_in_the_drains_time_is_refused(
    gateway: Gateway, doors: list[Door], path: str
) -> None:
    gateway.services.settings = replace(gateway.settings, drain_s=0.1)
    begun = await Begun.at(gateway, path)
    assert not await begin(gateway)
    stopped = asyncio.create_task(cut_off(gateway.services, gateway.server, gateway.door))
    status, body = await begun.answer()
    assert (status, body["error"]["code"]) == (503, "draining")
    await stopped


async def test_a_search_that_the_drain_has_no_time_for_is_told_so(
    gateway: Gateway, doors: list[Door]
) -> None:
    gateway.services.settings = replace(gateway.settings, drain_s=0.1)
    store_id, gateway.retriever.delay_s = await store(gateway), 30
    path, body = f"/v1/vector_stores/{store_id}/search", {"query": "the tide"}
    asked = asyncio.create_task(gateway.client.post(path, json=body, headers=gateway.auth()))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        call = begun_call(gateway, channel, RETRIEVE)
        await call.write(pb.RetrieveRequest(query="the tide").SerializeToString())
        await until(lambda: gateway.retriever.started == 2)
        assert not await begin(gateway)
        await cut_off(gateway.services, gateway.server, gateway.door)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            [event async for event in call]
    assert grpc_failure(error.value).code == "draining"
    reply = await asked
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")


async def test_a_head_that_is_under_way_is_refused_when_the_drain_ends(gateway: Gateway) -> None:
    gateway.services.settings = replace(gateway.settings, drain_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: local")
    await until(lambda: any(each.recv_buffer for each in gateway.server.connections))
    assert await begin(gateway)
    await cut_off(gateway.services, gateway.server, gateway.door)
    text = await asyncio.wait_for(reader.read(), 5)
    assert text.startswith(b"HTTP/1.1 503"), text
    assert b'"draining"' in text
    writer.close()


def begun_call(gateway: Gateway, channel: grpc.aio.Channel, path: str) -> Any:
    """A call whose message has not come yet."""
    return channel.stream_stream(path)(metadata=tuple(gateway.auth().items()))


@pytest.mark.parametrize("path", [CHAT, RETRIEVE])
async def test_a_message_that_is_under_way_is_waited_for_and_answered(
    gateway: Gateway, doors: list[Door], path: str
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        call = begun_call(gateway, channel, path)
        await until(lambda: gateway.services.lifecycle._num_begun)
        drained = begin(gateway)
        await refusing(gateway)
        assert not drained.done()
        asked = grpc_request({"model": "fast", "messages": QUESTION})
        message = asked if path == CHAT else pb.RetrieveRequest(query="the tide")
        await call.write(message.SerializeToString())
        await call.done_writing()
        assert [event async for event in call]
        assert await call.code() is grpc.StatusCode.OK
        assert await drained


@pytest.mark.parametrize("path", [CHAT, RETRIEVE])
async def test_a_message_that_does_not_come_in_the_drains_time_is_refused(
    gateway: Gateway, doors: list[Door], path: str
) -> None:
    gateway.services.settings = replace(gateway.settings, drain_s=0.1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        call = begun_call(gateway, channel, path)
        await until(lambda: gateway.services.lifecycle._num_begun)
        assert not await begin(gateway)
        await cut_off(gateway.services, gateway.server, gateway.door)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            [event async for event in call]
    assert grpc_failure(error.value).code == "draining"


async def test_who_waits_in_line_is_refused_with_a_ticket_for_the_place(
    gateway: Gateway, doors: list[Door]
) -> None:
    gateway.services.settings = replace(gateway.settings, drain_s=0.1)
    permits = [await gateway.queue.acquire(band="interactive", deadline=float("inf")) for _ in range(2)]
    asked = asyncio.create_task(gateway.ask())
    await until(lambda: gateway.queue.num_waiting == 1)
    assert not await begin(gateway)
    await cut_off(gateway.services, gateway.server, gateway.door)
    reply = await asked
    ticket = reply.json()["error"]["ticket"]
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
    assert int(reply.headers["retry-after"]) >= 1
    gateway.services.lifecycle.state = State.READY
    order: list[str] = []

    async def again(name: str, **extra: object) -> None:
        assert (await gateway.ask(name, **extra)).status_code == 200
        order.append(name)

    gateway.fast.delay_s = 0.1
    later = asyncio.create_task(again("later"))
    await until(lambda: gateway.queue.num_waiting == 1)
    first = asyncio.create_task(again("first", tidegate={"ticket": ticket}))
    await until(lambda: gateway.queue.num_waiting == 2)
    permits[0].release()
    await asyncio.gather(first, later)
    permits[1].release()
    assert order == ["first", "later"]
