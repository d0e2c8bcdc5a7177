"""One answer for all workers: over a real Redis, which is frozen, killed and filled, with leaders that die."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.caching.claims import CHANNEL, claim_name
from gateway.pipeline import relay as relay_module
from gateway.pipeline.flight_mail import Done, Steps, StepWriter
from gateway.pipeline.route import Route
from gateway.pipeline.shared_work import Told
from gateway.tiering.tiers import builtin_tiers
from gateway.types import Outcome, Receipt, Tenant
from tests.fakes.memory import ListeningSink
from tests.fakes.redis_process import RedisProcess, running_redis
from tests.fakes.workers import TEXTS, Worker, worker

WHOLE = "".join(TEXTS)
LIMIT_S = 10
QUESTION = "What is a tide gate?"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    with running_redis(tmp_path) as process:
        yield process


@pytest_asyncio.fixture
async def pair(server: RedisProcess, tmp_path: Path) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(worker(tmp_path / name, server.url, num_slots=50))
            for name in ("a", "b")
        ]
        for each in made:
            each.answerer.texts = TEXTS
            each.retriever.delay_s = 0.02  # as a real one: time in which Redis may say who leads
        yield made


def started(workers: list[Worker]) -> int:
    return sum(each.answerer.started for each in workers)


async def until(is_so: Callable[[], object], what: str) -> None:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < LIMIT_S, what
        await asyncio.sleep(0.005)


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
    early, late = ListeningSink(), ListeningSink()
    leading = asyncio.create_task(first.into(early))
    await early.started.wait()
    await until(lambda: len(early.text) > 40, "some of it was sent")
    joined = await second.into(late)
    made = await leading
    assert (early.text, late.text) == (WHOLE, WHOLE)
    assert (joined.cache, joined.outcome, made.cache) == ("joined", "cached", "miss")
    assert joined.passages == made.passages
    assert 0 < joined.usage.completion_tokens < made.usage.completion_tokens
    assert joined.ttft_ms < 300
    assert (joined.embed_ms, joined.search_ms) == (-1, -1)


async def test_the_answer_that_was_just_made_is_found_in_its_place(pair: list[Worker]) -> None:
    """There is no moment between the end of the work and the cache's knowing of it."""
    for number in range(40):
        question = f"Question {number}?"
        await pair[0].ask(question)
        assert (await pair[1].ask(question)).cache in {"joined", "exact"}
    assert (pair[0].answerer.started, pair[1].answerer.started) == (40, 0)


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
    one, other = ListeningSink(), ListeningSink()
    leader = asyncio.create_task(first.into(one))
    await one.started.wait()
    follower = asyncio.create_task(second.into(other))
    await other.started.wait()
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
    assert started(pair) < 230  # a new leader now and then
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
    one, slow = ListeningSink(), ListeningSink(gap_s=0.02)
    leading = asyncio.create_task(first.into(one))
    await one.started.wait()
    following = asyncio.create_task(second.into(slow))
    await slow.started.wait()
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


# Leaders that die.


def leading_process(server: RedisProcess, folder: Path, gap_s: float) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.fakes.workers", str(folder), server.url, QUESTION, str(gap_s)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"begun\n"
    return process


async def test_a_leader_that_is_killed_hands_over_and_nothing_is_sent_twice(
    server: RedisProcess, pair: list[Worker], tmp_path: Path
) -> None:
    process = await asyncio.to_thread(leading_process, server, tmp_path / "dying", 0.02)
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
    assert time.monotonic() - began < 2
    assert [sink.text for sink in sinks] == [WHOLE] * 6
    assert started(pair) == 1
    assert sorted(receipt.cache for receipt in receipts).count("miss") == 1
    assert sorted(role for each in pair for role in each.flights()) == ["followed", "taken_over"]


async def test_a_leader_that_stands_still_is_given_up(
    server: RedisProcess, pair: list[Worker], tmp_path: Path
) -> None:
    process = await asyncio.to_thread(leading_process, server, tmp_path / "still", 0.02)
    try:
        sink = ListeningSink()
        asked = asyncio.create_task(pair[0].into(sink))
        await sink.started.wait()
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
    one, other = ListeningSink(), ListeningSink()
    leading = asyncio.create_task(first.into(one))
    await one.started.wait()
    receipt = await second.into(other)
    assert (other.text, receipt.cache) == (WHOLE, "miss")
    with pytest.raises(Exception, match="went wrong"):
        await leading


async def test_an_answer_that_comes_out_otherwise_is_not_mixed(pair: list[Worker]) -> None:
    first, second = pair
    first.answerer.gap_s = 0.01
    first.answerer.fail_with, first.answerer.fail_at = RuntimeError("boom"), 5
    second.answerer.texts = ["Quite another answer."]
    one, other = ListeningSink(), ListeningSink()
    leading = asyncio.create_task(first.into(one))
    await one.started.wait()
    with pytest.raises(Exception, match="broke off"):
        await second.into(other)
    assert WHOLE.startswith(other.text)
    assert len(second.answers) == 0
    await asyncio.wait({leading})


async def test_who_leads_may_turn_out_after_the_work_was_begun(
    pair: list[Worker], server: RedisProcess
) -> None:
    """Nobody waits for a Redis that is slow to say who leads; it is heeded as long as nothing was sent."""
    first, second = pair
    first.answerer.gap_s = 0.02
    second.retriever.delay_s = 0.4
    one, other = ListeningSink(), ListeningSink()
    leading = asyncio.create_task(first.into(one))
    await one.started.wait()
    server.freeze()
    following = asyncio.create_task(second.into(other))
    try:
        await until(lambda: second.retriever.started, "it does not wait")
    finally:
        server.thaw()
    receipt = await following
    await leading
    assert (other.text, receipt.cache) == (WHOLE, "joined")
    assert (second.retriever.cancelled, second.answerer.started, second.queue.inflight) == (1, 0, 0)


async def test_a_claim_that_is_heard_of_late_leads_all_the_same(
    pair: list[Worker], server: RedisProcess
) -> None:
    first, second = pair
    first.answerer.gap_s, first.retriever.delay_s = 0.02, 0.2
    one, other = ListeningSink(), ListeningSink()
    server.freeze()
    leading = asyncio.create_task(first.into(one))
    try:
        await until(lambda: first.retriever.started, "it does not wait")
    finally:
        server.thaw()
    await one.started.wait()
    receipt = await second.into(other)
    await leading
    assert (one.text, other.text, receipt.cache) == (WHOLE, WHOLE, "joined")
    assert (second.answerer.started, first.flights()) == (0, {"led": 1})


# Redis that is away, and what others write to it.


async def test_a_redis_that_stands_still_costs_a_question_five_milliseconds(
    server: RedisProcess, pair: list[Worker]
) -> None:
    for each in pair:
        each.answerer.texts, each.retriever.delay_s = ["Short."], 0
    await pair[0].ask("To be warm?")
    server.freeze()
    try:
        waits = []
        for number in range(60):
            began = time.perf_counter()
            receipt = await pair[number % 2].ask(f"Question {number}?")
            waits.append(time.perf_counter() - began)
            assert receipt.cache == "miss"
    finally:
        server.thaw()
    waits.sort()
    assert waits[-3] < 0.02  # each worker's first one waits; what is more is this machine's
    assert waits[-1] < 0.5
    assert {role for each in pair for role in each.flights()} <= {"led", "alone"}


async def test_redis_may_stand_still_or_die_in_the_middle(server: RedisProcess, pair: list[Worker]) -> None:
    for number, harm in enumerate((server.freeze, server.kill)):
        question = f"Question {number}?"
        for each in pair:
            each.answerer.gap_s = 0.02
        sinks = [ListeningSink(), ListeningSink()]
        one = asyncio.create_task(pair[0].into(sinks[0], question))
        await sinks[0].started.wait()
        other = asyncio.create_task(pair[1].into(sinks[1], question))
        await sinks[1].started.wait()
        harm()
        receipts = await asyncio.gather(one, other)
        assert [sink.text for sink in sinks] == [WHOLE, WHOLE]
        assert [receipt.cache for receipt in receipts] == ["miss", "miss"]
        server.thaw() if number == 0 else server.start()
        await until(lambda: not any(each.trips.is_resting for each in pair), "it is tried again")
        for each in pair:
            await each.trips.post("PING")


async def test_what_is_no_message_of_ours_does_no_harm(pair: list[Worker]) -> None:
    first, second = pair
    first.answerer.gap_s = 0.01
    one, other = ListeningSink(), ListeningSink()
    leading = asyncio.create_task(first.into(one))
    await one.started.wait()
    following = asyncio.create_task(second.into(other))
    await other.started.wait()
    (flight,) = second.joint.relay._followed
    for body in (b"", b"\xff\xff", b"x\n\x81", flight.encode() + b"\n\x91", flight.encode()):
        for each in pair:
            await first.redis.publish(CHANNEL + each.joint.relay.worker, body)
    await asyncio.gather(leading, following)
    assert (one.text, other.text) == (WHOLE, WHOLE)
    assert started(pair) == 1


async def test_messages_that_are_lost_are_asked_for_again(pair: list[Worker], server: RedisProcess) -> None:
    first, second = pair
    texts = [f"{number} " for number in range(150)]
    for each in pair:
        each.answerer.texts, each.answerer.gap_s = texts, 0.01
    one, other = ListeningSink(), ListeningSink()
    leading = asyncio.create_task(first.into(one))
    await one.started.wait()
    following = asyncio.create_task(second.into(other))
    await other.started.wait()
    while not leading.done():
        await asyncio.to_thread(server.command, "CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.wait({leading}, timeout=0.3)
    async with asyncio.timeout(LIMIT_S):
        await following
    assert one.text == other.text == "".join(texts)


async def test_a_gap_is_seen_and_repeats_are_left_out() -> None:
    box, writer = relay_module._Followed(), StepWriter()
    steps = [writer.write(Told(str(number))) for number in range(6)]
    box.hear(Steps(0, steps[:2]))
    box.hear(Steps(3, steps[3:4]))
    assert (box.misses_some, box.at) == (True, 2)
    box.hear(Done(6, Receipt(id="x", created=1, outcome=Outcome.FAILED)))
    assert box.made is None
    box.hear(Steps(1, steps[1:]))
    assert (box.misses_some, list(box.steps)) == (False, [Told(str(number)) for number in range(6)])
