"""The store of limits in Redis: one Lua call for all limits of a tenant, and which workers are alive.

The calls of many tenants travel in one trip, a pipeline. Every trip has an end (CALL_S), so a frozen Redis costs a
background task a second and a request nothing. All keys of a tenant share a hash tag: a call stays on one node of a
cluster.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
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

log = logging.getLogger("tidegate.limits")

CALL_S = 1.0
BEAT_TTL_MS = 10_000
SCRIPT = (Path(__file__).parent / "lease.lua").read_bytes()
# KEYS: the workers alive. ARGV: worker, now_ms (0 = this server's clock), how long one counts as alive (ms).
BEAT = b"""
local now = tonumber(ARGV[2])
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
return redis.call('ZCARD', KEYS[1])
"""


def _sha(script: bytes) -> str:
    """What EVALSHA calls it by."""
    return hashlib.sha1(script, usedforsecurity=False).hexdigest()


_LEASE_SHA, _BEAT_SHA = _sha(SCRIPT), _sha(BEAT)
_STATUS = ("ok", "changed", "unseeded")
_ALIVE = "tidegate:limits:workers"
Words = tuple[Any, ...]
_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """now_s: unix seconds by the store's clock. answers: as the asks were."""

    now_s: float
    answers: list[Answer]


class Said(NamedTuple):
    """num_alive: workers; 0 where the trip told of none. replies: as the accounts were; None = that one failed."""

    num_alive: int
    replies: list[Reply | None]


class LeaseStore(Protocol):
    async def sync(
        self, accounts: Sequence[tuple[str, Sequence[Ask]]], workers: int, *, beats: bool = False
    ) -> Said:
        """Tell what each account used, get leases. workers: how many share a limit. beats: say that this worker lives.

        Raises: UpstreamUnavailable when nothing of it was answered.
        """
        ...

    async def close(self) -> None: ...


class RedisLeases:
    """now_ms: another clock than the server's, for tests; all workers must have the same."""

    def __init__(self, redis: Redis, *, worker: str | None = None, now_ms: Any = None) -> None:
        self._redis = redis
        self.worker = worker or secrets.token_hex(6)
        self._now_ms = now_ms or (lambda: 0)
        self.num_trips = 0

    async def sync(
        self, accounts: Sequence[tuple[str, Sequence[Ask]]], workers: int, *, beats: bool = False
    ) -> Said:
        now_ms = self._now_ms()
        calls = [self._call(account, asks, workers, now_ms) for account, asks in accounts]
        if beats:
            calls.append(("EVALSHA", _BEAT_SHA, 1, _ALIVE, self.worker, now_ms, BEAT_TTL_MS))
        if not calls:
            return Said(0, [])
        replies = await self._within(self._run(calls))
        failures = [reply for reply in replies if isinstance(reply, Exception)]
        if len(failures) == len(replies):
            raise _unavailable(failures[0]) from failures[0]
        if failures:
            log.error("limits of %d tenants were not brought up to date: %s", len(failures), failures[0])
        num_alive = replies.pop() if beats else 0
        return Said(num_alive if isinstance(num_alive, int) else 0, [_reply(reply) for reply in replies])

    def _call(self, account: str, asks: Sequence[Ask], workers: int, now_ms: int) -> Words:
        keys = [key for ask in asks for key in self._keys(account, ask)]
        lease_ms = int(STORE_LEASE_S * 1000)
        return (
            "EVALSHA",
            _LEASE_SHA,
            len(keys),
            *keys,
            self.worker,
            now_ms,
            workers,
            lease_ms,
            _encode(asks),
        )

    def _keys(self, account: str, ask: Ask) -> tuple[str, str, str]:
        name = f"tidegate:limit:{{{account}}}:{ask.name}"
        return name, f"{name}:{self.worker}", f"{name}:leases"

    async def _run(self, calls: list[Words]) -> list[Any]:
        """The replies, failures of single calls among them."""
        replies = await self._trip(calls)
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # a Redis that was started again has forgotten them
            load = [("SCRIPT LOAD", script) for script in (SCRIPT, BEAT)]
            again = await self._trip([*load, *(calls[at] for at in unknown)])
            for at, reply in zip(unknown, again[len(load) :], strict=True):
                replies[at] = reply
        return replies

    async def _trip(self, calls: list[Words]) -> list[Any]:
        self.num_trips += 1
        async with self._redis.pipeline(transaction=False) as pipe:
            for words in calls:
                pipe.execute_command(*words)
            return list(await pipe.execute(raise_on_error=False))

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
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> UpstreamUnavailable:
    return UpstreamUnavailable(
        "The limits' store does not answer.", code="redis_unavailable", detail=str(error)
    )


def _reply(said: Any) -> Reply | None:
    if isinstance(said, Exception):
        return None
    now_ms, rows = said
    return Reply(now_ms / 1000, [_answer(row) for row in rows])


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
