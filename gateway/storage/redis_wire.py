"""One connection to Redis, kept: several calls in one go, without what a pool does before and after each.

A pool looks at its connection, counts and locks around every call: with a request at a time that is half of the trip's
time (perf/README.md, "First chunk").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError


class RedisWire:
    """redis: whose pool the connection comes from, and with which it is closed. One go at a time, which the caller
    bounds."""

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool
        self._connection: Any = None

    async def send(self, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies, in order; a refusal of Redis is the ResponseError itself.

        Once more over a new connection where a kept one turns out to have ended. A go that is broken off closes the
        connection: what is still to come of it is nobody's reply. Raises: RedisError, OSError.
        """
        was_kept = self._connection is not None and self._connection.is_connected
        try:
            return await self._go(calls)
        except RedisConnectionError:
            if not was_kept:
                raise
            return await self._go(calls)

    async def _go(self, calls: Sequence[Sequence[Any]]) -> list[Any]:
        if self._connection is None:
            self._connection = await self._pool.get_connection()
        connection, is_whole = self._connection, False
        try:
            await connection.send_packed_command(connection.pack_commands(calls), check_health=False)
            replies = [await _reply(connection) for _ in calls]
            # One that takes no writes was the master a moment ago: the next go finds the new one.
            is_whole = not any(isinstance(reply, ReadOnlyError) for reply in replies)
            return replies
        finally:
            if not is_whole:
                await connection.disconnect(nowait=True)


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as refusal:
        return refusal
