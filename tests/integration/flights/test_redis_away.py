"""Joint work while Redis is frozen or killed, loses messages or hands over what is none of ours."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.caching.claims import CHANNEL
from gateway.pipeline import relay as relay_module
from gateway.pipeline.flight_mail import Done, Steps, StepWriter
from gateway.pipeline.shared_work import Told
from gateway.types import Outcome, Receipt
from tests.fakes.redis_process import RedisProcess
from tests.fakes.workers import Worker
from tests.integration.flights.readers import LIMIT_S, WHOLE, reading, started
from tests.waiting import until


async def test_a_redis_that_stands_still_costs_a_question_five_milliseconds(
    own_redis: RedisProcess, pair: list[Worker]
) -> None:
    for each in pair:
        each.answerer.texts, each.retriever.delay_s = ["Short."], 0
    await pair[0].ask("To be warm?")
    own_redis.freeze()
    try:
        waits = []
        for number in range(60):
            began = time.perf_counter()
            receipt = await pair[number % 2].ask(f"Question {number}?")
            waits.append(time.perf_counter() - began)
            assert receipt.cache == "miss"
    finally:
        own_redis.thaw()
    waits.sort()
    # Each worker's first one waits; what is more is this machine's. A trip to Redis would end after 100.
    assert waits[len(waits) // 2] < 0.05
    assert waits[-1] < 2
    assert {role for each in pair for role in each.flights()} <= {"led", "alone"}


async def test_redis_may_stand_still_or_die_in_the_middle(
    own_redis: RedisProcess, pair: list[Worker]
) -> None:
    for number, harm in enumerate((own_redis.freeze, own_redis.kill)):
        question = f"Question {number}?"
        for each in pair:
            each.answerer.gap_s = 0.02
        one, leading = await reading(pair[0], question=question)
        other, following = await reading(pair[1], question=question)
        harm()
        receipts = await asyncio.gather(leading, following)
        assert (one.text, other.text) == (WHOLE, WHOLE)
        assert [receipt.cache for receipt in receipts] == ["miss", "miss"]
        own_redis.thaw() if number == 0 else own_redis.start()
        await until(lambda: not any(each.trips.is_resting for each in pair), "it is tried again")
        for each in pair:
            await each.trips.post("PING")


@pytest.mark.usefixtures("patient")
async def test_what_is_no_message_of_ours_does_no_harm(pair: list[Worker]) -> None:
    first, second = pair
    first.answerer.gap_s = 0.01
    one, leading = await reading(first)
    other, following = await reading(second)
    (flight,) = second.joint.relay._followed
    for body in (b"", b"\xff\xff", b"x\n\x81", flight.encode() + b"\n\x91", flight.encode()):
        for each in pair:
            await first.redis.publish(CHANNEL + each.joint.relay.worker, body)
    await asyncio.gather(leading, following)
    assert (one.text, other.text) == (WHOLE, WHOLE)
    assert started(pair) == 1


@pytest.mark.usefixtures("patient")
async def test_messages_that_are_lost_are_asked_for_again(
    pair: list[Worker], own_redis: RedisProcess
) -> None:
    first, second = pair
    texts = [f"{number} " for number in range(150)]
    for each in pair:
        each.answerer.texts, each.answerer.gap_s = texts, 0.01
    one, leading = await reading(first)
    other, following = await reading(second)
    while not leading.done():
        await asyncio.to_thread(own_redis.command, "CLIENT", "KILL", "TYPE", "pubsub")
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
