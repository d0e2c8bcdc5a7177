"""The maths of slots that follow the engine, on a simple engine that serves so many at once well."""

from __future__ import annotations

import time

import pytest

from gateway.admission.adaptive import LATE_S, AdaptiveSlots, Limit, Prefill
from gateway.admission.slots import SlotQueue


def test_late_first_tokens_take_slots_away_and_timely_ones_give_them_back() -> None:
    limit = Limit(32)
    for _ in range(32):  # a round of them
        limit.observe(LATE_S * 2, used=32)
    assert limit.slots == pytest.approx(32 * 0.9, abs=1)
    for _ in range(2000):
        limit.observe(LATE_S * 2, used=limit.slots)
    assert limit.slots == 1
    for _ in range(2000):
        limit.observe(0.0, used=limit.slots)
    assert limit.slots == 32


def test_slots_that_nobody_uses_are_no_reason_for_more() -> None:
    limit = Limit(32, value=8.0)
    for _ in range(100):
        limit.observe(0.0, used=3)
    assert limit.slots == 8


@pytest.mark.parametrize("good", [3, 10, 25])
def test_it_settles_near_what_the_engine_bears(good: int) -> None:
    limit, seen = Limit(32), []
    for _ in range(6000):
        used = limit.slots
        limit.observe(0.05 if used <= good else 0.05 + 0.3 * (used - good), used=used)
        seen.append(used)
    assert good - 2 <= sum(seen[-2000:]) / 2000 <= good + 1.5


def test_replicas_that_come_and_go_keep_what_each_was_found_to_bear() -> None:
    limit = Limit(20, value=10.0)
    limit.resize(40)
    assert limit.slots == 20
    limit.resize(2)
    assert limit.slots == 1


def test_a_long_prompt_is_not_a_late_one() -> None:
    prefill = Prefill()
    assert prefill.late_s(9.0, 10) == 0.0  # nothing is known yet
    prefill.learn(0.1, 1000)
    assert prefill.late_s(0.8, 8000) == pytest.approx(0.0)
    assert prefill.late_s(0.8, 1000) == pytest.approx(0.7)


def test_the_controller_moves_the_queue() -> None:
    queue = SlotQueue(16, max_waiting=4, ttl_s=9, clock=time.monotonic)
    slots = AdaptiveSlots(queue)
    slots.observe(0.01, 100)  # idle: learned
    for name in range(16):
        queue.hold(str(name), 0)
    for _ in range(60):
        slots.observe(3.0, 100)
    assert queue.limit == slots.limit.slots < 16
    slots.resize(2 * 16)
    assert queue.limit == slots.limit.slots


@pytest.mark.parametrize("num_slots", [2, 3])
def test_an_engine_of_few_slots_is_calm_with_one_in_use(num_slots: int) -> None:
    queue = SlotQueue(num_slots, max_waiting=4, ttl_s=9, clock=time.monotonic)
    slots = AdaptiveSlots(queue)
    queue.hold("0", 0)  # the one that has just told its first token
    slots.observe(0.01, 100)
    for name in range(1, num_slots):
        queue.hold(str(name), 0)
    for _ in range(60):
        slots.observe(3.0, 100)
    assert queue.limit == 1
