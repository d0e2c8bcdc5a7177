"""Permits and the line in front of them. Time is an argument; nothing sleeps."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from gateway.admission.slots import Permit, SlotQueue
from gateway.errors import DeadlineExceeded, Evicted, Rejected

FOREVER = float("inf")


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def queue(
    limit: int = 1, max_waiting: int = 10, ttl_s: float = 60.0, clock: FakeClock | None = None
) -> SlotQueue:
    return SlotQueue(limit, max_waiting=max_waiting, ttl_s=ttl_s, clock=clock or FakeClock())


def waiter(slots: SlotQueue, band: str = "interactive") -> asyncio.Task[Permit]:
    return asyncio.create_task(slots.acquire(band=band, deadline=FOREVER))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_free_slot_is_given_at_once() -> None:
    slots = queue()
    with await slots.acquire(band="standard", deadline=FOREVER):
        assert slots.inflight == 1
    assert slots.inflight == 0


async def test_a_permit_released_twice_counts_once() -> None:
    slots = queue(2)
    permit = await slots.acquire(band="standard", deadline=FOREVER)
    await slots.acquire(band="standard", deadline=FOREVER)
    permit.release()
    permit.release()
    assert slots.inflight == 1


async def test_interactive_goes_before_standard_before_batch_and_first_come_inside() -> None:
    slots = queue()
    held = await slots.acquire(band="standard", deadline=FOREVER)
    order: list[str] = []
    tasks = []
    for name, band in [("b", "batch"), ("s1", "standard"), ("s2", "standard"), ("i", "interactive")]:

        async def wait(name: str = name, band: str = band) -> None:
            with await slots.acquire(band=band, deadline=FOREVER):
                order.append(name)

        tasks.append(asyncio.create_task(wait()))
        await settle()
    held.release()
    await asyncio.gather(*tasks)
    assert order == ["i", "s1", "s2", "b"]


async def test_a_newcomer_does_not_overtake_who_waits() -> None:
    slots = queue()
    held = await slots.acquire(band="batch", deadline=FOREVER)
    first = waiter(slots)
    await settle()
    held.release()  # the slot is handed over in this very call
    second = waiter(slots)
    await settle()
    assert first.done()
    assert not second.done()
    first.result().release()
    (await second).release()


async def test_a_full_line_is_refused_with_the_time_to_come_back() -> None:
    slots = queue(max_waiting=1)
    held = await slots.acquire(band="batch", deadline=FOREVER)
    waiting = waiter(slots)
    await settle()
    with pytest.raises(Rejected) as refused:
        await slots.acquire(band="interactive", deadline=FOREVER)
    assert refused.value.retry_after_s is not None
    held.release()
    (await waiting).release()


async def test_waiting_too_long_is_an_eviction() -> None:
    slots = SlotQueue(1, max_waiting=10, ttl_s=0.01, clock=time.monotonic)
    held = await slots.acquire(band="batch", deadline=FOREVER)
    with pytest.raises(Evicted):
        await slots.acquire(band="interactive", deadline=FOREVER)
    assert slots.num_waiting == 0
    held.release()


async def test_a_deadline_before_the_ttl_is_told_as_the_callers() -> None:
    clock = FakeClock()
    slots = queue(ttl_s=60.0, clock=clock)
    held = await slots.acquire(band="batch", deadline=FOREVER)
    with pytest.raises(DeadlineExceeded):
        await slots.acquire(band="interactive", deadline=clock.now)
    held.release()


async def test_a_cancelled_wait_leaves_the_line_and_the_next_one_gets_the_slot() -> None:
    slots = queue()
    held = await slots.acquire(band="batch", deadline=FOREVER)
    leaver, stayer = waiter(slots), waiter(slots)
    await settle()
    leaver.cancel()
    await settle()
    assert slots.num_waiting == 1
    held.release()
    (await stayer).release()
    assert slots.inflight == 0


async def test_a_slot_handed_over_while_its_waiter_leaves_is_not_lost() -> None:
    slots = queue()
    held = await slots.acquire(band="batch", deadline=FOREVER)
    leaver = waiter(slots)
    await settle()
    held.release()  # the future is done now, but the task has not run yet
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert slots.inflight == 0


async def test_position_and_eta_come_from_the_measured_drain() -> None:
    clock = FakeClock()
    slots = queue(clock=clock)
    for _ in range(10):  # ten releases, one a second
        permit = await slots.acquire(band="batch", deadline=FOREVER)
        clock.now += 1.0
        permit.release()
    held = await slots.acquire(band="batch", deadline=FOREVER)
    told: list[tuple[int, float]] = []
    tasks = []
    for _ in range(3):
        tasks.append(
            asyncio.create_task(
                slots.acquire(
                    band="batch", deadline=FOREVER, on_wait=lambda place, eta: told.append((place, eta))
                )
            )
        )
        await settle()
    assert [place for place, _ in told] == [1, 2, 3]
    assert [eta for _, eta in told] == pytest.approx([1.0, 2.0, 3.0])
    held.release()
    for task in tasks:
        (await task).release()


async def test_whatever_happens_inflight_stays_within_the_limit_and_ends_at_zero() -> None:
    rng = random.Random(7)
    slots = queue(limit=3, max_waiting=50)
    peak = 0

    async def visit() -> None:
        nonlocal peak
        with await slots.acquire(band=rng.choice(["interactive", "standard", "batch"]), deadline=FOREVER):
            peak = max(peak, slots.inflight)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)

    tasks = []
    for _ in range(400):
        tasks.append(asyncio.create_task(visit()))
        if rng.random() < 0.4:
            rng.choice(tasks).cancel()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert peak == 3
    assert slots.inflight == 0
    assert slots.num_waiting == 0
    assert all(r is None or isinstance(r, asyncio.CancelledError | Rejected | Evicted) for r in results)


async def test_a_quiet_hour_does_not_count_as_a_slow_drain() -> None:
    clock = FakeClock()
    slots = queue(clock=clock)
    for _ in range(10):
        permit = await slots.acquire(band="batch", deadline=FOREVER)
        clock.now += 0.1
        permit.release()
    clock.now += 3600
    assert slots.eta_s(8) < 2.0


async def test_a_waiter_whose_listener_fails_leaves_the_line() -> None:
    slots = queue()
    held = await slots.acquire(band="batch", deadline=FOREVER)

    def broken(position: int, eta_s: float) -> None:
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError):
        await slots.acquire(band="batch", deadline=FOREVER, on_wait=broken)
    assert slots.num_waiting == 0
    held.release()
    assert slots.inflight == 0
