"""What an ailing Redis costs a request: hits and misses with Redis well, slow, frozen and full, in short windows that
take turns.

slow    it takes commands every SLOW_MS only (CLIENT PAUSE, again and again), so a call waits for up to that long
frozen  it is stopped (SIGSTOP)
full    it has no memory left: nothing is kept, and every write is refused

Requests go out on a schedule, so one that hangs shows in those that come after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.storage.redis_client import connect_redis
from gateway.supervise.redis_config import MEMORY_MB
from perf import rows as rows_module
from perf.cache.client import Connection, Reply, question, request
from perf.rows import Row
from perf.service import Service, running_service

WELL, TARGET_MS = "well", 5.0
SLOW_MS = 20
HIT = "What happens when a Triton replica dies?"
MISS = "What happens when replica number {number} of round {round} dies?"
EVERY_S = 0.04  # a hit and a miss in turn
REST_S = 3.0  # after an ailment, for the workers to use Redis again
WARM = 200


@dataclass(frozen=True)
class Size:
    num_rounds: int = 5
    window_s: float = 4.0


QUICK = Size(num_rounds=1, window_s=1.0)


def run(size: Size) -> list[Row]:
    with running_service(cache=True, gateway_workers=1) as service:
        return uvloop.run(_measure(service, size))


async def _measure(service: Service, size: Size) -> list[Row]:
    redis = connect_redis(service.settings)
    connections = {kind: [Connection(service.settings.port) for _ in range(64)] for kind in ("hit", "miss")}
    for number in range(WARM):
        text = HIT if number % 2 else MISS.format(number=number, round="none")
        await connections["hit"][0].ask(request(service.key, question(text)))
    rng, found = random.Random(0), []
    for number in range(size.num_rounds):
        for name in rng.sample(sorted(AILMENTS), len(AILMENTS)):
            async with AILMENTS[name](service, redis):
                found += await _window(service, connections, name, number, size.window_s)
            await asyncio.sleep(REST_S)
    for pool in connections.values():
        for connection in pool:
            connection.close()
    await redis.aclose()
    return found


async def _window(
    service: Service, connections: dict[str, list[Connection]], name: str, number: int, window_s: float
) -> list[Row]:
    """Each request on a connection that is free; none waits for another's answer."""
    began, asked = time.perf_counter(), list[asyncio.Task[Row]]()
    for at in range(round(window_s / EVERY_S)):
        intended_s = began + at * EVERY_S
        await asyncio.sleep(max(0.0, intended_s - time.perf_counter()))
        kind = "miss" if at % 2 else "hit"
        text = HIT if kind == "hit" else MISS.format(number=at, round=f"{name} {number}")
        raw = request(service.key, question(text))
        asking = _ask(connections[kind], raw, f"{name}/{kind}", number, intended_s)
        asked.append(asyncio.create_task(asking))
    return list(await asyncio.gather(*asked))


async def _ask(pool: list[Connection], raw: bytes, arm: str, number: int, intended_s: float) -> Row:
    """Raises: RuntimeError for whatever is no whole answer, and for a hit that is none."""
    connection = pool.pop() if pool else None
    if connection is None:
        raise RuntimeError("no connection is free: requests hang")
    reply: Reply = await connection.ask(raw)
    pool.append(connection)
    if arm.endswith("/hit") and reply.verdict != "exact":
        raise RuntimeError(f"what should be a hit is {reply.verdict}")
    return Row(arm, number, intended_s, reply.sent_s, reply.done_s)


@asynccontextmanager
async def _well(_service: Service, _redis: Redis) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _slow(_service: Service, redis: Redis) -> AsyncIterator[None]:
    async def burden() -> None:
        while True:
            await redis.client_pause(SLOW_MS)

    task = asyncio.create_task(burden())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, RedisError):
            await task


@asynccontextmanager
async def _frozen(service: Service, _redis: Redis) -> AsyncIterator[None]:
    parts = psutil.Process(service.pid).children(recursive=True)
    server = next(each for each in parts if each.name() == "redis-server")
    server.suspend()
    try:
        yield
    finally:
        server.resume()


@asynccontextmanager
async def _full(_service: Service, redis: Redis) -> AsyncIterator[None]:
    await redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        await redis.config_set("maxmemory", f"{MEMORY_MB}mb")


AILMENTS: dict[str, Callable[[Service, Redis], AbstractAsyncContextManager[None]]] = {
    WELL: _well,
    "slow": _slow,
    "frozen": _frozen,
    "full": _full,
}


def summarise(found: list[Row]) -> dict[str, Any]:
    """Added: to the same kind of request with Redis well (ms)."""
    told = rows_module.latencies(found)
    worst = {arm: max(row.latency_ms for row in found if row.arm == arm) for arm in told}
    out: dict[str, Any] = {}
    for name in AILMENTS:
        for kind in ("hit", "miss"):
            arm, base = f"{name}/{kind}", told[f"{WELL}/{kind}"]
            out[arm] = {
                **{key: round(value, 3) for key, value in told[arm].items()},
                "max": round(worst[arm], 3),
                "added_p50": round(told[arm]["p50"] - base["p50"], 3),
                "added_p99": round(told[arm]["p99"] - base["p99"], 3),
            }
    return {"latency_ms": out}


def show(summary: dict[str, Any]) -> None:
    print(f"\nhits and misses while Redis ails (ms; target: added p99 <= {TARGET_MS:g})")
    for arm, row in summary["latency_ms"].items():
        print(
            f"  {arm:12} p50 {row['p50']:7.2f}  p99 {row['p99']:7.2f}  max {row['max']:7.2f}  "
            f"added p50 {row['added_p50']:+6.2f}  p99 {row['added_p99']:+6.2f}  n {row['n']}"
        )
