"""One answer for all workers: who shares it over a real Redis, and what happens when readers leave."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.pipeline import relay as relay_module
from gateway.types import Receipt, Tenant
from tests.fakes.pipelines import ListeningSink
from tests.fakes.workers import TEXTS, Worker
from tests.integration.flights.readers import LIMIT_S, WHOLE, reading, started
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("patient")


async def test_five_hundred_cold_questions_over_two_workers_are_one_piece_of_work(pair: list[Worker]) -> None:
    for each in pair:
        each.answerer.gap_s = 0.002
    sinks = [ListeningSink() for _ in range(500)]
    asked = [pair[number % 2].into(sink) for number, sink in enumerate(sinks)]
    receipts = await asyncio.gather(*asked)
    assert started(pair) == 1
    assert {sink.text for sink in sinks} == {WHOLE}
    told = [receipt.cache for receipt in receipts]
    assert (told.count("miss"), told.count("joined")) == (1, 499)
    assert {receipt.finish_reason for receipt in receipts} == {"stop"}
    assert sorted(role for each in pair for role in each.flights()) == ["followed", "led"]


async def test_who_comes_late_elsewhere_gets_the_replay_and_then_what_comes(pair: list[Worker]) -> None:
    first, second = pair
    first.answerer.gap_s = 0.01
    late = ListeningSink()
    early, leading = await reading(first)
    await until(lambda: len(early.text) > 40, "some of it was sent")
    following = asyncio.create_task(second.into(late))
    await late.started.wait()
    assert not leading.done()
    joined, made = await following, await leading
    assert (early.text, late.text) == (WHOLE, WHOLE)
    assert (joined.cache, joined.outcome, made.cache) == ("joined", "cached", "miss")
    assert joined.passages == made.passages
    assert 0 < joined.usage.completion_tokens < made.usage.completion_tokens
    assert (joined.embed_ms, joined.search_ms) == (-1, -1)


async def test_the_answer_that_was_just_made_is_found_in_its_place(
    pair: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no moment between the end of the work and the cache's knowing of it."""
    for place in ("gateway.caching.shared", "gateway.pipeline.remember"):
        monkeypatch.setattr(f"{place}.READ_LIMIT_S", 5.0)  # of the four ms a busy machine may take more
    for number in range(20):
        question = f"Question {number}?"
        await pair[0].ask(question)
        assert (await pair[1].ask(question)).cache in {"joined", "exact"}
    assert (pair[0].answerer.started, pair[1].answerer.started) == (20, 0)


async def test_other_tenants_and_other_bands_share_nothing(pair: list[Worker]) -> None:
    for each in pair:
        each.answerer.gap_s = 0.002
    asked = [
        pair[0].ask(),
        pair[1].ask(tenant=Tenant("rival")),
        pair[1].ask(priority="batch"),
        pair[1].ask(collections=["vs_1"]),
    ]
    assert [receipt.cache for receipt in await asyncio.gather(*asked)] == ["miss"] * 4
    assert started(pair) == 4


async def test_a_refresh_and_an_off_make_their_own(pair: list[Worker]) -> None:
    for each in pair:
        each.answerer.gap_s = 0.005
    leading = asyncio.create_task(pair[0].ask())
    await until(lambda: pair[0].answerer.started, "it is under way")
    receipts = await asyncio.gather(pair[1].ask(cache="off"), pair[1].ask(cache="refresh"))
    assert [receipt.cache for receipt in receipts] == ["off", "refresh"]
    await leading
    assert started(pair) == 3


# Readers that leave.


async def test_it_is_cancelled_when_the_last_reader_anywhere_leaves(pair: list[Worker]) -> None:
    first, second = pair
    first.answerer.gap_s = 0.02
    _, leader = await reading(first)
    other, follower = await reading(second)
    leader.cancel()
    await asyncio.wait({leader})
    await until(lambda: len(other.text) > 60, "it goes on for the other one")
    assert first.answerer.cancelled == 0
    follower.cancel()
    await asyncio.wait({follower})
    await until(lambda: first.answerer.cancelled == 1, "nobody reads any more")
    assert (second.answerer.started, first.queue.inflight) == (0, 0)


async def test_whenever_the_leaders_client_leaves_no_answer_is_lost(pair: list[Worker]) -> None:
    chance = random.Random(11)
    for each in pair:
        each.answerer.texts, each.answerer.gap_s = TEXTS[:8], 0.0005
        each.retriever.delay_s = 0.0005
    whole = "".join(TEXTS[:8])
    for number in range(200):
        sinks = [ListeningSink() for _ in range(4)]
        asked = [
            asyncio.create_task(pair[at % 2].into(sink, f"Question {number}?"))
            for at, sink in enumerate(sinks)
        ]
        await asyncio.sleep(chance.uniform(0, 0.012))
        asked[0].cancel()
        async with asyncio.timeout(LIMIT_S):
            results = await asyncio.gather(*asked, return_exceptions=True)
        assert [sink.text for sink in sinks[1:]] == [whole] * 3
        assert all(isinstance(result, Receipt) for result in results[1:])
    assert started(pair) < 300  # a new leader now and then; 400 would be one in each worker
    assert sum(each.queue.inflight for each in pair) == 0


async def test_a_slow_reader_elsewhere_delays_nobody_and_holds_up_no_more_than_a_window(
    pair: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "WINDOW", 16)
    monkeypatch.setattr(relay_module, "MAX_IDLE", 1)
    first, second = pair
    texts = [f"{number} " for number in range(1000)]
    first.answerer.texts = texts
    first.answerer.gap_s = 0.001
    one, leading = await reading(first)
    slow, following = await reading(second, ListeningSink(gap_s=0.02))
    await leading
    assert one.text == "".join(texts)
    assert not following.done()
    (box,) = second.joint.relay._followed.values()
    assert len(box.steps) <= 16
    await until(lambda: len(slow.text) > 300, "it is served long after the work is done")
    slow.gap_s = 0
    await following
    assert started(pair) == 1
    await until(lambda: not first.joint.relay._led, "then nothing of it is kept")
    assert slow.text == "".join(texts)
