"""One worker of the limits' benchmark: a Limiter as a gateway worker has it, offered requests by a schedule.

`python -m perf.limits_worker PLAN`, a JSON object of the fields of `Plan`. Its row of each request, and the trips to
Redis it made, go to the plan's file. Times are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from gateway.admission.quota import Limiter
from gateway.admission.redis_leases import RedisLeases
from gateway.errors import RateLimited
from gateway.metrics import Metrics
from gateway.types import Limits, Tenant
from perf import rows
from perf.rows import Row


@dataclass(frozen=True)
class Plan:
    """rate: requests a second, of all tenants. estimated, actual: tokens of each. limits: of every tenant.

    warm_s: before trips are counted, so that every tenant has been here.
    """

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
    num_tenants: int = 1
    warm_s: float = 0.0


async def _nothing_spent(tenant_id: str, key_id: str, since: int) -> int:
    return 0


async def run(plan: Plan) -> int:
    """The trips that were made while requests came, from warm_s on."""
    store = RedisLeases(Redis.from_url(plan.redis_url, protocol=3, socket_timeout=None))
    limiter = Limiter(
        store, defaults=Limits(), num_workers=plan.num_workers, spent=_nothing_spent, metrics=Metrics()
    )
    ticking = asyncio.create_task(limiter.run())
    limits, chance = Limits(**plan.limits), random.Random(plan.number)
    tenants = [Tenant(f"tenant{at}", "key_1", limits=limits) for at in range(plan.num_tenants)]
    kept: list[Row] = []

    async def request(intended_s: float, tenant: Tenant) -> None:
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
            if at == int(plan.warm_s * plan.rate):
                before = store.num_trips
            tasks.create_task(request(due_s, chance.choice(tenants)))
    trips = store.num_trips - before
    ticking.cancel()
    await limiter.close()
    rows.write(Path(plan.out), kept)
    return trips


def argument(plan: Plan) -> str:
    return json.dumps(asdict(plan))


if __name__ == "__main__":
    print(uvloop.run(run(Plan(**json.loads(sys.argv[1])))))
