"""The store of a tier's queue by itself, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.admission.queue_store import QueueStore, enter_terms, queue_key
from gateway.admission.tickets import Place
from gateway.admission.waiting import Claim
from tests.fakes.redis_process import RedisProcess
from tests.waiting import until


@asynccontextmanager
async def at_work(store: QueueStore) -> AsyncIterator[None]:
    """It has its script, and sends what it is asked."""
    await store.beat("worker", b"secret", store.limit)
    sender = asyncio.create_task(store.send_entering())
    try:
        yield
    finally:
        sender.cancel()


def terms(name: str, *, wait_ms: int = 1000, max_waiting: int = 10, cost: int = 1) -> list[Any]:
    claim = Claim(tenant="a", cost=cost)
    of_claim = enter_terms(
        claim, Place(-1, ""), band=0, wait_ms=wait_ms, left_ms=1000, max_waiting=max_waiting, max_bytes=1000
    )
    return [name, "worker", *of_claim]


async def test_a_reply_that_cannot_be_taken_in_holds_up_no_other(redis: Redis) -> None:
    store = QueueStore("fast", redis, "worker", limit=10)

    def broken(_reply: Any) -> None:
        raise RuntimeError("not this one")

    store.is_silent = True  # the first goes on without its reply, which comes all the same
    first = asyncio.create_task(store.enter(terms("1"), lambda: True, broken))
    second = asyncio.create_task(store.enter(terms("2"), lambda: False, broken))
    async with at_work(store):
        async with asyncio.timeout(5):
            assert await first is None
            assert (await second)[0] == b"granted"
            third = await store.enter(terms("3"), lambda: False, broken)
        assert third[0] == b"granted"


@pytest.mark.parametrize("lost", [("by", "since:0", "of:0"), ("by",), ("since:0",), ("of:0",)])
async def test_counts_that_are_not_those_of_the_slots_are_made_again(
    redis: Redis, lost: tuple[str, ...]
) -> None:
    """A script that knows nothing of them may have given slots: during a rollout, say."""
    store = QueueStore("fast", redis, "worker", limit=10)
    held = queue_key("fast", "held")
    async with at_work(store):
        for number in range(3):
            assert (await store.enter(terms(str(number)), lambda: False, lambda _: None))[0] == b"granted"
        assert await redis.delete(*(f"{held}:{part}" for part in lost)) == len(lost)
        assert (await store.beat("worker", b"secret", store.limit)).num_held == 3
        assert await redis.zcard(f"{held}:since:0") == 3
        assert await redis.hgetall(f"{held}:by") == {b"worker": b"3"}
        assert await redis.zrange(f"{held}:of:0", 0, -1, withscores=True) == [[b"a", 3.0]]


async def test_thousands_whose_wait_is_over_are_passed_in_several_calls_and_by_nobody_new(
    redis: Redis,
) -> None:
    now_ms = 1_000_000
    store = QueueStore("fast", redis, "worker", limit=1, now_ms=lambda: now_ms)

    async def enter(name: str, wait_ms: int) -> bytes:
        asked = terms(name, wait_ms=wait_ms, max_waiting=5000)
        return bytes((await store.enter(asked, lambda: False, lambda _: None))[0])

    async with at_work(store):
        assert await enter("00000", 10**6) == b"granted"
        late = await asyncio.gather(*(enter(f"{number:05d}", 10) for number in range(1, 3001)))
        assert {*late, await enter("living", 10**6)} == {b"waiting"}
        now_ms += 1000
        await store.call("release", '[["00000",500,"a",0,0]]')
        assert await redis.hlen(queue_key("fast", "held")) == 0  # a call passes so many, and no more
        assert await enter("new", 10**6) == b"waiting"
        await store.beat("worker", b"secret", store.limit)
        assert await redis.hkeys(queue_key("fast", "held")) == [b"living"]
        assert await redis.zrange(queue_key("fast", "line"), 0, -1) == [b"new"]


async def test_slots_of_a_worker_that_nobody_knows_come_back(redis: Redis) -> None:
    """As a script leaves them that kept no counts, whose workers died with it."""
    store = QueueStore("fast", redis, "worker", limit=3)
    for number in range(3):
        await redis.hset(queue_key("fast", "held"), f"old-{number}", "dead|1000|0|a")
    await redis.zadd(queue_key("fast", "workers"), {"dead": 1000})
    beat = await store.beat("worker", b"secret", store.limit)
    assert (beat.num_held, beat.state.inflight) == (0, 0)
    assert not await redis.exists(queue_key("fast", "held"))


async def test_who_leaves_while_its_question_is_on_the_way_leaves_once_more_after_the_reply(
    redis: Redis, redis_process: RedisProcess
) -> None:
    """Its end goes another way than its question, and may come first."""
    store = QueueStore("fast", redis, "worker", limit=1)
    left = asyncio.Event()
    async with at_work(store):
        redis_process.freeze()
        asking = asyncio.create_task(store.enter(terms("1"), lambda: False, lambda _: None, left.set))
        await until(lambda: store.is_silent)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        was_told = left.is_set()
        redis_process.thaw()
        assert not was_told
        async with asyncio.timeout(5):
            await left.wait()
        assert await redis.hkeys(queue_key("fast", "held")) == [b"1"]  # which is why


async def test_gaps_move_with_the_line_that_they_are_in(redis: Redis) -> None:
    """One leaves, the whole line moves as an answer was cheaper than thought, then another one leaves."""
    store = QueueStore("fast", redis, "worker", limit=1)
    async with at_work(store):
        for number in range(101):
            asked = terms(f"{number:03d}", wait_ms=10**6, max_waiting=200, cost=100)
            await store.enter(asked, lambda: False, lambda _: None)
        await store.call("release", '[["050",-1,"a",0,0]]')
        await store.call("release", '[["000",10,"a",0,-200]]')
        await store.call("release", '[["051",-1,"a",0,0]]')
        line = await redis.zrange(queue_key("fast", "line"), 0, -1, withscores=True)
        tags = {int(name): tag for name, tag in line}
        assert tags == {n: 100 * n - (200 if n < 50 else 400) for n in range(2, 101) if n not in {50, 51}}
        own = await redis.zrange(queue_key("fast", "line") + ":own:0|a", 0, -1, withscores=True)
        assert own == line


async def test_a_script_that_keeps_no_lines_of_tenants_may_have_a_part_in_them(redis: Redis) -> None:
    """As before they came: it takes who waits out of the line, with its entry or without, and of nothing else."""
    store = QueueStore("fast", redis, "worker", limit=1)
    line = queue_key("fast", "line")
    async with at_work(store):
        for name in "0123456":
            asked = terms(name, wait_ms=10**6, cost=100)
            await store.enter(asked, lambda: False, lambda _: None)
        assert await redis.zrem(line, "1", "2") == 2
        assert await redis.hdel(queue_key("fast", "entries"), "1") == 1
        await store.call("release", '[["3",-1,"a",0,0]]')
        assert await redis.zrange(f"{line}:own:0|a", 0, -1) == [b"4", b"5", b"6"]
        await store.call("release", '[["2",-1,"a",0,0]]')
        assert await redis.zrange(line, 0, -1) == [b"4", b"5", b"6"]
        assert sorted(await redis.hkeys(queue_key("fast", "entries"))) == [b"4", b"5", b"6"]
        await store.call("release", '[["0",10,"a",0,0],["4",-1,"a",0,0]]')
        assert await redis.hkeys(queue_key("fast", "held")) == [b"5"]
        await store.call("release", '[["5",10,"a",0,0],["6",10,"a",0,0]]')
        left = [key async for key in redis.scan_iter(f"{line}*")]
        assert left == [f"{line}:of:worker".encode()]  # which goes with the worker
