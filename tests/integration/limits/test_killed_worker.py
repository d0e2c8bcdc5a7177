"""kill -9 of a worker that holds leases: what is lost of its tenant's limits, and for how long (docs/limits.md)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest_asyncio

from gateway.admission.limits import STORE_LEASE_S
from gateway.types import Limits, Tenant
from tests.fakes.redis_process import RedisProcess
from tests.integration.limits.conftest import Workers

ROOT = Path(__file__).parents[3]
RATE = 100  # reservations a second: a lease is about a second's worth
LIMIT = 1000


@contextmanager
def worker(url: str, limits: Limits, rate: float) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "tests.fakes.limit_worker", url]
    argv += [str(limits.requests_per_minute or 0), str(limits.concurrent_streams or 0), str(rate)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def killed_after(process: subprocess.Popen[bytes], number: int) -> int:
    """Kill it once it has taken so much. Returns all that it took."""
    assert process.stdout is not None
    taken = 0
    while taken < number:
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, "the worker ended by itself"
        taken += len(piece)
    process.kill()
    process.wait(10)
    return taken + len(process.stdout.read())


@pytest_asyncio.fixture
async def other(redis_process: RedisProcess) -> AsyncIterator[Workers]:
    """The worker that lives on, on the real clock. Of its three tries a second none waits for a refusal to pass."""
    redis_process.command("FLUSHALL")
    made = Workers(redis_process.url, 1, None)
    yield made
    await made.close()


async def take_all(other: Workers, tenant: Tenant) -> int:
    """As much as there is now, a refusal being asked about again."""
    taken = refused = 0
    while refused < 3:
        if await other.admits(0, tenant):
            taken, refused = taken + 1, 0
            continue
        refused += 1
        await asyncio.sleep(0.3)  # how long a refusal stands
    return taken


async def test_a_killed_workers_quota_is_back_in_three_seconds_but_for_one_lease(
    other: Workers, redis_process: RedisProcess
) -> None:
    limits = Limits(requests_per_minute=LIMIT)
    with worker(redis_process.url, limits, RATE) as doomed:
        by_killed = await asyncio.to_thread(killed_after, doomed, 3 * RATE)
    died = time.monotonic()
    tenant = Tenant("acme", limits=limits)
    at_once = await take_all(other, tenant)
    assert time.monotonic() - died < STORE_LEASE_S, "what was held for the dead one has run out meanwhile"
    assert at_once >= LIMIT - by_killed - 2 * RATE, "more than a lease of it was held for the dead one"
    await asyncio.sleep(max(0.0, died + STORE_LEASE_S + 2.2 - time.monotonic()))
    total = by_killed + at_once + await take_all(other, tenant)
    assert total >= LIMIT, "something was lost for longer than the lease"
    assert total <= LIMIT + 2 * RATE, "more was let in twice than the lease that the dead one held"


async def test_a_killed_workers_streams_are_back_in_three_seconds(
    other: Workers, redis_process: RedisProcess
) -> None:
    limits = Limits(concurrent_streams=20)
    with worker(redis_process.url, limits, RATE) as doomed:
        assert await asyncio.to_thread(killed_after, doomed, 20) == 20
    died, tenant = time.monotonic(), Tenant("acme", limits=limits)
    assert not await other.admits(0, tenant), "the dead one's places are given out while they may be in use"
    while not await other.admits(0, tenant):
        assert time.monotonic() - died < STORE_LEASE_S + 2.6, "the places do not come back"
        await asyncio.sleep(0.05)
    assert 1 + await take_all(other, tenant) == 20
