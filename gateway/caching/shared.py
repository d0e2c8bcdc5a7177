"""The level that all workers share, in Redis: bounded in time, bounded in size, and never needed.

A read takes READ_LIMIT_S at most. After a read or a write that failed Redis is left alone for a moment, so a frozen one
costs those who read just then their few milliseconds and no other anything. What is read is checked like a stranger's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.caching.entry import Entry, EntryRefused, decode, encode
from gateway.caching.key import Key
from gateway.storage.redis_trips import Away, RedisTrips

log = logging.getLogger("tidegate.cache")

READ_LIMIT_S = 0.004  # the promise is 5 ms: the rest is for the event loop to notice
WRITE_LIMIT_S = 0.5
REST_S = 1.0  # after a failure; up to twice as long, so that workers do not come back at once
PURGES = "tidegate:cache-purges"  # the channel of what operators purge, and the list of the last such orders
MAX_PURGES = 1000  # in that list
MAX_WRITES = 64  # under way; more are left out: the answer stays in its worker

# Keep an entry and its place in the tenant's order of age; the oldest beyond the bound go.
_PUT = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[6])
local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[5])
if surplus > 0 then
  local oldest = redis.call('ZRANGE', KEYS[2], 0, surplus - 1)
  for _, digest in ipairs(oldest) do
    redis.call('UNLINK', KEYS[2] .. ':' .. digest)
    redis.call('ZREM', KEYS[2], digest)
  end
end
return 1
"""


def index_name(tenant_id: str) -> str:
    """Of the tenant's entries by age. The braces keep a tenant's keys on one node of a cluster."""
    return f"tidegate:answers:{{{tenant_id}}}"


def entry_name(tenant_id: str, digest: str) -> str:
    return f"{index_name(tenant_id)}:{digest}"


class SharedStore:
    """max_entries: of one tenant. trips: how it is read. count: told how each call ended, by (operation, result)."""

    def __init__(
        self,
        redis: Redis,
        *,
        max_entries: int,
        trips: RedisTrips | None = None,
        count: Callable[[str, str], None] = lambda _operation, _result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis, self._max_entries, self._count, self._clock = redis, max_entries, count, clock
        self._trips = trips or RedisTrips(redis, clock=clock)
        self._rests_until = 0.0
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def is_resting(self) -> bool:
        return self._trips.is_resting or self._clock() < self._rests_until

    async def get(self, key: Key) -> Entry | None:
        """What is there, if it is what was asked for. Never raises, never waits longer than READ_LIMIT_S."""
        if self.is_resting:
            self._count("read", "resting")
            return None
        try:
            name = entry_name(key.tenant_id, key.digest)
            data: Any = await self._trips.call("GET", name, limit_s=READ_LIMIT_S)
        except Away as error:
            self._count("read", "failed")
            log.debug("a read of the shared cache failed: %s", error)
            return None
        if data is None:
            self._count("read", "absent")
            return None
        try:
            entry = decode(data, key)
        except EntryRefused as refused:
            self._count("read", refused.reason)
            return None
        self._count("read", "ok")
        return entry

    def put(self, entry: Entry) -> asyncio.Task[None] | None:
        """Keep an entry, soon: as soon as the task is done. Never blocks, never raises."""
        if self._trips.is_away or self._clock() < self._rests_until or len(self._writes) >= MAX_WRITES:
            self._count("write", "left_out")
            return None
        try:
            data = encode(entry)
        except EntryRefused as refused:
            self._count("write", refused.reason)
            return None
        return self._spawn(self._write(entry, data))

    def drop(self, key: Key) -> None:
        """Remove an entry, soon."""
        if not self.is_resting and len(self._writes) < MAX_WRITES:
            self._spawn(self._drop(key))

    async def settle(self) -> None:
        """Wait for the writes that are under way."""
        while self._writes:
            await asyncio.wait(self._writes)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def _write(self, entry: Entry, data: bytes) -> None:
        ttl_s = max(1, int(entry.expires - time.time()))
        index = index_name(entry.tenant_id)
        args = (data, ttl_s, entry.created, entry.digest, self._max_entries, 2 * ttl_s)
        try:
            async with asyncio.timeout(WRITE_LIMIT_S):
                await self._redis.eval(_PUT, 2, f"{index}:{entry.digest}", index, *args)
            self._count("write", "ok")
        except (RedisError, OSError, TimeoutError) as error:
            self._rest("write", error)

    async def _drop(self, key: Key) -> None:
        try:
            async with asyncio.timeout(WRITE_LIMIT_S):
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.unlink(entry_name(key.tenant_id, key.digest))
                    pipe.zrem(index_name(key.tenant_id), key.digest)
                    await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._rest("drop", error)

    def _rest(self, operation: str, error: Exception) -> None:
        self._rests_until = self._clock() + REST_S * random.uniform(1, 2)  # noqa: S311  no secret
        self._count(operation, "failed")
        log.debug("the shared cache rests, a %s failed: %s", operation, error)


class Purge(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which answers to forget; empty = any."""

    tenant_id: str
    collection_id: str = ""
    file_id: str = ""

    def means(self, entry: Entry) -> bool:
        if entry.tenant_id != self.tenant_id:
            return False
        if not (self.collection_id or self.file_id):
            return True
        return any(
            self.collection_id in {"", passage.collection_id} and self.file_id in {"", passage.file_id}
            for passage in entry.passages
        )
