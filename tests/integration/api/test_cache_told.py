"""What the answer cache did is told at both doors, streamed or not; and what it holds is shown to the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest_asyncio

from gateway.caching.threshold import Topic
from gateway.pipeline.memory_parts import answer_memory
from gateway.pipeline.remember import AnswerMemory
from gateway.proto import chat_pb2, chat_pb2_grpc
from gateway.storage import limits
from tests.integration.api.conftest import Gateway

HEADER = "x-tidegate-cache"
QUESTION = "What is a tide gate?"


@pytest_asyncio.fixture
async def remembering(gateway: Gateway) -> AsyncIterator[Gateway]:
    """The gateway with a memory, in step with the corpus."""
    services = gateway.services
    memory = answer_memory(services.settings, services.database, services.redis, services.metrics)
    assert memory is not None
    assert memory.joint is not None
    gateway.retriever.epoch = 0
    await memory.watch.look()
    looking = asyncio.create_task(memory.watch.run())
    services.pipeline.memory = memory
    services.pipeline._gatherer._retrievals = memory.retrievals
    yield gateway
    looking.cancel()
    await memory.answers.settle()
    await memory.joint.close()


async def streamed(gateway: Gateway, **ours: Any) -> str | None:
    """The header of a streamed answer."""
    body = {
        "model": "fast",
        "stream": True,
        "messages": [{"role": "user", "content": QUESTION}],
        "tidegate": ours,
    }
    async with gateway.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=gateway.auth()
    ) as reply:
        await reply.aread()
        return reply.headers.get(HEADER)


async def called(gateway: Gateway, *, events: bool = False) -> tuple[dict[str, str], dict[str, str], str]:
    """Of a gRPC call: its initial and its trailing metadata, and what the receipt says."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        metadata = tuple(gateway.auth().items())
        message = chat_pb2.ChatRequest(
            model="fast",
            events=events,
            messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=QUESTION)],
        )
        call = chat_pb2_grpc.ChatServiceStub(channel).Chat(message, metadata=metadata)
        events_read = [event async for event in call]
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
    return dict(initial), dict(trailing), events_read[-1].done.receipt.cache


async def test_a_stream_says_it_in_its_header(remembering: Gateway) -> None:
    told = [await streamed(remembering) for _ in range(2)]
    told += [await streamed(remembering, cache=choice) for choice in ("refresh", "off")]
    assert told == ["miss", "exact", "refresh", "off"]


async def test_a_remembered_stream_tells_the_callers_limits(remembering: Gateway) -> None:
    with remembering.services.database.write() as conn:
        assert limits.set_tenant_limits(conn, "acme", {"requests_per_minute": 10})
    remembering.services.auth.forget_all()
    replies = [await remembering.ask(QUESTION, stream=True) for _ in range(2)]
    assert [reply.headers[HEADER] for reply in replies] == ["miss", "exact"]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["9", "8"]


async def test_who_reads_along_is_told_so_with_the_first_text(remembering: Gateway) -> None:
    remembering.fast.gap_s, remembering.fast.delay_s = 0.02, 0.05
    told = await asyncio.gather(*(streamed(remembering) for _ in range(4)))
    assert sorted(filter(None, told)) == ["joined", "joined", "joined", "miss"]


async def test_a_call_says_it_in_its_metadata(remembering: Gateway) -> None:
    for verdict in ("miss", "exact"):
        initial, trailing, receipt = await called(remembering)
        assert (initial[HEADER], trailing[HEADER], receipt) == (verdict,) * 3


async def test_a_call_that_begins_before_it_is_known_says_it_at_its_end(remembering: Gateway) -> None:
    remembering.retriever.delay_s = 0.1
    initial, trailing, _ = await called(remembering, events=True)
    assert HEADER not in initial
    assert trailing[HEADER] == "miss"


async def test_without_a_memory_all_is_off(gateway: Gateway) -> None:
    assert await streamed(gateway) == "off"
    assert (await gateway.ask()).headers[HEADER] == "off"


async def test_a_draw_is_given_again_to_whoever_asks_for_it_at_either_door(remembering: Gateway) -> None:
    tiers = remembering.services.pipeline.tiers.tiers
    tiers["deep"] = replace(tiers["deep"], context_tokens=4096)  # one that writes

    async def posted(**ours: str) -> str:
        reply = await remembering.ask(model="deep", temperature=0.7, tidegate=ours)
        return str(reply.headers[HEADER])

    assert [await posted() for _ in range(2)] == ["off", "off"]
    assert [await posted(cache="use") for _ in range(2)] == ["miss", "exact"]

    async def drawn(choice: chat_pb2.CacheUse | None) -> str:
        question = chat_pb2.Message(role=chat_pb2.ROLE_USER, content=QUESTION)
        message = chat_pb2.ChatRequest(model="deep", temperature=0.7, messages=[question], cache=choice)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{remembering.grpc_port}") as channel:
            call = chat_pb2_grpc.ChatServiceStub(channel).Chat(
                message, metadata=tuple(remembering.auth().items())
            )
            return str([event async for event in call][-1].done.receipt.cache)

    assert [await drawn(each) for each in (None, chat_pb2.CACHE_USE_UNSPECIFIED)] == ["off", "off"]
    assert [await drawn(each) for each in (chat_pb2.CACHE_USE_USE, chat_pb2.CACHE_USE_REFRESH)] == [
        "exact",
        "refresh",
    ]


async def view(gateway: Gateway, tenant: str = "operator") -> Any:
    return await gateway.client.get("/admin/cache", headers=gateway.auth(tenant))


async def test_the_operator_sees_what_the_cache_holds_and_how_often_it_was_wrong(
    remembering: Gateway,
) -> None:
    for _ in range(3):
        await remembering.ask()
    await remembering.client.post(
        "/v1/embeddings",
        json={"model": "all-MiniLM-L6-v2", "input": ["a", "b", "a"]},
        headers=remembering.auth(),
    )
    memory = remembering.services.pipeline.memory
    assert isinstance(memory, AnswerMemory)
    topic = Topic("acme", "fast", ("vs_1",))
    for was_right in (True, True, False):
        memory.thresholds.observe(topic, 0.9, was_right=was_right)
    for was_right in (True, False, False):
        memory.thresholds.observe(topic, 0.98, was_right=was_right, was_given=False)
    shown = (await view(remembering)).json()
    assert shown["verdicts"] == {"miss": 1, "exact": 2}
    assert shown["hit_rate"] == 0.6667
    wrong = shown["false_hits"]
    assert (wrong["budget"], wrong["checked"], wrong["wrong"], wrong["rate"]) == (0.005, 3, 1, 0.333333)
    assert 0.33 < wrong["bound"] < 1
    shadows = wrong["shadows"]
    assert (shadows["compared"], shadows["wrong"], shadows["rate"]) == (3, 2, 0.666667)
    assert 0.66 < shadows["bound"] < 1
    assert wrong["threshold"] == {"start": 0.8, "median": None}
    assert wrong["topics"] == {"learned": 1, "closed": 1}
    (told,) = wrong["latest_topics"]
    assert (told["tenant"], told["tier"], told["collections"]) == ("acme", "fast", ["vs_1"])
    assert (told["threshold"], told["compared"], told["wrong"]) == (None, 6, 3)
    assert told["bound"] > 0.005
    assert (shown["answers"]["entries"], shown["searches"]["entries"]) == (1, 1)
    assert shown["answers"]["bytes"] > 0
    assert (shown["vectors"]["entries"], shown["vectors"]["miss"]) == (2, 3)  # the question, too, once
    assert shown["flights"] == {"followers": 0, "alone": 1}


async def test_before_anything_was_checked_no_rate_is_made_up(remembering: Gateway) -> None:
    shown = (await view(remembering)).json()
    assert (shown["false_hits"]["rate"], shown["false_hits"]["bound"], shown["hit_rate"]) == (None, 1.0, None)


async def test_the_first_wrong_hit_counts_as_a_rise(remembering: Gateway) -> None:
    """Rules take a series that begins at 1 for no rise, so each begins at 0; the budget stands beside them."""
    reply = await remembering.client.get("/metrics", headers=remembering.auth("operator"))
    lines = reply.text.splitlines()
    for result in ("right", "wrong", "unclear"):
        assert f'tidegate_cache_checked_total{{result="{result}"}} 0.0' in lines
    assert "tidegate_cache_false_hit_budget 0.005" in lines


async def test_the_view_needs_an_admin_key_and_says_when_the_cache_is_off(gateway: Gateway) -> None:
    assert (await view(gateway, "acme")).status_code == 403
    assert (await view(gateway)).json() == {"object": "cache", "is_on": False}
