"""Redis frozen, killed, full, or only slow: nobody hangs, no slot is doubled, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from gateway.admission.queue_store import CALL_S, LATE_S
from gateway.admission.redis_queue import RedisQueue
from gateway.admission.waiting import Claim, Permit
from gateway.errors import Rejected
from tests.fakes.redis_process import RedisProcess
from tests.integration.queue.conftest import Workers, take, waiting
from tests.waiting import until

HELD, LINE = ("tidegate:queue:{fast}:" + part for part in ("held", "line"))


def fill(server: RedisProcess) -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.command("CONFIG", "SET", "maxmemory", "1")


def empty(server: RedisProcess) -> None:
    server.command("CONFIG", "SET", "maxmemory", "0")


Act = Callable[[RedisProcess], None]
ailments = pytest.mark.parametrize(
    ("ail", "heal"),
    [
        (RedisProcess.freeze, RedisProcess.thaw),
        (RedisProcess.kill, RedisProcess.start),
        (fill, empty),
    ],
    ids=["frozen", "killed", "full"],
)


def number(server: RedisProcess, *command: str) -> int:
    return int(server.command(*command)[1:])


async def is_empty(server: RedisProcess) -> None:
    await until(
        lambda: number(server, "HLEN", HELD) == number(server, "ZCARD", LINE) == 0,
        within_s=10,
    )


def asked(queue: RedisQueue, tenant: str = "a") -> asyncio.Task[Permit]:
    return asyncio.create_task(take(queue, tenant))


async def know_each_other(*queues: RedisQueue) -> None:
    """Each goes by its part of the slots."""
    await until(lambda: all(queue._own.limit < queue.limit for queue in queues))


@ailments
async def test_three_hundred_requests_do_not_wait_for_it(
    workers: Workers, redis_process: RedisProcess, ail: Act, heal: Act
) -> None:
    queues = [await workers.start(limit=64), await workers.start(limit=64)]
    await know_each_other(*queues)
    holding = most = 0
    waits: list[tuple[float, float]] = []  # when it came, seconds since Redis failed; how long it waited

    async def visit(at: int) -> None:
        nonlocal holding, most
        began = time.perf_counter()
        with await take(queues[at % 2], f"tenant{at % 5}"):
            waits.append((began - failed, time.perf_counter() - began))
            holding += 1
            most = max(most, holding)
            await asyncio.sleep(0.02)
            holding -= 1

    failed, tasks = time.perf_counter(), []
    ail(redis_process)
    try:
        for at in range(300):
            tasks.append(asyncio.create_task(visit(at)))
            await asyncio.sleep(0.005)  # so they come over longer than CALL_S
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
    finally:
        heal(redis_process)
    assert sum(waited > CALL_S / 2 for _, waited in waits) <= 6  # a moment in which this machine stood still
    later = sorted(waited for came, waited in waits if came > 4 * LATE_S)
    assert later[int(0.9 * len(later))] <= 0.02  # only the machine's own
    assert most <= 64
    await until(lambda: all(queue.is_shared for queue in queues))
    await is_empty(redis_process)
    permits = [await take(queues[at % 2]) for at in range(64)]
    one_more = asked(queues[0])
    await asyncio.sleep(0.2)
    assert not one_more.done()
    for permit in permits:
        permit.release()
    (await asyncio.wait_for(one_more, 5)).release()
    await is_empty(redis_process)


async def test_a_slot_taken_while_it_was_slow_is_the_one_that_it_gives(
    workers: Workers, redis_process: RedisProcess
) -> None:
    queue = await workers.start(limit=8)
    redis_process.freeze()
    permits = [await asyncio.wait_for(take(queue), CALL_S / 2) for _ in range(3)]
    permits.pop().release()  # back before Redis has heard of it
    redis_process.thaw()
    await until(lambda: not queue._store.is_silent)
    assert queue.is_shared  # it was not taken for dead
    await until(lambda: number(redis_process, "HLEN", HELD) == 2)
    assert queue.inflight == 2
    for permit in permits:
        permit.release()
    await is_empty(redis_process)


async def test_more_slots_than_there_are_come_back_before_another_goes_out(
    workers: Workers, redis_process: RedisProcess
) -> None:
    """One slot for two workers: each has at least one of its own."""
    first, second = await workers.start(limit=1), await workers.start(limit=1)
    await until(lambda: first._state.workers == second._state.workers == 2)
    redis_process.freeze()
    permits = await asyncio.gather(take(first), take(second))
    redis_process.thaw()
    await until(
        lambda: number(redis_process, "HLEN", HELD) == 2
    )  # the second was told to wait, and told it back
    assert first.is_shared
    assert second.is_shared
    third = asked(first, "b")
    await until(lambda: first.num_waiting > 0)
    permits[0].release()
    await until(lambda: number(redis_process, "HLEN", HELD) == 1)
    await asyncio.sleep(0.1)
    assert not third.done()
    permits[1].release()
    (await asyncio.wait_for(third, 5)).release()
    await is_empty(redis_process)


async def test_a_slot_that_comes_free_meanwhile_goes_to_who_asks(
    workers: Workers, redis_process: RedisProcess
) -> None:
    queue = await workers.start(limit=1)
    held = await take(queue)
    redis_process.freeze()
    try:
        task = asked(queue)
        await until(lambda: queue._store.is_silent)
        assert not task.done()
        held.release()
        permit = await asyncio.wait_for(task, CALL_S / 2)
    finally:
        redis_process.thaw()
    permit.release()
    await is_empty(redis_process)


async def test_newcomers_do_not_go_before_those_who_wait(
    workers: Workers, redis_process: RedisProcess
) -> None:
    """Where a line is known, nobody takes a slot before Redis is known to be away; then the line goes on here."""
    queue = await workers.start(limit=1)
    held = await take(queue)
    order: list[str] = []
    tasks = [asked(queue, "old"), asked(queue, "new")]
    for name, task in zip(("old", "new"), tasks, strict=True):
        task.add_done_callback(lambda _, name=name: order.append(name))
    await until(lambda: queue.num_waiting == 2)
    redis_process.freeze()
    try:
        newest = asked(queue, "newest")
        newest.add_done_callback(lambda _: order.append("newest"))
        await until(lambda: queue._store.is_silent)
        held.release()
        assert not newest.done()
        for task in (*tasks, newest):
            (await asyncio.wait_for(task, CALL_S + 2)).release()
    finally:
        redis_process.thaw()
    assert order == ["old", "new", "newest"]


async def test_what_goes_back_while_it_is_away_is_not_kept(
    workers: Workers, redis_process: RedisProcess
) -> None:
    queue = await workers.start(limit=1)
    redis_process.kill()
    try:
        await until(lambda: not queue.is_shared)
        for _ in range(50):
            (await take(queue)).release()
        await until(lambda: not queue._held.returned)
    finally:
        redis_process.start()


async def test_whoever_waited_while_it_was_late_stands_in_line_once(
    workers: Workers, redis_process: RedisProcess
) -> None:
    queue = await workers.start(limit=1)
    held = await take(queue)
    tasks = [await waiting(queue, f"tenant{at}") for at in range(3)]
    redis_process.freeze()
    try:
        await until(lambda: not queue.is_shared, within_s=CALL_S + 2)
        await until(lambda: queue.num_waiting == 3)  # in the worker's own line
    finally:
        redis_process.thaw()
    await until(lambda: queue.is_shared and queue.num_waiting == 3, within_s=10)
    await until(lambda: number(redis_process, "ZCARD", LINE) == 3, within_s=5)
    held.release()
    for task in tasks:
        (await asyncio.wait_for(task, 5)).release()
    await is_empty(redis_process)


async def test_nobody_who_waits_is_refused_when_lines_become_one(
    workers: Workers, redis_process: RedisProcess
) -> None:
    """Each worker's own line may be as long as the shared one, which is longer than it may be once they meet in it."""
    queues = [await workers.start(limit=2, max_waiting=3, share=2) for _ in range(2)]
    held = [await take(queue) for queue in queues]
    redis_process.freeze()
    try:
        await until(lambda: not any(queue.is_shared for queue in queues), within_s=CALL_S + 2)
        tasks = [await waiting(queue, f"tenant{at}") for queue in queues for at in range(3)]
    finally:
        redis_process.thaw()
    await until(lambda: all(queue.is_shared and queue.num_waiting == 6 for queue in queues), within_s=10)
    with pytest.raises(Rejected, match="full"):
        await queues[0].acquire(band="batch", deadline=time.monotonic() + 30, claim=Claim("new"))
    for permit in held:
        permit.release()
    for task in asyncio.as_completed(tasks):
        (await asyncio.wait_for(task, 5)).release()
    await is_empty(redis_process)


async def test_who_asks_does_not_hang_when_the_queues_work_breaks_off(
    workers: Workers, redis_process: RedisProcess
) -> None:
    queue = await workers.start(limit=1)
    await take(queue)
    redis_process.freeze()
    try:
        places: list[int] = []
        task = asyncio.create_task(take(queue, told=places))
        await until(lambda: queue._store.is_silent)
        await workers.kill(queue)
        await until(lambda: places == [1], within_s=CALL_S / 2)  # in the line of its own
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    finally:
        redis_process.thaw()


async def test_whoever_leaves_while_it_stutters_leaves_nothing_behind(
    workers: Workers, redis_process: RedisProcess
) -> None:
    chance = random.Random(7)
    queues = [await workers.start(limit=4, max_waiting=400) for _ in range(2)]
    tasks: list[asyncio.Task[None]] = []

    async def visit(at: int) -> None:
        with await take(queues[at % 2], f"tenant{at % 3}"):
            await asyncio.sleep(0.002 * (at % 4))

    async def stutter() -> None:
        while True:
            redis_process.freeze()
            await asyncio.sleep(chance.uniform(0.01, 0.15))
            redis_process.thaw()
            await asyncio.sleep(chance.uniform(0.01, 0.05))

    stuttering = asyncio.create_task(stutter())
    for at in range(400):
        tasks.append(asyncio.create_task(visit(at)))
        await asyncio.sleep(0.003)
        if at % 3 == 0:
            tasks[chance.randrange(len(tasks))].cancel()
    stuttering.cancel()
    redis_process.thaw()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    assert results.count(None) > 250
    await is_empty(redis_process)
    await until(lambda: all(queue.inflight == queue.num_waiting == 0 for queue in queues))
