"""One piece of work, many readers: who joins it, who leaves it, and that nobody waits for another."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.types import Receipt, Tenant
from tests.fakes.engines import PASSAGES
from tests.fakes.memory import MemoryBench
from tests.fakes.pipelines import ListeningSink


async def test_five_hundred_cold_questions_are_one_piece_of_work(bench: MemoryBench) -> None:
    bench.answerer.texts, bench.answerer.gap_s = [f"word{number} " for number in range(40)], 0.001
    sinks = [ListeningSink() for _ in range(500)]
    receipts = await asyncio.gather(*(bench.into(sink) for sink in sinks))
    assert (bench.answerer.started, bench.retriever.started) == (1, 1)
    assert {sink.text for sink in sinks} == {"".join(bench.answerer.texts)}
    assert sorted({receipt.cache for receipt in receipts}) == ["joined", "miss"]
    assert sum(receipt.outcome == "completed" for receipt in receipts) == 1
    assert {receipt.finish_reason for receipt in receipts} == {"stop"}


async def test_who_comes_late_gets_the_replay_and_then_what_comes(bench: MemoryBench) -> None:
    bench.answerer.texts, bench.answerer.gap_s = ["a", "b", "c", "d"], 0.02
    early, late = ListeningSink(), ListeningSink()
    leading = asyncio.create_task(bench.into(early))
    await early.started.wait()
    joined = await bench.into(late)
    await leading
    assert (late.text, joined.cache, joined.outcome) == ("abcd", "joined", "cached")
    assert joined.passages[0]["file_id"] == PASSAGES[0].file_id


async def test_a_slow_reader_delays_nobody(bench: MemoryBench) -> None:
    bench.answerer.texts = [f"{number} " for number in range(20)]
    slow = asyncio.create_task(bench.into(ListeningSink(gap_s=0.05)))
    await asyncio.sleep(0)
    started = time.monotonic()
    await bench.ask()
    assert time.monotonic() - started < 0.5
    assert not slow.done()
    await slow


async def test_the_first_one_may_leave_and_the_last_one_ends_the_work(bench: MemoryBench) -> None:
    bench.answerer.texts, bench.answerer.gap_s = ["a", "b", "c", "d", "e"], 0.02
    first, second = ListeningSink(), ListeningSink()
    leader = asyncio.create_task(bench.into(first))
    await first.started.wait()
    follower = asyncio.create_task(bench.into(second))
    await second.started.wait()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert bench.answerer.cancelled == 0
    await follower
    assert second.text == "abcde"
    alone = asyncio.create_task(bench.into(third := ListeningSink(), "Another one?"))
    await third.started.wait()
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
    assert (bench.answerer.cancelled, bench.queue.inflight) == (1, 0)
    assert [(record.outcome, record.cause) for record in bench.records][-1] == ("evicted", "client_gone")


async def test_whenever_the_first_one_leaves_no_answer_is_lost(bench: MemoryBench) -> None:
    chance = random.Random(7)
    bench.answerer.texts, bench.answerer.gap_s = [f"{number} " for number in range(6)], 0.0005
    bench.retriever.delay_s = 0.0005
    whole = "".join(bench.answerer.texts)
    for number in range(200):
        sinks = [ListeningSink() for _ in range(4)]
        asked = [asyncio.create_task(bench.into(sink, f"Question {number}?")) for sink in sinks]
        await asyncio.sleep(chance.uniform(0, 0.006))
        asked[0].cancel()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [sink.text for sink in sinks[1:]] == [whole] * 3
        assert all(isinstance(result, Receipt) for result in results[1:])
    assert bench.queue.inflight == 0


async def test_an_error_reaches_every_reader_and_is_not_remembered(bench: MemoryBench) -> None:
    bench.answerer.fail_with, bench.answerer.delay_s = UpstreamUnavailable("away"), 0.02
    results = await asyncio.gather(*(bench.ask() for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, UpstreamUnavailable) for result in results)
    assert bench.answerer.started <= 3  # the tier and those in its place
    assert {record.outcome for record in bench.records} == {"failed"}


async def test_who_has_more_time_than_the_first_one_goes_on_alone(bench: MemoryBench) -> None:
    bench.answerer.delay_s = 0.15
    hurried = asyncio.create_task(bench.ask(deadline=time.monotonic() + 0.05, has_own_deadline=True))
    await asyncio.sleep(0.01)
    patient = await bench.ask()
    assert patient.finish_reason == "stop"
    with pytest.raises(Exception, match="deadline"):
        await hurried


async def test_tenants_never_share_work(bench: MemoryBench) -> None:
    bench.answerer.delay_s = 0.02
    receipts = await asyncio.gather(*(bench.ask(tenant=Tenant(name)) for name in ("acme", "rival")))
    assert [receipt.cache for receipt in receipts] == ["miss", "miss"]
    assert bench.answerer.started == 2
