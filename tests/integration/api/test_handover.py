"""Streams that a drain has no time for: left behind, and gone on with by whoever gets the client next."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.lifecycle import State
from gateway.proto import chat_pb2 as pb
from gateway.shutdown import cut_off, drain
from gateway.storage import handovers, ledger
from gateway.types import Delta
from tests.fakes.engines import PASSAGES, passage
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import CHAT as GRPC_CHAT
from tests.integration.api.doors import grpc_request
from tests.waiting import until

CHAT = "/v1/chat/completions"
QUESTION = "What is a tide gate?"
WORDS = [f"word{number} " for number in range(40)]


@dataclass
class Got:
    """What a client has of one answer, over all its connections."""

    texts: list[str] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    last_id: str = ""
    coming_id: str = ""
    error: dict[str, Any] | None = None
    usage: dict[str, int] = field(default_factory=dict)
    receipt: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def take(self, line: str) -> None:
        if line.startswith("id: "):
            self.coming_id = line[4:]
        elif line == "":  # an event counts when it is whole
            self.last_id = self.coming_id
        elif line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            self._event(json.loads(line[6:]))

    def _event(self, event: dict[str, Any]) -> None:
        self.error = event.get("error", self.error)
        self.usage = event.get("usage", self.usage)
        self.receipt = event.get("tidegate", {}).get("receipt", self.receipt)
        for choice in event.get("choices", []):
            self.texts += [text] if (text := choice["delta"].get("content", "")) else []
            self.annotations += [each["file_citation"] for each in choice["delta"].get("annotations", [])]


def body(**extra: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    return {
        "model": "fast",
        "stream": True,
        "messages": messages,
        "stream_options": {"include_usage": True},
    } | extra


async def read(gateway: Gateway, got: Got, *, after: str = "", **extra: Any) -> int:
    headers = gateway.auth() | ({"last-event-id": after} if after else {})
    got.error = None
    async with gateway.client.stream("POST", CHAT, json=body(**extra), headers=headers) as answer:
        if answer.status_code != 200:
            got.error = json.loads(await answer.aread())["error"]
        else:
            async for line in answer.aiter_lines():
                got.take(line)
    return answer.status_code


async def cut(gateway: Gateway, got: Got, num_texts: int, **extra: Any) -> None:
    """One stream that is cut by the end of a drain once so many texts have come; then the worker is as before."""
    gateway.services.settings = replace(gateway.settings, drain_s=0.0)
    asked = asyncio.create_task(read(gateway, got, **extra))
    await until(lambda: len(got.texts) >= num_texts)
    assert not await drain(gateway.services, gateway.server, _NoDoor())  # type: ignore[arg-type]
    await cut_off(gateway.services, gateway.server, gateway.door)
    assert await asked == 200
    gateway.services.lifecycle.state = State.READY


class _NoDoor:
    def retire(self, grace_s: float) -> None:
        """The gRPC door of the fixture is needed no more than once."""


def billed(gateway: Gateway) -> list[tuple[int, int]]:
    with gateway.services.database.read() as conn:
        tenant = str(conn.exec_driver_sql("SELECT id FROM tenants WHERE name='acme'").scalar_one())
        return [(each.prompt_tokens, each.completion_tokens) for each in ledger.usage_totals(conn, tenant)]


async def test_a_stream_that_is_cut_is_gone_on_with_and_nothing_is_lost_or_doubled(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 8)
    assert got.error is not None
    assert got.error["code"] == "draining"
    assert got.error["last_event_id"].rpartition(".")[0] == got.last_id.rpartition(".")[0]
    assert 8 <= len(got.texts) < len(WORDS)
    assert await read(gateway, got, after=got.error["last_event_id"]) == 200
    assert (got.text, got.is_done, got.error) == ("".join(WORDS), True, None)
    assert got.receipt["tier_reason"].startswith("goes on with chatcmpl-")


async def test_it_may_be_cut_again_and_again(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 5)
    for num_texts in (12, 20):
        await cut(gateway, got, num_texts, after=got.last_id)
        assert got.text == "".join(WORDS)[: len(got.text)]
    assert await read(gateway, got, after=got.last_id) == 200
    assert (got.text, got.is_done) == ("".join(WORDS), True)


async def test_a_client_that_lost_the_last_events_gets_them_again(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 10)
    stream, _, _ = got.last_id.rpartition(".")
    had = Got(texts=WORDS[:3])
    assert await read(gateway, had, after=f"{stream}.3") == 200
    assert had.text == "".join(WORDS)


async def test_auto_stays_with_the_tier_that_began(gateway: Gateway) -> None:
    gateway.fast.texts = gateway.deep.texts = WORDS
    gateway.fast.gap_s = gateway.deep.gap_s = 0.02
    got = Got()
    await cut(gateway, got, 3, model="auto", tidegate={"deadline_ms": 60_000})
    began = [gateway.fast.started, gateway.deep.started]
    await read(gateway, got, after=got.last_id, model="auto", tidegate={"deadline_ms": 60_000})
    assert [gateway.fast.started, gateway.deep.started] == [2 * number for number in began]
    assert got.text == "".join(WORDS)


async def test_the_whole_answer_is_billed_once(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 8)
    await read(gateway, got, after=got.last_id)
    await gateway.services.recorder.flush()
    assert billed(gateway) == [(7, len(WORDS))]
    assert got.usage["prompt_tokens"] == 0  # of this part
    assert 0 < got.usage["completion_tokens"] < len(WORDS)


async def test_it_stands_on_the_same_evidence_with_the_same_citations(gateway: Gateway) -> None:
    gateway.fast.gap_s = 0.5
    got = Got()
    await cut(gateway, got, 1)
    assert len(got.annotations) == 1
    gateway.retriever.passages = [passage(9, "Another document says something else."), *PASSAGES]
    gateway.fast.gap_s = 0.0
    assert await read(gateway, got, after=got.last_id) == 200
    assert (
        got.text == "A tide gate lets water through one way. [1] Envoy balances gRPC over the replicas. [2]"
    )
    assert [each["passage"] for each in got.annotations] == [1, 2]
    for each in got.annotations:
        assert got.text[: each["index"]].endswith(f"[{each['passage']}]")
    assert len(got.receipt["passages"]) == 2
    assert gateway.retriever.started == 1


async def test_a_tier_that_keeps_tokens_is_given_its_own(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    original = gateway.fast._deltas

    def with_ids(passages: Any) -> list[Delta]:
        made = original(passages)
        steps = [
            Delta(text=each.text, num_output_tokens=at + 1, ids=bytes([at, 0, 0, 0]), said=each.text)
            for at, each in enumerate(made[:-1])
        ]
        return [*steps, made[-1]]

    gateway.fast._deltas = with_ids  # type: ignore[method-assign]
    got = Got()
    await cut(gateway, got, 8)
    await read(gateway, got, after=got.last_id)
    inquiry = gateway.fast.inquiries[-1]
    num_ids = len(inquiry.ids) // 4
    assert num_ids >= 8
    assert inquiry.ids == b"".join(bytes([at, 0, 0, 0]) for at in range(num_ids))
    assert inquiry.said == "".join(WORDS[:num_ids])
    assert got.text == "".join(WORDS)


async def test_an_answer_that_would_be_another_one_ends_with_an_error(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 8)
    had = got.text
    gateway.fast.texts = ["word0 ", "and then something else"]
    assert await read(gateway, got, after=got.last_id) == 502
    assert got.error is not None
    assert (got.error["code"], got.text) == ("stream_diverged", had)
    gateway.fast.texts = WORDS[:2]  # the beginning is the same, and there is less of it
    assert await read(gateway, got, after=got.last_id) == 502
    assert (got.error["code"], got.text) == ("stream_diverged", had)


@pytest.mark.parametrize(
    ("after", "extra", "status", "code"),
    [
        ("nonsense", {}, 400, "invalid_last_event_id"),
        ("chatcmpl-" + 32 * "0" + ".3", {}, 404, "stream_not_found"),
        ("{last_id}", {"messages": [{"role": "user", "content": "Another one?"}]}, 409, "stream_mismatch"),
        ("{last_id}", {"stream": False, "stream_options": None}, 400, "invalid_request"),
    ],
    ids=["malformed", "unknown", "another question", "not a stream"],
)
async def test_what_cannot_be_gone_on_with_is_refused(
    gateway: Gateway, after: str, extra: dict[str, Any], status: int, code: str
) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 2)
    assert await read(gateway, got, after=after.format(last_id=got.last_id), **extra) == status
    assert got.error is not None
    assert got.error["code"] == code


async def test_another_tenants_stream_is_unknown(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 2)
    headers = gateway.auth("rival") | {"last-event-id": got.last_id}
    reply = await gateway.client.post(CHAT, json=body(), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "stream_not_found")


async def test_without_redis_the_client_is_told_that_it_must_begin_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("Redis is away")

    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    monkeypatch.setattr(gateway.services.redis, "set", away)
    await cut(gateway, got, 3)
    assert got.error is not None
    assert got.error["code"] == "draining"
    assert "last_event_id" not in got.error
    monkeypatch.setattr(gateway.services.redis, "get", away)
    assert await read(gateway, got, after=got.last_id) == 503
    assert got.error["code"] == "redis_unavailable"


async def test_what_is_left_is_kept_for_two_minutes(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 2)
    keys = [key async for key in gateway.services.redis.scan_iter("tidegate:handover:*")]
    assert len(keys) >= 1
    assert 0 < await gateway.services.redis.ttl(keys[0]) <= handovers.KEPT_S


async def test_a_waiter_whose_stream_is_open_is_handed_over_too(gateway: Gateway) -> None:
    permits = [await gateway.queue.acquire(band="interactive", deadline=float("inf")) for _ in range(2)]
    got = Got()
    gateway.services.settings = replace(gateway.settings, drain_s=0.0)
    asked = asyncio.create_task(read(gateway, got, tidegate={"events": True}))
    await until(lambda: got.last_id)
    assert not await drain(gateway.services, gateway.server, _NoDoor())  # type: ignore[arg-type]
    await cut_off(gateway.services, gateway.server, gateway.door)
    assert await asked == 200
    assert got.error is not None
    assert got.error["last_event_id"]
    gateway.services.lifecycle.state = State.READY
    for permit in permits:
        permit.release()
    assert await read(gateway, got, after=got.error["last_event_id"]) == 200
    assert got.is_done
    assert got.text.startswith("A tide gate lets water")


async def ask_grpc(gateway: Gateway, got: Got, *, after: str = "") -> grpc.aio.AioRpcError | None:
    """A question over gRPC; what ended it."""
    metadata = gateway.auth() | ({"last-event-id": after} if after else {})
    request = grpc_request({"model": "fast", "messages": [{"role": "user", "content": QUESTION}]})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        ask = channel.unary_stream(GRPC_CHAT, response_deserializer=pb.ChatEvent.FromString)
        try:
            async for event in ask(request.SerializeToString(), metadata=tuple(metadata.items())):
                got.texts += [event.delta.text] if event.delta.text else []
                got.is_done = event.HasField("done")
        except grpc.aio.AioRpcError as error:
            return error
    return None


def details(error: grpc.aio.AioRpcError | None) -> tuple[str, str]:
    """The error's code, and where it says that the stream can be gone on with."""
    assert error is not None
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return info.reason, info.metadata.get("last_event_id", "")


async def test_over_grpc_a_call_that_is_cut_is_gone_on_with_by_metadata(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    gateway.services.settings = replace(gateway.settings, drain_s=0.0)
    got = Got()
    asked = asyncio.create_task(ask_grpc(gateway, got))
    await until(lambda: len(got.texts) >= 8)
    assert not await drain(gateway.services, gateway.server, _NoDoor())  # type: ignore[arg-type]
    await cut_off(gateway.services, gateway.server, gateway.door)
    error = await asked
    code, after = details(error)
    assert error is not None
    assert (error.code(), code) == (grpc.StatusCode.UNAVAILABLE, "draining")
    assert 8 <= len(got.texts) < len(WORDS)
    gateway.services.lifecycle.state = State.READY
    assert await ask_grpc(gateway, got, after=after) is None
    assert (got.text, got.is_done) == ("".join(WORDS), True)
    await gateway.services.recorder.flush()
    assert billed(gateway) == [(7, len(WORDS))]


async def test_over_grpc_what_cannot_be_gone_on_with_is_refused_alike(gateway: Gateway) -> None:
    got = Got()
    assert details(await ask_grpc(gateway, got, after="nonsense"))[0] == "invalid_last_event_id"
    unknown = "chatcmpl-" + 32 * "0" + ".3"
    assert details(await ask_grpc(gateway, got, after=unknown))[0] == "stream_not_found"
    assert got.texts == []


async def test_a_stream_of_one_door_is_gone_on_with_at_the_other(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.02
    got = Got()
    await cut(gateway, got, 8)
    assert await ask_grpc(gateway, got, after=got.last_id) is None
    assert (got.text, got.is_done) == ("".join(WORDS), True)


async def test_a_reader_that_was_slow_misses_nothing(gateway: Gateway) -> None:
    """What it had no time to take is dropped, and where to go on from says so."""
    gateway.services.settings = replace(gateway.settings, drain_s=0.0, slow_reader_s=30.0)
    gateway.fast.texts = [f"{number:04d} " + 50_000 * "x" for number in range(60)]
    got, cutting = Got(), None
    with contextlib.suppress(httpx.RemoteProtocolError):
        async with gateway.client.stream("POST", CHAT, json=body(), headers=gateway.auth()) as answer:
            async for line in answer.aiter_lines():
                got.take(line)
                if cutting is None and got.texts:
                    await asyncio.sleep(0.3)  # takes nothing, until all buffers are full
                    assert not await drain(gateway.services, gateway.server, _NoDoor())  # type: ignore[arg-type]
                    cutting = asyncio.create_task(cut_off(gateway.services, gateway.server, gateway.door))
                    await until(gateway.services.metrics.handed_over._value.get, within_s=5)
    assert cutting is not None
    await cutting
    assert 1 <= len(got.texts) < 60
    gateway.services.lifecycle.state = State.READY
    after = got.error["last_event_id"] if got.error else got.last_id
    assert await read(gateway, got, after=after) == 200
    assert [int(each[:4]) for each in got.texts] == list(range(60))
    assert got.is_done
