"""Queues over a real redis-server: as many workers as a test wants, each with its connections and its own tasks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.admission import queue_store
from gateway.admission.redis_queue import RedisQueue
from gateway.admission.waiting import Claim, Permit
from tests.fakes.redis_process import RedisProcess
from tests.waiting import until


async def take(
    queue: RedisQueue, tenant: str = "a", *, told: list[int] | None = None, **claim: Any
) -> Permit:
    """A slot. told: gets the places in line of which it hears meanwhile. claim: what else it asks for."""
    return await queue.acquire(
        band="interactive",
        deadline=time.monotonic() + 30,
        on_wait=None if told is None else lambda place, _: told.append(place),
        claim=Claim(tenant=tenant, **claim),
    )


async def waiting(queue: RedisQueue, tenant: str = "a", **claim: Any) -> asyncio.Task[Permit]:
    """A waiter that stands in line."""
    told: list[int] = []
    task = asyncio.create_task(take(queue, tenant, told=told, **claim))
    await until(lambda: told, within_s=5)
    return task


class Workers:
    """Makes workers of one tier's queue, and ends them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._parts: list[tuple[Redis, RedisQueue, asyncio.Task[None]]] = []

    async def start(
        self,
        *,
        limit: int = 2,
        max_waiting: int = 10,
        ttl_s: float = 30.0,
        max_bytes: int = 10_000,
        share: int = 1,
        unix_s: Callable[[], float] = time.time,
    ) -> RedisQueue:
        redis = Redis.from_url(self._url, protocol=3, socket_timeout=None)  # as connect_redis has it
        queue = RedisQueue(
            "fast",
            redis,
            limit=limit,
            max_waiting=max_waiting,
            max_bytes=max_bytes,
            ttl_s=ttl_s,
            share=share,
            unix_s=unix_s,
        )
        await queue.connect()
        self._parts.append((redis, queue, asyncio.create_task(queue.run())))
        return queue

    async def kill(self, queue: RedisQueue) -> None:
        """The worker falls silent: no more beats, nothing given back."""
        for redis, each, task in self._parts:
            if each is queue:
                await _end(task)
                await redis.aclose()

    async def close(self) -> None:
        for redis, _, task in self._parts:
            await _end(task)
            await redis.aclose()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Redis does not ail: one that a loaded machine keeps waiting is no reason to take a slot without it."""
    monkeypatch.setattr(queue_store, "LATE_S", 10.0)


@pytest_asyncio.fixture
async def workers(redis_process: RedisProcess) -> AsyncIterator[Workers]:
    redis_process.command("FLUSHALL")
    made = Workers(redis_process.url)
    yield made
    await made.close()
