"""The store of limits in Redis: one Lua call for all limits of a tenant, and which workers are alive.

Every call has an end (CALL_S), so a frozen Redis costs a background task a second and a request nothing.
All keys of a tenant share a hash tag, so one call stays on one node of a cluster.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from gateway.admission.limits import STORE_LEASE_S, Answer, Ask
from gateway.errors import UpstreamUnavailable
from gateway.storage.redis_trips import answered

CALL_S = 1.0
BEAT_TTL_MS = 10_000
SCRIPT = (Path(__file__).parent / "lease.lua").read_bytes()
_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()  # what EVALSHA calls it by
_STATUS = ("ok", "changed", "unseeded")
_ALIVE = "tidegate:limits:workers"
_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """now_s: unix seconds by the store's clock. answers: as the asks were."""

    now_s: float
    answers: list[Answer]


class LeaseStore(Protocol):
    async def sync(self, account: str, asks: Sequence[Ask], workers: int) -> Reply:
        """Tell what was used, get leases. workers: how many share a limit. Raises: UpstreamUnavailable."""
        ...

    async def beat(self) -> int:
        """Say that this worker lives. Returns how many do. Raises: UpstreamUnavailable."""
        ...

    async def close(self) -> None: ...


class RedisLeases:
    """now_ms: another clock than the server's, for tests; all workers must have the same."""

    def __init__(self, redis: Redis, *, worker: str | None = None, now_ms: Any = None) -> None:
        self._redis = redis
        self.worker = worker or secrets.token_hex(6)
        self._now_ms = now_ms or (lambda: 0)
        self._is_loaded = False
        self.num_calls = 0

    async def sync(self, account: str, asks: Sequence[Ask], workers: int) -> Reply:
        keys = [key for ask in asks for key in self._keys(account, ask)]
        args = [self.worker, self._now_ms(), workers, int(STORE_LEASE_S * 1000), _encode(asks)]
        now_ms, rows = await self._within(self._run(keys, args))
        return Reply(now_ms / 1000, [_answer(row) for row in rows])

    def _keys(self, account: str, ask: Ask) -> tuple[str, str, str]:
        name = f"tidegate:limit:{{{account}}}:{ask.name}"
        return name, f"{name}:{self.worker}", f"{name}:leases"

    async def _run(self, keys: list[str], args: list[Any]) -> Any:
        self.num_calls += 1
        call: Any = self._redis
        try:
            return await call.evalsha(_SHA, len(keys), *keys, *args)
        except NoScriptError:  # a Redis that was started again has forgotten it
            await call.script_load(SCRIPT)
            return await call.evalsha(_SHA, len(keys), *keys, *args)

    async def beat(self) -> int:
        return int(await self._within(self._beat()))

    async def _beat(self) -> int:
        redis: Any = self._redis
        if not self._is_loaded:  # before the first request needs it
            await redis.script_load(SCRIPT)
            self._is_loaded = True
        seconds, microseconds = await redis.time()
        now_ms = seconds * 1000 + microseconds // 1000
        async with redis.pipeline(transaction=False) as pipe:
            pipe.zadd(_ALIVE, {self.worker: now_ms})
            pipe.zremrangebyscore(_ALIVE, 0, now_ms - BEAT_TTL_MS)
            pipe.zcard(_ALIVE)
            *_, alive = await pipe.execute()
        return int(alive)

    async def close(self) -> None:
        """Say that this worker ends, if anybody hears it, and close the connections."""
        redis: Any = self._redis
        with contextlib.suppress(UpstreamUnavailable):
            await self._within(redis.zrem(_ALIVE, self.worker))
        await redis.aclose()

    async def _within(self, work: Any) -> Any:
        try:
            return await answered(work, CALL_S)
        except (RedisError, OSError, TimeoutError) as error:
            raise UpstreamUnavailable(
                "The limits' store does not answer.", code="redis_unavailable", detail=str(error)
            ) from error


def _answer(row: list[Any]) -> Answer:
    status, level, left, wait_ms, reset_ms, generation = row
    return Answer(
        status=_STATUS[status],  # type: ignore[arg-type]
        level=level,
        left=left,
        wait_s=wait_ms / 1000,
        reset_s=reset_ms / 1000,
        generation=generation.decode(),
    )
