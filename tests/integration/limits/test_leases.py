"""Limits shared by workers through a real Redis: what is admitted, refused, given back, and how many calls it takes."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.admission.standing import duration
from gateway.errors import QuotaExceeded, RateLimited
from gateway.types import Limits, Tenant
from tests.fakes.redis_process import RedisProcess
from tests.integration.limits.conftest import START, Clock, Workers


def tenant(**limits: int) -> Tenant:
    return Tenant("acme", limits=Limits(**limits))


async def test_who_has_no_limits_costs_no_call(workers: Workers) -> None:
    for _ in range(100):
        assert await workers.admits(0, Tenant("acme", "key_1"), 1000)
    assert workers.num_trips == 0


async def test_workers_share_a_small_limit_exactly(workers: Workers) -> None:
    three = tenant(requests_per_minute=3)
    admitted = [await workers.admits(at % 2, three) is not None for at in range(6)]
    assert admitted == [True, True, True, False, False, False]


async def test_a_minute_slides(workers: Workers) -> None:
    two = tenant(requests_per_minute=2)
    assert await workers.admits(0, two)
    await workers.advance(30)
    assert await workers.admits(1, two)
    assert not await workers.admits(0, two)
    await workers.advance(32)  # the first one has left the minute
    assert await workers.admits(0, two)
    assert not await workers.admits(1, two)


async def test_a_refusal_says_when_to_come_back(workers: Workers) -> None:
    one = tenant(requests_per_minute=1)
    await workers.limiters[0].reserve(one, 1)
    await workers.advance(20)
    with pytest.raises(RateLimited) as refused:
        await workers.limiters[1].reserve(one, 1)
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.retry_after_s == pytest.approx(41, abs=1)


async def test_a_key_is_bound_by_its_own_limit_and_by_its_tenants(workers: Workers) -> None:
    of_key = Tenant(
        "acme", "key_1", limits=Limits(requests_per_minute=3), key_limits=Limits(requests_per_minute=2)
    )
    other = Tenant("acme", "key_2", limits=Limits(requests_per_minute=3))
    assert [bool(await workers.admits(0, of_key)) for _ in range(3)] == [True, True, False]
    await workers.tick()  # the third one held a place of the tenant's until now
    assert [bool(await workers.admits(1, other)) for _ in range(2)] == [True, False]


async def test_a_key_has_tokens_of_its_own_within_its_tenants(workers: Workers) -> None:
    limits = Limits(tokens_per_minute=1000)
    of_key = Tenant("acme", "key_1", limits=limits, key_limits=Limits(tokens_per_minute=300))
    held = await workers.admits(0, of_key, 250)
    assert held
    assert not await workers.admits(0, of_key, 100)
    assert await workers.admits(0, Tenant("acme", "key_2", limits=limits), 700)
    held.settle(150)
    await workers.advance(1)
    assert await workers.admits(1, of_key, 140)
    assert not await workers.admits(1, of_key, 50)


async def test_a_key_has_a_month_of_its_own(workers: Workers) -> None:
    workers.spent = 900
    of_key = Tenant("acme", "key_1", key_limits=Limits(monthly_tokens=1000))
    assert await workers.admits(0, of_key, 90)
    with pytest.raises(QuotaExceeded, match="key") as refused:
        await workers.limiters[1].reserve(of_key, 20)
    assert (refused.value.code, refused.value.status) == ("insufficient_quota", 429)
    assert await workers.admits(1, Tenant("acme", "key_2"), 10_000)


async def test_tenants_do_not_share(workers: Workers) -> None:
    one = Limits(requests_per_minute=1)
    assert await workers.admits(0, Tenant("acme", limits=one))
    assert await workers.admits(0, Tenant("rival", limits=one))


async def test_defaults_hold_for_tenants_without_limits_of_their_own(redis_process: RedisProcess) -> None:
    redis_process.command("FLUSHALL")
    workers = Workers(redis_process.url, 1, Clock(), defaults=Limits(requests_per_minute=1))
    plain, free = Tenant("plain"), Tenant("free", limits=Limits(requests_per_minute=0))
    assert [bool(await workers.admits(0, plain)) for _ in range(2)] == [True, False]
    assert [bool(await workers.admits(0, free)) for _ in range(2)] == [True, True]
    await workers.close()


async def test_what_an_estimate_took_too_much_is_given_back(workers: Workers) -> None:
    thousand = tenant(tokens_per_minute=1000)
    held = await workers.admits(0, thousand, 800)
    assert held
    assert not await workers.admits(1, thousand, 300)
    held.settle(100)
    await workers.advance(1)
    assert await workers.admits(1, thousand, 850)
    assert not await workers.admits(0, thousand, 100)


async def test_what_an_answer_took_beyond_its_estimate_is_charged(workers: Workers) -> None:
    thousand = tenant(tokens_per_minute=1000)
    held = await workers.admits(0, thousand, 100)
    assert held
    held.settle(950)
    await workers.advance(1)
    assert not await workers.admits(1, thousand, 100)
    assert await workers.admits(1, thousand, 50)


async def test_a_request_larger_than_the_limit_passes_when_nothing_else_runs(workers: Workers) -> None:
    assert await workers.admits(0, tenant(tokens_per_minute=100), 5000)
    assert not await workers.admits(1, tenant(tokens_per_minute=100), 1)


async def test_streams_are_counted_over_all_workers_and_come_back(workers: Workers) -> None:
    two = tenant(concurrent_streams=2)
    first, second = await workers.admits(0, two), await workers.admits(1, two)
    assert first
    assert second
    await workers.advance(10)  # kept alive by the ticks
    assert not await workers.admits(0, two)
    second.settle(0)
    await workers.advance(1)
    assert await workers.admits(0, two)


async def test_the_streams_of_a_dead_worker_come_back_in_three_seconds(workers: Workers) -> None:
    two, clock = tenant(concurrent_streams=2), workers.clock
    assert clock is not None
    assert [bool(await workers.admits(0, two)) for _ in range(2)] == [True, True]
    dead = workers.limiters[0]
    del workers.limiters[0]
    await workers.advance(1)
    assert not await workers.admits(0, two)
    clock.now += 2.1
    assert await workers.admits(0, two)
    workers.limiters.insert(0, dead)


async def test_a_budget_begins_with_what_the_ledger_has(workers: Workers) -> None:
    workers.spent = 900
    budget = tenant(monthly_tokens=1000)
    assert not await workers.admits(0, budget, 101)
    held = await workers.admits(1, budget, 90)
    assert held
    assert not await workers.admits(0, budget, 20)
    with pytest.raises(QuotaExceeded) as refused:
        await workers.limiters[0].reserve(budget, 20)
    assert (refused.value.code, refused.value.status) == ("insufficient_quota", 429)
    held.settle(60)
    await workers.advance(1)
    assert await workers.admits(0, budget, 40)


async def test_a_budget_ends_with_its_month(workers: Workers) -> None:
    clock = workers.clock
    assert clock is not None
    budget = tenant(monthly_tokens=1000)
    assert await workers.admits(0, budget, 1000)
    assert not await workers.admits(1, budget, 1)
    clock.now = START + 31 * 86400
    assert await workers.admits(1, budget, 1000)


async def test_a_budget_that_redis_lost_is_counted_from_the_ledger_again(
    workers: Workers, redis_process: RedisProcess
) -> None:
    budget = tenant(monthly_tokens=1000)
    done, running = await workers.admits(0, budget, 500), await workers.admits(1, budget, 300)
    assert done
    assert running
    done.settle(500)
    workers.spent = 500  # the ledger has the settled one
    redis_process.command("FLUSHALL")
    await workers.advance(2)
    assert (await workers.limiters[0].fresh_standing(budget))["budget"].remaining == 200
    running.settle(100)
    await workers.advance(1)
    assert await workers.admits(0, budget, 400)
    assert not await workers.admits(1, budget, 1)


async def test_minutes_that_redis_lost_are_told_again(workers: Workers, redis_process: RedisProcess) -> None:
    ten = tenant(requests_per_minute=10)
    assert [bool(await workers.admits(at % 2, ten)) for at in range(8)] == [True] * 8
    await workers.tick()
    redis_process.command("FLUSHALL")
    await workers.tick()
    await workers.advance(2)
    assert [bool(await workers.admits(at % 2, ten)) for at in range(4)] == [True, True, False, False]


async def test_a_high_rate_takes_one_call_for_fifty_requests(workers: Workers) -> None:
    """200 requests/s on each of two workers for 20 s."""
    many, clock = tenant(requests_per_minute=1_000_000, tokens_per_minute=100_000_000), workers.clock
    assert clock is not None
    num_requests = 0
    for step in range(20 * 200):
        clock.now += 1 / 200
        for at in range(2):
            held = await workers.admits(at, many, 900)
            assert held
            held.settle(500)
            num_requests += 1
        if step % 200 == 199:
            await workers.tick()
    assert workers.num_trips <= num_requests / 50, (workers.num_trips, num_requests)


@pytest.mark.parametrize("limit", [60, 600, 6000])
async def test_no_minute_admits_more_than_the_limit_under_a_flood(workers: Workers, limit: int) -> None:
    """Ten times the limit is offered, unevenly, by two workers for three minutes; every minute is looked at."""
    flooded, clock, chance = tenant(requests_per_minute=limit), workers.clock, random.Random(limit)
    assert clock is not None
    times: list[float] = []
    num_offered = 0
    per_tick = max(1, limit // 30)
    for _ in range(600):
        clock.now += 0.3
        for _ in range(per_tick * 3 // 2):
            num_offered += 1
            if await workers.admits(int(chance.random() < 0.3), flooded):
                times.append(clock.now)
        if chance.random() < 0.3:
            await workers.tick()
    most = max(sum(1 for other in times if start <= other < start + 60) for start in set(times))
    assert most <= limit
    assert len(times) >= 0.93 * limit * 3  # and hardly less than it
    assert workers.num_trips < num_offered


async def test_a_burst_of_waiters_shares_few_calls(workers: Workers) -> None:
    hundred = tenant(requests_per_minute=100)
    found = await asyncio.gather(*(workers.admits(0, hundred) for _ in range(150)))
    assert sum(each is not None for each in found) == 100
    assert workers.num_trips <= 4


async def test_the_standing_tells_limit_rest_and_reset(workers: Workers) -> None:
    limited = tenant(requests_per_minute=10, tokens_per_minute=1000)
    for at in range(2):
        assert await workers.admits(at, limited, 100)
    standing = await workers.limiters[0].fresh_standing(limited)
    assert (standing["requests"].limit, standing["requests"].remaining) == (10, 8)
    assert standing["tokens"].remaining == 800
    assert 59 <= standing["requests"].reset_s <= 61
    assert duration(standing["requests"].reset_s) in {"1m0s", "1m1s"}
