"""Calls to Redis that nobody may wait for: those that come together share a trip, and each waits its own limit at most.

After a failure Redis is left alone for a moment, so a frozen one costs those who wait just then a few milliseconds, and
nobody else anything. Time in which our own event loop stood still is not held against Redis.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.storage.redis_wire import RedisWire

log = logging.getLogger("tidegate.redis")

Result = TypeVar("Result")

TRIP_LIMIT_S = 0.1
REST_S = 1.0  # after a failure; up to twice as long, so that workers do not come back at once
CALLS_AT_MOST = 256  # in one trip
MAX_ASKING = 4096  # calls that wait for a trip; more are refused
LATE_S = 0.001  # a timer that rings later than this tells of a busy event loop
MAX_LATE = 3  # replies in a row that came, but too late, before Redis is left alone as if it had failed
MAX_TURNS = 10  # of a busy event loop, each of which begins the wait anew
STEP_S = 0.0125


class Away(Exception):
    """Redis did not answer in time, or is being left alone."""


async def within(limit_s: float, future: asyncio.Future[Result]) -> Result:
    """Its result; it is not cancelled. Raises: TimeoutError."""
    loop = asyncio.get_running_loop()
    for _ in range(MAX_TURNS):
        due = loop.time() + limit_s
        done, _pending = await asyncio.wait({future}, timeout=limit_s)
        if done:
            return future.result()
        if loop.time() - due < LATE_S:
            break
    raise TimeoutError


async def answered(
    work: Coroutine[Any, Any, Result],
    limit_s: float,
    *,
    late_s: float = math.inf,
    on_late: Callable[[], object] = lambda: None,
) -> Result:
    """What the call says; it is cancelled when its time is over. Raises: TimeoutError.

    on_late: called once, when it takes longer than late_s.

    The time is our own event loop's: a step of the wait counts for no more than it was to last, so a loop that is
    seconds behind does not take Redis for dead, and turns to what has come before it counts on.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        waited_s = 0.0
        while waited_s < limit_s:
            step_s = min(limit_s - waited_s, STEP_S)
            done, _pending = await asyncio.wait({task}, timeout=step_s)
            if done:
                return task.result()
            waited_s += step_s
            if waited_s >= late_s:
                late_s = math.inf
                on_late()
        raise TimeoutError
    finally:
        task.cancel()


class RedisTrips:
    """redis: of which one connection is kept. clock: monotonic seconds."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis, self._clock = redis, clock
        self._wire = RedisWire(redis)
        self._rests_until = self._hurries_until = 0.0
        self._num_late = 0
        self._asking: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None
        self._stray: set[asyncio.Task[list[Any]]] = set()  # trips that go on although they were broken off

    @property
    def is_resting(self) -> bool:
        """Whether calls are refused at once."""
        return self._clock() < max(self._rests_until, self._hurries_until)

    @property
    def is_away(self) -> bool:
        """Whether posts are refused too."""
        return self._clock() < self._rests_until

    async def call(self, *words: Any, limit_s: float) -> Any:
        """The reply. While one is late no other call waits; posts go on. Raises: Away."""
        if self.is_resting:
            raise Away("left alone")
        return await self.reply(self.post(*words), limit_s=limit_s)

    async def reply(self, future: asyncio.Future[Any], *, limit_s: float) -> Any:
        """The reply to a post, which goes on whether or not it is waited for to its end. Raises: Away."""
        try:
            reply = await within(limit_s, future)
        except TimeoutError as error:
            self._num_late += 1
            self._hurries_until = self._moment()
            future.add_done_callback(self._end_hurry)
            raise Away("no reply in time") from error
        self._num_late = 0
        if isinstance(reply, Exception):
            raise Away(repr(reply)) from reply
        return reply

    def post(self, *words: Any) -> asyncio.Future[Any]:
        """The reply to come; it is an Exception where there is none. Calls go in the order in which they came."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.is_away or len(self._asking) >= MAX_ASKING:
            future.set_result(Away("left alone"))
            return future
        self._asking.append((words, future))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._travel())
        return future

    async def close(self) -> None:
        """Wait for what is under way, and close the connection."""
        if self._task is not None:
            await asyncio.wait({self._task})
        while self._stray:  # one that still connects would leave its connection open
            for trip in self._stray:
                trip.cancel()
            await asyncio.wait(self._stray, timeout=TRIP_LIMIT_S)
        await self._redis.aclose()

    async def _travel(self) -> None:
        while self._asking:
            batch, self._asking = self._asking[:CALLS_AT_MOST], self._asking[CALLS_AT_MOST:]
            replies = await self._trip([words for words, _ in batch])
            for (_, future), reply in zip(batch, replies, strict=True):
                if not future.done():
                    future.set_result(reply)

    async def _trip(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        trip = asyncio.get_running_loop().create_task(self._execute(calls))
        try:
            return await within(TRIP_LIMIT_S, trip)
        except (RedisError, OSError, TimeoutError) as error:
            self._rests_until = self._moment()
            log.debug("Redis is left alone for a moment: %r", error)
            return [Away(repr(error))] * len(calls)
        finally:
            trip.cancel()
            _, stray = await asyncio.wait({trip}, timeout=TRIP_LIMIT_S)  # it closes its connection
            for each in stray:  # the library may swallow a cancel while it connects
                self._stray.add(each)
                each.add_done_callback(self._ended)

    async def _execute(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        return await self._wire.send(calls)

    def _ended(self, stray: asyncio.Task[list[Any]]) -> None:
        self._stray.discard(stray)
        if not stray.cancelled():
            stray.exception()  # nobody else asks for it

    def _end_hurry(self, late: asyncio.Future[Any]) -> None:
        if self._num_late < MAX_LATE and not isinstance(late.result(), Exception):
            self._hurries_until = 0.0

    def _moment(self) -> float:
        """The end of one that begins now."""
        return self._clock() + REST_S * random.uniform(1, 2)  # noqa: S311  no secret
