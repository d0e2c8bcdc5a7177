"""Redis frozen, killed, full: nobody waits, limits go on from shares within their bound, and it heals by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from gateway.admission.quota import PATIENCE_S
from gateway.types import Limits, Tenant
from tests.fakes.redis_process import RedisProcess, running_redis
from tests.integration.limits.conftest import Workers

NUM_WORKERS = 2


class Stand:
    """Two workers on the real clock, and what ails their Redis."""

    def __init__(self, server: RedisProcess, patience_s: float) -> None:
        self.server = server
        self.workers = Workers(server.url, NUM_WORKERS, None, patience_s=patience_s)
        self.tasks = [asyncio.create_task(limiter.run()) for limiter in self.workers.limiters]

    async def all_linked(self, is_linked: bool) -> None:
        for _ in range(600):
            if all(limiter.is_linked is is_linked for limiter in self.workers.limiters):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"the workers did not become {'linked' if is_linked else 'unlinked'}")

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await self.workers.close()


@pytest_asyncio.fixture(params=[1.0])
async def stand(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stand]:
    """The parameter is the workers' patience (seconds)."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        made = Stand(server, request.param)
        await made.all_linked(True)
        yield made
        await made.close()


def freeze(server: RedisProcess) -> None:
    server.freeze()


def kill(server: RedisProcess) -> None:
    server.kill()


def fill(server: RedisProcess) -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.command("CONFIG", "SET", "maxmemory", "1")


def thaw(server: RedisProcess) -> None:
    server.thaw()


def restart(server: RedisProcess) -> None:
    server.start()


def empty(server: RedisProcess) -> None:
    server.command("CONFIG", "SET", "maxmemory", "0")


Act = Callable[[RedisProcess], None]
ailments = pytest.mark.parametrize(
    ("ail", "heal"), [(freeze, thaw), (kill, restart), (fill, empty)], ids=["frozen", "killed", "full"]
)


@pytest.mark.parametrize("stand", [PATIENCE_S], indirect=True, ids=[""])
@ailments
async def test_nobody_waits_and_shares_bound_what_is_admitted(stand: Stand, ail: Act, heal: Act) -> None:
    limit = 40
    tenant = Tenant("acme", limits=Limits(requests_per_minute=limit, concurrent_streams=1000))
    before = [await stand.workers.admits(0, tenant) for _ in range(10)]
    assert all(before)
    ail(stand.server)
    waits_ms, num_admitted = [], 0
    for at in range(2000):
        began = time.perf_counter()
        held = await stand.workers.admits(at % NUM_WORKERS, tenant)
        waits_ms.append((time.perf_counter() - began) * 1000)
        num_admitted += held is not None
        if at % 20 == 0:
            await asyncio.sleep(0)
    waits_ms.sort()
    assert waits_ms[int(0.95 * len(waits_ms))] <= 5.0
    # Only those before anybody knew, and the machine's own.
    assert sum(wait_ms > 2.0 for wait_ms in waits_ms) <= 60
    # The bound in docs/limits.md: what was admitted before, and each worker's share of the limit.
    assert num_admitted + len(before) <= limit + limit * (NUM_WORKERS - 1) // NUM_WORKERS
    assert num_admitted >= limit // NUM_WORKERS  # limits go on; they do not close
    await stand.all_linked(False)
    assert await stand.workers.admits(0, Tenant("other", limits=Limits(requests_per_minute=10)))
    heal(stand.server)
    await stand.all_linked(True)


@ailments
async def test_what_was_admitted_alone_is_told_afterwards(stand: Stand, ail: Act, heal: Act) -> None:
    tenant = Tenant("acme", limits=Limits(requests_per_minute=10))
    assert [bool(await stand.workers.admits(0, tenant)) for _ in range(2)] == [True, True]
    await stand.workers.tick()
    ail(stand.server)
    await stand.all_linked(False)
    alone = [await stand.workers.admits(1, tenant) for _ in range(9)]
    assert sum(each is not None for each in alone) == 5  # its share
    heal(stand.server)
    await stand.all_linked(True)
    for _ in range(3):
        await stand.workers.tick()
    assert [bool(await stand.workers.admits(0, tenant)) for _ in range(4)] == [True, True, True, False]


@ailments
async def test_streams_that_ran_through_it_are_counted_again(stand: Stand, ail: Act, heal: Act) -> None:
    tenant = Tenant("acme", limits=Limits(concurrent_streams=4))
    held = [await stand.workers.admits(0, tenant) for _ in range(2)]
    ail(stand.server)
    await stand.all_linked(False)
    held += [await stand.workers.admits(1, tenant) for _ in range(2)]
    assert all(held)
    assert not await stand.workers.admits(1, tenant)
    heal(stand.server)
    await stand.all_linked(True)
    await stand.workers.tick()
    assert not await stand.workers.admits(0, tenant)
    for each in held:
        assert each is not None
        each.settle(0)
    await stand.workers.tick()
    await asyncio.sleep(0.3)  # how long a refusal stands
    again = [await stand.workers.admits(at % 2, tenant) for at in range(5)]
    assert sum(each is not None for each in again) == 4


async def test_a_budget_goes_on_from_shares_of_what_was_left(stand: Stand) -> None:
    stand.workers.spent = 600
    tenant = Tenant("acme", limits=Limits(monthly_tokens=1000))
    held = await stand.workers.admits(0, tenant, 200)
    assert held
    held.settle(200)
    await stand.workers.tick()
    assert (await stand.workers.limiters[1].fresh_standing(tenant))["budget"].remaining == 200
    stand.server.freeze()
    await stand.all_linked(False)
    assert await stand.workers.admits(1, tenant, 100)
    assert not await stand.workers.admits(1, tenant, 1)
    assert await stand.workers.admits(0, tenant, 100)
    assert not await stand.workers.admits(0, tenant, 1)
    stand.server.thaw()


async def test_a_worker_that_starts_while_redis_is_away_goes_by_the_ledger(stand: Stand) -> None:
    stand.workers.spent = 990
    stand.server.kill()
    await stand.all_linked(False)
    tenant = Tenant("acme", limits=Limits(monthly_tokens=1000))
    await asyncio.sleep(0)
    admitted = [await stand.workers.admits(0, tenant, 1) is not None for _ in range(20)]
    assert sum(admitted) <= 500  # nothing is known: its share of the whole
    assert admitted[0]
