"""Who leads: leaders that are killed, stand still, fail or were never there, and claims that are heard of late."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.caching.claims import claim_name
from gateway.pipeline.route import Route
from gateway.tiering.tiers import builtin_tiers
from tests.fakes.pipelines import ListeningSink
from tests.fakes.redis_process import RedisProcess
from tests.fakes.workers import Worker
from tests.integration.flights.readers import LIMIT_S, QUESTION, WHOLE, reading, started
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("patient")


def leading_process(own_redis: RedisProcess, folder: Path, gap_s: float) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.fakes.workers", str(folder), own_redis.url, QUESTION, str(gap_s)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"begun\n"
    return process


async def test_a_leader_that_is_killed_hands_over_and_nothing_is_sent_twice(
    own_redis: RedisProcess, pair: list[Worker], tmp_path: Path
) -> None:
    process = await asyncio.to_thread(leading_process, own_redis, tmp_path / "dying", 0.02)
    try:
        sinks = [ListeningSink() for _ in range(6)]
        asked = [asyncio.create_task(pair[at % 2].into(sink)) for at, sink in enumerate(sinks)]
        await asyncio.gather(*(sink.started.wait() for sink in sinks))
        assert started(pair) == 0
    finally:
        process.kill()
        process.wait(10)
    began = time.monotonic()
    receipts = await asyncio.gather(*asked)
    assert time.monotonic() - began < LIMIT_S
    assert [sink.text for sink in sinks] == [WHOLE] * 6
    assert started(pair) == 1
    assert sorted(receipt.cache for receipt in receipts).count("miss") == 1
    assert sorted(role for each in pair for role in each.flights()) == ["followed", "taken_over"]


async def test_a_leader_that_stands_still_is_given_up(
    own_redis: RedisProcess, pair: list[Worker], tmp_path: Path
) -> None:
    process = await asyncio.to_thread(leading_process, own_redis, tmp_path / "still", 0.02)
    try:
        sink, asked = await reading(pair[0])
        process.send_signal(19)  # SIGSTOP
        async with asyncio.timeout(LIMIT_S):
            await asked
    finally:
        process.kill()
        process.wait(10)
    assert sink.text == WHOLE
    assert pair[0].flights() == {"taken_over": 1}


async def test_a_claim_that_was_left_behind_leads_nobody_astray(pair: list[Worker]) -> None:
    first, second = pair
    own = first.joint.relay.worker.encode() + b":999"  # of a worker that lives, and leads no such flight
    for number, stale in enumerate((b"0123456789abcdef:7", own, b"\xff\x00", b"no colon")):
        question = f"Question {number}?"
        recalled = await first.memory.recall(first.request(question), Route(builtin_tiers(2, 2)[0]))
        assert recalled is not None
        await first.redis.set(claim_name(recalled.key, "interactive"), stale)
        assert (await second.ask(question)).cache == "miss"
    assert second.answerer.finished == 4


async def test_a_leader_that_fails_leaves_it_to_the_next(pair: list[Worker]) -> None:
    first, second = pair
    first.answerer.gap_s = 0.01
    first.answerer.fail_with, first.answerer.fail_at = RuntimeError("boom"), 5
    other = ListeningSink()
    _, leading = await reading(first)
    receipt = await second.into(other)
    assert (other.text, receipt.cache) == (WHOLE, "miss")
    with pytest.raises(Exception, match="went wrong"):
        await leading


async def test_an_answer_that_comes_out_otherwise_is_not_mixed(pair: list[Worker]) -> None:
    first, second = pair
    first.answerer.gap_s = 0.01
    first.answerer.fail_with, first.answerer.fail_at = RuntimeError("boom"), 5
    second.answerer.texts = ["Quite another answer."]
    other = ListeningSink()
    _, leading = await reading(first)
    with pytest.raises(Exception, match="broke off"):
        await second.into(other)
    assert WHOLE.startswith(other.text)
    assert len(second.answers) == 0
    await asyncio.wait({leading})


async def test_who_leads_may_turn_out_after_the_work_was_begun(
    pair: list[Worker], own_redis: RedisProcess
) -> None:
    """Nobody waits for a Redis that is slow to say who leads; it is heeded as long as nothing was sent."""
    first, second = pair
    first.answerer.gap_s = 0.02
    second.retriever.delay_s = 0.4
    other = ListeningSink()
    _, leading = await reading(first)
    own_redis.freeze()
    following = asyncio.create_task(second.into(other))
    try:
        await until(lambda: second.retriever.started, "it does not wait")
    finally:
        own_redis.thaw()
    receipt = await following
    await leading
    assert (other.text, receipt.cache) == (WHOLE, "joined")
    assert (second.retriever.cancelled, second.answerer.started, second.queue.inflight) == (1, 0, 0)


async def test_a_claim_that_is_heard_of_late_leads_all_the_same(
    pair: list[Worker], own_redis: RedisProcess
) -> None:
    first, second = pair
    first.answerer.gap_s, first.retriever.delay_s = 0.02, 0.2
    one, other = ListeningSink(), ListeningSink()
    own_redis.freeze()
    leading = asyncio.create_task(first.into(one))
    try:
        await until(lambda: first.retriever.started, "it does not wait")
    finally:
        own_redis.thaw()
    await one.started.wait()
    receipt = await second.into(other)
    await leading
    assert (one.text, other.text, receipt.cache) == (WHOLE, WHOLE, "joined")
    assert (second.answerer.started, first.flights()) == (0, {"led": 1})
