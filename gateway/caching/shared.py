"""The level that all workers share, in Redis: bounded in time, bounded in size, and never needed.

A read takes READ_LIMIT_S at most. After a read or a write that failed Redis is left alone for a moment, so a frozen one
costs those who read just then their few milliseconds and no other anything. What is read is checked like a stranger's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.caching.entry import Entry, EntryRefused, decode, encode
from gateway.caching.key import Key
from gateway.caching.names import book_names, entry_name
from gateway.storage.redis_trips import Away, RedisTrips

log = logging.getLogger("tidegate.cache")

READ_LIMIT_S = 0.004  # the promise is 5 ms: the rest is for the event loop to notice
WRITE_LIMIT_S = 0.5
REST_S = 1.0  # after a failure; up to twice as long, so that workers do not come back at once
PURGES = "tidegate:cache-purges"  # the channel of what operators purge, and the list of the last such orders
MAX_PURGES = 1000  # in that list
MAX_WRITES = 64  # under way; more are left out: the answer stays in its worker

SCRIPT = (Path(__file__).parent / "answers.lua").read_text("utf-8")
OVERHEAD_BYTES = 600  # of an entry in Redis, beyond its own bytes: its name, its places in the books
TOUCH_EVERY_S = 60.0
MAX_TOUCHED = 4096  # tenants


async def drop_entries(redis: Redis, tenant_id: str, digests: Sequence[str]) -> int:
    """Remove entries, and take them off the books. Returns how many there were. Raises: RedisError, OSError."""
    return int(await redis.eval(SCRIPT, 3, *book_names(tenant_id), "drop", *digests))


class SharedStore:
    """max_entries, max_bytes: of one tenant. trips: how it is read. count: told how each call ended, by (operation,
    result)."""

    def __init__(
        self,
        redis: Redis,
        *,
        max_entries: int,
        max_bytes: int = 64 * 2**20,
        trips: RedisTrips | None = None,
        count: Callable[[str, str], None] = lambda _operation, _result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis, self._count, self._clock = redis, count, clock
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._trips = trips or RedisTrips(redis, clock=clock)
        self._rests_until = 0.0
        self._writes: set[asyncio.Task[None]] = set()
        self._touched: dict[str, float] = {}  # when each tenant's books were

    @property
    def is_resting(self) -> bool:
        return self._trips.is_resting or self._clock() < self._rests_until

    async def get(self, key: Key) -> Entry | None:
        """What is there, if it is what was asked for. Never raises, never waits longer than READ_LIMIT_S."""
        if self.is_resting:
            self._count("read", "resting")
            return None
        try:
            self._touch_books(key.tenant_id)  # it goes along
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
        if len(data) + OVERHEAD_BYTES > self._max_bytes:
            self._count("write", "too_large")
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

    def _touch_books(self, tenant_id: str) -> None:
        """Where memory runs out, Redis ends what was used longest ago: never the books before the answers."""
        now = self._clock()
        if now - self._touched.get(tenant_id, float("-inf")) < TOUCH_EVERY_S:
            return
        if len(self._touched) >= MAX_TOUCHED:
            self._touched.clear()
        self._touched[tenant_id] = now
        self._trips.post("TOUCH", *book_names(tenant_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def _write(self, entry: Entry, data: bytes) -> None:
        now = time.time()
        ttl_s = max(1, int(entry.expires - now))
        args = (entry.digest, data, len(data) + OVERHEAD_BYTES, now, entry.created, ttl_s, entry.expires)
        books = book_names(entry.tenant_id)
        try:
            async with asyncio.timeout(WRITE_LIMIT_S):
                await self._redis.eval(SCRIPT, 3, *books, "put", *args, self._max_entries, self._max_bytes)
            self._count("write", "ok")
        except (RedisError, OSError, TimeoutError) as error:
            self._rest("write", error)

    async def _drop(self, key: Key) -> None:
        try:
            async with asyncio.timeout(WRITE_LIMIT_S):
                await drop_entries(self._redis, key.tenant_id, [key.digest])
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
