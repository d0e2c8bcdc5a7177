"""One worker of the limits' benchmark: a Limiter as a gateway worker has it, offered requests by a schedule.

`python -m perf.limits_worker PLAN`, a JSON object of the fields of `Plan`. Its row of each request, and the trips to
Redis it made, go to the plan's file. Times are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from gateway.admission.limits import Ask
from gateway.admission.quota import Limiter
from gateway.admission.redis_leases import RedisLeases, Reply
from gateway.errors import RateLimited
from gateway.metrics import Metrics
from gateway.types import Limits, Tenant
from perf import rows
from perf.rows import Row

TRIPS_OF_A_BEAT = 2  # the time, then what is said and asked (redis_leases.py)


@dataclass(frozen=True)
class Plan:
    """rate: requests a second. estimated, actual: tokens of each. limits: of the tenant."""

    out: str
    redis_url: str
    arm: str
    number: int
    num_workers: int
    start_s: float
    seconds: float
    rate: float
    estimated: int
    actual: int
    limits: dict[str, int]


class CountedLeases(RedisLeases):
    """Every trip is counted; of the beats, too."""

    num_trips = 0

    async def sync(self, account: str, asks: Sequence[Ask], workers: int) -> Reply:
        self.num_trips += 1
        return await super().sync(account, asks, workers)

    async def beat(self) -> int:
        self.num_trips += TRIPS_OF_A_BEAT
        return await super().beat()


async def _nothing_spent(tenant_id: str, key_id: str, since: int) -> int:
    return 0


async def run(plan: Plan) -> int:
    """The trips that were made while requests came."""
    store = CountedLeases(Redis.from_url(plan.redis_url, protocol=3, socket_timeout=None))
    limiter = Limiter(
        store, defaults=Limits(), num_workers=plan.num_workers, spent=_nothing_spent, metrics=Metrics()
    )
    ticking = asyncio.create_task(limiter.run())
    tenant = Tenant("acme", "key_1", limits=Limits(**plan.limits))
    kept: list[Row] = []

    async def request(intended_s: float) -> None:
        sent_s = time.perf_counter()
        try:
            held = await limiter.reserve(tenant, plan.estimated)
        except RateLimited:
            kept.append(Row(plan.arm, plan.number, intended_s, sent_s, time.perf_counter(), 0))
            return
        kept.append(Row(plan.arm, plan.number, intended_s, sent_s, time.perf_counter(), 1))
        held.settle(plan.actual)

    await asyncio.sleep(max(0.0, plan.start_s - time.perf_counter()))
    before = store.num_trips
    async with asyncio.TaskGroup() as tasks:
        for at in range(int(plan.seconds * plan.rate)):
            due_s = plan.start_s + at / plan.rate
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            tasks.create_task(request(due_s))
    trips = store.num_trips - before
    ticking.cancel()
    await limiter.close()
    rows.write(Path(plan.out), kept)
    return trips


def argument(plan: Plan) -> str:
    return json.dumps(asdict(plan))


if __name__ == "__main__":
    print(uvloop.run(run(Plan(**json.loads(sys.argv[1])))))
