"""Workers' limiters over one real Redis, each with a connection of its own, on one clock that tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from redis.asyncio import Redis

from gateway.admission.quota import Limiter, Reservation
from gateway.admission.redis_leases import RedisLeases
from gateway.errors import RateLimited
from gateway.metrics import Metrics
from gateway.types import Limits, Tenant
from tests.fakes.redis_process import RedisProcess

START = 1_800_000_000.0


class Clock:
    """Unix seconds, the same for workers and store."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return round(self.now * 1000)


class Workers:
    """Several workers' limiters. clock None = the real one everywhere. spent: what the ledger tells.

    patience_s: by default more than a loaded machine needs, so that what is admitted does not hang on its load.
    """

    def __init__(
        self,
        url: str,
        number: int,
        clock: Clock | None,
        *,
        defaults: Limits | None = None,
        patience_s: float = 5.0,
    ) -> None:
        self.clock, self.spent = clock, 0
        self.metrics = Metrics()
        self.redis = [Redis.from_url(url, protocol=3) for _ in range(number)]
        self.stores = [
            RedisLeases(each, worker=f"worker{at}", now_ms=clock.now_ms if clock else None)
            for at, each in enumerate(self.redis)
        ]
        times: dict[str, Any] = {"clock": clock, "wall": clock} if clock else {}
        self.limiters = [
            Limiter(
                store,
                defaults=defaults or Limits(),
                num_workers=number,
                spent=self._spent,
                metrics=self.metrics,
                patience_s=patience_s,
                **times,
            )
            for store in self.stores
        ]

    async def _spent(self, tenant_id: str, key_id: str, since: int) -> int:
        return self.spent

    @property
    def num_trips(self) -> int:
        """To Redis, of all workers, ticks too."""
        return sum(store.num_trips for store in self.stores)

    async def admits(self, at: int, tenant: Tenant, num_tokens: int = 1) -> Reservation | None:
        try:
            return await self.limiters[at].reserve(tenant, num_tokens)
        except RateLimited:
            return None

    async def tick(self) -> None:
        """What every worker does once a second, to its end."""
        for limiter in self.limiters:
            if under_way := set(limiter._calls._tasks):  # a tick leaves out a tenant that is told of just now
                await asyncio.wait(under_way)
            await limiter.tick()

    async def advance(self, seconds: float) -> None:
        assert self.clock is not None
        while seconds > 0:
            self.clock.now += min(1.0, seconds)
            seconds -= 1.0
            await self.tick()

    async def close(self) -> None:
        for limiter in self.limiters:
            await limiter.close()
        await asyncio.gather(*(each.aclose() for each in self.redis))


@pytest_asyncio.fixture
async def workers(redis_process: RedisProcess) -> AsyncIterator[Workers]:
    """Two of them, on a clock to turn."""
    redis_process.command("FLUSHALL")
    made = Workers(redis_process.url, 2, Clock())
    yield made
    await made.close()
