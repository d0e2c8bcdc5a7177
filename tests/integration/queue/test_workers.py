"""Several workers on one queue in Redis: what they share, and what happens when one of them, or Redis, goes away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.admission.queue_store import CALL_S
from tests.fakes.redis_process import RedisProcess
from tests.integration.queue.conftest import Workers, take, waiting
from tests.waiting import until

ROOT = Path(__file__).parents[3]


@pytest.mark.usefixtures("patient")
async def test_slots_are_one_number_for_all_workers(workers: Workers) -> None:
    first, second = await workers.start(limit=3), await workers.start(limit=3)
    permits = [await take(first), await take(second), await take(first)]
    fourth = await waiting(second)
    assert not fourth.done()
    permits[0].release()
    (await asyncio.wait_for(fourth, 5)).release()
    for permit in permits[1:]:
        permit.release()
    await until(lambda: first.inflight == second.inflight == 0)


@pytest.mark.usefixtures("patient")
async def test_the_line_is_in_order_over_all_workers(workers: Workers) -> None:
    first, second = await workers.start(limit=1), await workers.start(limit=1)
    held = await take(first)
    order: list[int] = []
    tasks = []
    for number in range(6):
        task = await waiting((first, second)[number % 2])
        task.add_done_callback(lambda _, number=number: order.append(number))
        tasks.append(task)
    held.release()
    for task in tasks:
        (await asyncio.wait_for(task, 5)).release()
    assert order == list(range(6))


@pytest.mark.usefixtures("patient")
async def test_a_worker_that_dies_gives_its_slots_back_within_three_seconds(workers: Workers) -> None:
    first, second = await workers.start(limit=2), await workers.start(limit=2)
    await take(first)
    await take(first)
    gone = await waiting(first, "gone")  # and whoever waits there is skipped
    task = await waiting(second)
    died = time.monotonic()
    await workers.kill(first)
    (await asyncio.wait_for(task, 8)).release()
    assert time.monotonic() - died <= 5.0  # the lease is less than three; the rest is for a busy machine
    await until(lambda: second.num_waiting == 0)
    assert not gone.done()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)


async def test_slots_of_a_killed_process_come_back(workers: Workers, redis_process: RedisProcess) -> None:
    queue = await workers.start(limit=3)
    argv = [sys.executable, "-m", "tests.fakes.queue_worker", redis_process.url, "3", "3"]
    process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readexactly(3) == b"..."
        tasks = [await waiting(queue) for _ in range(3)]
    finally:
        process.kill()
        await process.wait()
    died = time.monotonic()
    permits = [await asyncio.wait_for(task, 8) for task in tasks]
    assert time.monotonic() - died <= 5.0  # as above
    for permit in permits:
        permit.release()
    await until(lambda: queue.inflight == 0)


async def test_what_each_worker_has_learned_of_the_engine_counts_for_all(workers: Workers) -> None:
    first, second = await workers.start(limit=6), await workers.start(limit=6)
    await until(lambda: (first._state.workers, second._state.workers) == (2, 2))
    held = [await take(first if number % 2 else second) for number in range(4)]
    first.resize(2)
    await until(lambda: (first.limit, second.limit) == (4, 4))  # the mean of 2 and 6
    asked = [await waiting(second), await waiting(first)]
    first.resize(6)
    for task in asked:
        held.append(await asyncio.wait_for(task, 5))
    await until(lambda: (first.limit, second.limit) == (6, 6))
    first.resize(2)
    await workers.kill(second)  # with it goes what it had learned
    await until(lambda: first.limit == 2, within_s=5)
    for permit in held:
        permit.release()


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_redis_each_goes_by_its_share_and_nobody_hangs(
    workers: Workers, redis_process: RedisProcess, how: str
) -> None:
    queue = await workers.start(limit=4, share=2, max_waiting=4)
    held = [await take(queue) for _ in range(4)]
    waits = [await waiting(queue) for _ in range(2)]
    redis_process.kill() if how == "killed" else redis_process.freeze()
    try:
        await until(lambda: not queue.is_shared)
        assert queue.limit == 2
        await until(lambda: queue.num_waiting == 2)  # both have moved before the third comes
        began = time.monotonic()
        third = await waiting(queue)
        assert time.monotonic() - began < CALL_S  # nobody waits for Redis now
        for permit in held:  # four are out where two are ours: two come back before another goes out
            permit.release()
        permits = [await asyncio.wait_for(task, 5) for task in waits]
        assert not third.done()
    finally:
        redis_process.start() if how == "killed" else redis_process.thaw()
    await until(lambda: queue.is_shared)
    assert queue.limit == 4
    permits[0].release()
    (await asyncio.wait_for(third, 5)).release()
    await until(lambda: queue.inflight == 1)  # what went out meanwhile is known there now
    fresh = [await take(queue) for _ in range(3)]
    full = await waiting(queue)
    assert not full.done()
    for permit in (permits[1], *fresh):
        permit.release()
    (await asyncio.wait_for(full, 5)).release()
    await until(lambda: queue.inflight == 0)


@pytest.mark.usefixtures("patient")
async def test_a_redis_that_lost_everything_is_told_again(
    workers: Workers, redis_process: RedisProcess
) -> None:
    queue = await workers.start(limit=2)
    held = [await take(queue), await take(queue)]
    redis_process.command("FLUSHALL")
    await until(lambda: redis_process.command("HLEN", "tidegate:queue:{fast}:held").strip() == b":2")
    task = await waiting(queue)
    held[0].release()
    (await asyncio.wait_for(task, 5)).release()
    held[1].release()
    await until(lambda: queue.inflight == 0)


@pytest.mark.usefixtures("patient")
async def test_a_place_that_redis_lost_is_taken_again(workers: Workers, redis_process: RedisProcess) -> None:
    queue = await workers.start(limit=1)
    held = await take(queue)
    task = await waiting(queue)
    redis_process.command("FLUSHALL")
    held.release()
    (await asyncio.wait_for(task, 8)).release()


@pytest.mark.usefixtures("patient")
async def test_whoever_is_cancelled_at_any_moment_leaves_nothing_behind(workers: Workers) -> None:
    """400 visits, cancelled at random moments: in the end every slot is free and the line is empty."""
    first, second = await workers.start(limit=3, max_waiting=50), await workers.start(limit=3, max_waiting=50)
    most = 0

    async def visit(number: int) -> None:
        nonlocal most
        with await take((first, second)[number % 2], f"tenant{number % 5}"):
            most = max(most, first.inflight)
            await asyncio.sleep(0.002 * (number % 4))

    tasks = []
    for number in range(400):
        tasks.append(asyncio.create_task(visit(number)))
        await asyncio.sleep(0.001)
        if number % 3 == 0:
            tasks[number // 2].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert most <= 3
    await until(lambda: first.inflight == first.num_waiting == 0, within_s=10)
    assert len([task for task in tasks if not task.cancelled() and task.exception() is None]) > 100


@pytest.mark.usefixtures("patient")
async def test_shutting_down_gives_the_slots_back_at_once(workers: Workers) -> None:
    first, second = await workers.start(limit=1), await workers.start(limit=1)
    permit = await take(first)
    task = await waiting(second)
    permit.release()
    await first.close()
    (await asyncio.wait_for(task, 1)).release()


@pytest.mark.usefixtures("patient")
async def test_who_must_leave_the_line_comes_back_to_its_place(
    workers: Workers, redis_process: RedisProcess
) -> None:
    """As at the end of a drain: the worker leaves, its waiter asks another one with the ticket it was given."""
    first, second = await workers.start(limit=1), await workers.start(limit=1)
    held = await take(second)
    tickets: list[Callable[[], str]] = []
    leaving = await waiting(first, on_place=tickets.append)
    later = await waiting(second)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    ticket = tickets[0]()
    # Its leaving goes by another connection than the question that follows.
    await until(lambda: redis_process.command("ZCARD", "tidegate:queue:{fast}:line").strip() == b":1")
    back_at: list[int] = []
    back = asyncio.create_task(take(second, told=back_at, ticket=ticket))
    await until(lambda: back_at)
    assert back_at[0] == 1
    held.release()
    (await asyncio.wait_for(back, 5)).release()
    (await asyncio.wait_for(later, 5)).release()


@pytest.mark.usefixtures("patient")
async def test_a_worker_that_dies_with_a_thousand_in_line_leaves_nobody_behind_them(
    workers: Workers, redis_process: RedisProcess
) -> None:
    """They are taken out some hundreds at a time, so that no call takes long."""
    dying, living = [await workers.start(limit=1, max_waiting=3000, max_bytes=10**6) for _ in range(2)]
    held = await take(living)
    await until(lambda: dying.is_crowded)  # else, so busy, it would take a slot of its own part
    gone = [asyncio.create_task(take(dying)) for _ in range(1300)]
    await until(lambda: living.num_waiting == 1300, within_s=20)
    told: list[int] = []
    last = asyncio.create_task(take(living, told=told))
    await until(lambda: told == [1301], within_s=5)
    await workers.kill(dying)
    await until(lambda: told[-1] == 1, within_s=15)
    held.release()
    (await asyncio.wait_for(last, 5)).release()
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)


@pytest.mark.usefixtures("patient")
async def test_places_whose_worker_is_not_known_any_more_hold_nobody_up(
    workers: Workers, redis_process: RedisProcess
) -> None:
    dying, living = [await workers.start(limit=1) for _ in range(2)]
    held = await take(living)
    gone = [await waiting(dying) for _ in range(3)]
    last = await waiting(living)
    redis_process.command("DEL", "tidegate:queue:{fast}:line:of:" + dying.worker)
    await workers.kill(dying)
    await until(lambda: redis_process.command("ZCARD", "tidegate:queue:{fast}:workers") == b":1", within_s=10)
    held.release()
    (await asyncio.wait_for(last, 5)).release()
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
