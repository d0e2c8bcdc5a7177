"""One small document that all workers share: kept in Redis, a copy in each worker, changes told at once.

Every version carries the time of its writing, so that of two the newer wins. A worker that cannot reach Redis goes on
with its copy; a Redis that came back empty gets it from whichever worker is there first. Knows nothing of the content.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import UpstreamUnavailable
from gateway.storage.redis_channel import follow_channel

log = logging.getLogger("tidegate.note")

WRITE_LIMIT_S = 1.0  # an operator may wait so long


class _Version(msgspec.Struct, frozen=True):
    """written: unix milliseconds, and above the version before it."""

    written: int = 0
    body: bytes = b""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Version).decode

# Keep the newer of what is there and what is given; tell everybody. Returns what is kept.
_KEEP_NEWER = """
local kept = redis.call('HGET', KEYS[1], 'written')
if not kept or tonumber(kept) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'written', ARGV[1], 'note', ARGV[2])
  redis.call('PUBLISH', KEYS[1], ARGV[2])
end
return redis.call('HGET', KEYS[1], 'note')
"""


class SharedNote:
    """name: of the key and of the channel. take: called with the body of each newer version; must not raise."""

    def __init__(self, redis: Redis, name: str, take: Callable[[bytes], None]) -> None:
        self._redis, self._name, self._take = redis, name, take
        self._mine = _Version()

    async def write(self, body: bytes) -> None:
        """Make this everybody's. Raises: UpstreamUnavailable when Redis did not confirm it."""
        version = _Version(max(int(time.time() * 1000), self._mine.written + 1), body)
        try:
            async with asyncio.timeout(WRITE_LIMIT_S):
                while (kept := self._heard(await self._keep(version))) > version.written:
                    # One by a clock that is ahead of ours, which was not heard of here.
                    version = _Version(kept + 1, body)
        except (RedisError, OSError, TimeoutError) as error:
            raise UpstreamUnavailable(
                "The change could not be shared with the other workers, as Redis does not answer. What was in force "
                "stays in force; look again before you repeat it.",
                detail=f"{self._name}: {error}",
            ) from error

    async def follow(self) -> None:
        """Hear of every change, for ever. Redis away: the copy stays in force, and Redis gets it back when it can."""
        await follow_channel(self._redis, self._name, self._hear, self._catch_up)

    async def _catch_up(self) -> None:
        """Whatever was said while nobody listened, or what Redis has lost."""
        async with asyncio.timeout(WRITE_LIMIT_S):
            if self._mine.written:
                self._hear(await self._keep(self._mine))
            elif (note := await self._redis.hget(self._name, "note")) is not None:
                self._hear(note)

    async def _keep(self, version: _Version) -> bytes:
        kept: bytes = await self._redis.eval(_KEEP_NEWER, 1, self._name, version.written, _encode(version))
        return kept

    def _hear(self, note: bytes | str) -> None:
        self._heard(note)

    def _heard(self, note: bytes | str) -> int:
        """When it was written; 0 = it is none of ours."""
        try:
            version = _decode(note)
        except msgspec.DecodeError as error:
            log.warning("%s holds what is no note of ours: %s", self._name, error)
            return 0
        if version.written > self._mine.written:
            self._mine = version
            self._take(version.body)
        return version.written
