"""A slot that is asked back for a light tenant, by the queue in Redis and by a worker's own."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from gateway.admission.recall import MIN_HELD_MS
from gateway.admission.waiting import Claim, Permit, Queue
from gateway.errors import DeadlineExceeded
from tests.fakes.redis_process import RedisProcess
from tests.integration.queue.conftest import Workers
from tests.integration.queue.test_queue_contract import SOON, Make, make

__all__ = ["make"]

GROWN_S = MIN_HELD_MS / 1000 + 0.05  # a slot may be asked back then


@dataclass
class Streams:
    """Of one tenant: what it holds, and what happens when a slot is asked back."""

    queue: Queue
    tenant: str
    band: str = "interactive"
    gives: bool = True
    order: list[str] = field(default_factory=list)  # names of those that got a slot, over all tenants
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    num_broken: int = 0
    num_running: int = 0

    async def start(self, *names: str, left_s: float = 30.0, times: int = 2) -> None:
        for name in names:
            stands = asyncio.Event()
            work = self._run(f"{self.tenant}-{name}", stands, left_s, times)
            self.tasks.append(asyncio.create_task(work))
            await asyncio.wait_for(stands.wait(), 5)

    async def _run(self, name: str, stands: asyncio.Event, left_s: float, times: int) -> None:
        deadline = time.monotonic() + left_s
        claim = Claim(tenant=self.tenant, cost=100, gives=self.gives and times > 0)
        try:
            permit = await self._slot(deadline, claim, stands)
        finally:
            stands.set()
        self.order.append(name)
        while True:
            bell = asyncio.Event()
            permit.on_recall(bell.set)
            self.num_running += 1
            try:
                await bell.wait()
            except BaseException:
                permit.release()
                raise
            finally:
                self.num_running -= 1
            self.num_broken, times = self.num_broken + 1, times - 1
            permit = await self._slot(deadline, claim._replace(back=permit, gives=times > 0))
            self.order.append(name + "'")

    async def _slot(self, deadline: float, claim: Claim, stands: asyncio.Event | None = None) -> Permit:
        return await self.queue.acquire(
            band=self.band,
            deadline=deadline,
            on_wait=lambda *_: stands and stands.set(),
            claim=claim,
        )

    async def leave(self, *numbers: int) -> None:
        leaving = [self.tasks[number] for number in numbers] or self.tasks
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)


async def until(what: object, *, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.01)


async def crowd(queue: Queue, number: int, **knobs: object) -> Streams:
    """A tenant with all slots, long enough for them to be asked back."""
    flood = Streams(queue, "flood", **knobs)  # type: ignore[arg-type]
    await flood.start(*map(str, range(number)))
    await asyncio.sleep(GROWN_S)
    return flood


async def test_a_light_tenant_gets_a_slot_of_a_heavy_one_at_once(make: Make) -> None:
    queue = await make(limit=4)
    flood = await crowd(queue, 4)
    await flood.start("4")  # which waits
    light = Streams(queue, "light", order=flood.order)
    began = time.monotonic()
    await light.start("0")
    await until(lambda: light.num_running)
    assert time.monotonic() - began < 1
    assert flood.num_broken == 1
    assert queue.inflight == 4
    await light.leave()
    await until(lambda: flood.num_running == 4)
    assert flood.order[-1] == "flood-3'", "the newest gave way, and goes on before its tenant's next"
    await flood.leave()
    await until(lambda: queue.inflight == queue.num_waiting == 0)


async def test_nobody_gives_way_to_its_equal(make: Make) -> None:
    queue = await make(limit=4)
    one, other = Streams(queue, "one"), Streams(queue, "other")
    await one.start("0", "1")
    await other.start("0", "1")
    await asyncio.sleep(GROWN_S)
    third = Streams(queue, "third")
    await third.start("0")
    await asyncio.sleep(0.7)  # a beat looks once more
    assert (one.num_broken, other.num_broken, third.num_running) == (0, 0, 0)
    await asyncio.gather(one.leave(), other.leave(), third.leave())


async def test_what_small_tenants_leave_is_for_all_who_want_more(make: Make) -> None:
    """Twelve slots of seven tenants: five want one each, so the other two have three and a half."""
    queue = await make(limit=12)
    flood = await crowd(queue, 5)
    small = [Streams(queue, f"small-{number}") for number in range(5)]
    for each in small:
        await each.start("0")
    busy = Streams(queue, "busy")
    await busy.start("0", "1")
    await flood.start("5")  # which waits
    await busy.start("2")  # it has an equal part already, and what the small ones leave of theirs
    await until(lambda: busy.num_running == 3)
    assert flood.num_broken == 1
    await busy.start("3")
    await asyncio.sleep(0.7)  # a beat looks once more
    assert (busy.num_running, flood.num_broken) == (3, 1), "its part is used up"
    assert not any(each.num_broken for each in small)
    await asyncio.gather(*(each.leave() for each in (flood, busy, *small)))


async def test_what_cannot_go_on_and_what_has_just_begun_stay(make: Make) -> None:
    queue = await make(limit=4)
    flood = await crowd(queue, 4, gives=False)
    light = Streams(queue, "light")
    await light.start("0")
    await asyncio.sleep(0.1)
    assert flood.num_broken == 0
    await flood.leave(0)
    await until(lambda: light.num_running)
    await asyncio.gather(flood.leave(), light.leave())


async def test_an_answer_is_broken_off_so_often_and_no_more(make: Make) -> None:
    queue = await make(limit=4)
    firm = Streams(queue, "flood", gives=False)
    await firm.start("0", "1", "2")
    flood = Streams(queue, "flood")
    await flood.start("3", times=1)
    await asyncio.sleep(GROWN_S)
    for number in range(2):
        light = Streams(queue, "light")
        await light.start(str(number))
        await asyncio.sleep(0.7)  # a beat has looked once more
        assert (light.num_running, flood.num_broken) == (1 - number, 1)
        await light.leave()
        await until(lambda: flood.num_running == 1)
    await asyncio.gather(flood.leave(), firm.leave())


async def test_what_is_broken_off_is_paid_with_ends(make: Make) -> None:
    """Three slots are credit for one; each end is half of another."""
    queue = await make(limit=3)
    flood = Streams(queue, "flood")
    await flood.start("0", "1", "2")
    for broken in (1, 2, 2):
        await asyncio.sleep(GROWN_S)
        light = Streams(queue, "light")
        await light.start("0")
        await asyncio.sleep(0.7)
        assert flood.num_broken == broken
        await light.leave()
        await until(lambda: flood.num_running == 3)
    await flood.leave()


async def test_batch_gives_way_to_interactive_of_the_same_tenant(make: Make) -> None:
    queue = await make(limit=2)
    jobs = await crowd(queue, 2, band="batch")
    people = Streams(queue, "flood", order=jobs.order)
    await people.start("0")
    await until(lambda: people.num_running)
    assert (jobs.num_broken, jobs.num_running) == (1, 1)
    await people.leave()
    await until(lambda: jobs.num_running == 2)
    await jobs.leave()


async def test_who_leaves_while_it_waits_again_leaves_nothing(make: Make) -> None:
    queue = await make(limit=4)
    flood = await crowd(queue, 4)
    light = Streams(queue, "light")
    await light.start("0")
    await until(lambda: light.num_running)
    await until(lambda: queue.num_waiting == 1)
    await flood.leave(3)
    await light.leave()
    await until(lambda: queue.inflight == 3 and queue.num_waiting == 0)
    await flood.leave()
    await until(lambda: queue.inflight == 0)


async def test_its_own_deadline_counts_while_it_waits_again(make: Make) -> None:
    queue = await make(limit=3)
    flood = Streams(queue, "flood")
    await flood.start("0", "1", "2", left_s=1.0)
    await asyncio.sleep(GROWN_S)
    light = Streams(queue, "light")
    await light.start("0")
    await until(lambda: light.num_running)
    with pytest.raises(DeadlineExceeded):
        await flood.tasks[2]
    await asyncio.gather(flood.leave(0, 1), light.leave())
    await until(lambda: queue.inflight == queue.num_waiting == 0)


async def test_a_full_line_does_not_refuse_one_that_has_begun(make: Make) -> None:
    queue = await make(limit=4, max_waiting=1)
    flood = await crowd(queue, 4)
    light = Streams(queue, "light")
    await light.start("0")
    await until(lambda: light.num_running)
    await flood.start("4")  # the line is full with the one that gave way
    assert isinstance((await asyncio.gather(flood.tasks[4], return_exceptions=True))[0], Exception)
    other = Streams(queue, "other")  # whose place would be before it, but it is not put out
    await other.start("0")
    await asyncio.sleep(SOON)
    await asyncio.gather(light.leave(), other.leave())
    await until(lambda: flood.num_running == 4)
    await flood.leave()


@pytest.mark.usefixtures("patient")
async def test_slots_are_asked_back_over_workers(workers: Workers) -> None:
    first, second = await workers.start(limit=4), await workers.start(limit=4)
    flood = await crowd(first, 4)
    light = Streams(second, "light")
    await light.start("0")
    await until(lambda: light.num_running)
    assert flood.num_broken == 1
    await light.leave()
    await until(lambda: flood.num_running == 4)
    await flood.leave()
    await until(lambda: first.inflight == second.inflight == 0)


@pytest.mark.usefixtures("patient")
async def test_a_worker_that_dies_while_its_stream_waits_again_is_skipped(workers: Workers) -> None:
    first, second = await workers.start(limit=4), await workers.start(limit=4)
    flood = await crowd(first, 4)
    light = Streams(second, "light")
    await light.start("0")
    await until(lambda: light.num_running)
    await workers.kill(first)
    await light.start("1", "2", "3")
    await until(lambda: light.num_running == 4, within_s=4)
    await asyncio.gather(light.leave(), flood.leave())


@pytest.mark.usefixtures("patient")
async def test_a_slot_that_its_dead_worker_does_not_give_comes_back_all_the_same(workers: Workers) -> None:
    first, second = await workers.start(limit=4), await workers.start(limit=4)
    flood = await crowd(first, 4)
    await workers.kill(first)
    light = Streams(second, "light")
    await light.start("0")
    await until(lambda: light.num_running, within_s=4)
    await asyncio.gather(light.leave(), flood.leave())


@pytest.mark.parametrize("how", ["before", "while it waits again"])
async def test_without_redis_who_gave_way_goes_on(
    workers: Workers, redis_process: RedisProcess, how: str
) -> None:
    queue = await workers.start(limit=4)
    flood = await crowd(queue, 4)
    light = Streams(queue, "light")
    if how == "before":
        redis_process.freeze()
    try:
        if how != "before":
            await light.start("0")
            await until(lambda: light.num_running)
            redis_process.freeze()
        await until(lambda: not queue.is_shared)
        if how == "before":
            await flood.start("4")
            await flood.leave(0)
            await until(lambda: flood.num_running == 4)
            await asyncio.sleep(GROWN_S)
            await light.start("0")
            await until(lambda: light.num_running or flood.num_running == 4)
        await light.leave()
        await until(lambda: flood.num_running == 4)
    finally:
        redis_process.thaw()
    await until(lambda: queue.is_shared)
    await flood.leave()
    await until(lambda: queue.inflight == queue.num_waiting == 0, within_s=10)


@pytest.mark.usefixtures("patient")
async def test_whoever_is_cancelled_at_any_moment_leaves_no_slot(workers: Workers) -> None:
    """A flood of streams that give way, light ones that come and go, and cancels at random moments."""
    first, second = (
        await workers.start(limit=6, max_waiting=100),
        await workers.start(limit=6, max_waiting=100),
    )
    flood = [Streams(first, "flood"), Streams(second, "flood")]
    for streams in flood:
        await streams.start(*map(str, range(6)))
    await asyncio.sleep(GROWN_S)
    light = [Streams((first, second)[number % 2], f"light{number}") for number in range(30)]
    for number, streams in enumerate(light):
        await streams.start("0", "1")
        await asyncio.sleep(0.003 * (number % 5))
        if number % 3 == 0:
            light[number // 2].tasks[0].cancel()
        if number % 5 == 0:
            flood[number % 2].tasks[number % 6].cancel()
        assert sum(each.num_running for each in [*flood, *light]) <= 6
    broken = sum(each.num_broken for each in flood)
    for streams in [*flood, *light]:
        await streams.leave()
    await until(lambda: first.inflight == first.num_waiting == 0, within_s=10)
    await until(lambda: second.inflight == second.num_waiting == 0, within_s=10)
    assert broken >= 1
