"""A worker's limiter in a process of its own, to be killed: takes all it may get at a rate, and tells each at once.

`python -m tests.fakes.limit_worker REDIS_URL REQUESTS_PER_MINUTE STREAMS RATE`: a byte on standard output for each
reservation, written at once; none of them is ever given back.
"""

from __future__ import annotations

import asyncio
import os
import sys

from redis.asyncio import Redis

from gateway.admission.quota import Limiter
from gateway.admission.redis_leases import RedisLeases
from gateway.errors import RateLimited
from gateway.metrics import Metrics
from gateway.types import Limits, Tenant


async def _nothing_spent(tenant_id: str, key_id: str, since: int) -> int:
    return 0


async def take(url: str, limits: Limits, rate: float) -> None:
    store = RedisLeases(Redis.from_url(url, protocol=3))
    limiter = Limiter(
        store, defaults=Limits(), num_workers=2, spent=_nothing_spent, metrics=Metrics(), patience_s=5.0
    )
    ticking = asyncio.create_task(limiter.run())
    tenant = Tenant("acme", limits=limits)
    while not ticking.done():
        try:
            await limiter.reserve(tenant, 1)
        except RateLimited:
            await asyncio.sleep(0.1)
            continue
        os.write(1, b".")
        await asyncio.sleep(1 / rate)


if __name__ == "__main__":
    _, redis_url, requests, streams, per_second = sys.argv
    limits = Limits(requests_per_minute=int(requests), concurrent_streams=int(streams))
    asyncio.run(take(redis_url, limits, float(per_second)))
