"""What the alert receiver remembers and orders: alerts acted on, steps pinned for them, whoever restarts parts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.tiering.ladder import Step

MAX_ACTIONS = 6
WINDOW_S = 3600
SEEN_S = 7 * 24 * 3600  # an alert that fires for longer is acted on again
REDIS_LIMIT_S = 0.5
_SEEN, _COUNT, _PINS = "tidegate:alert:seen:", "tidegate:alert:actions", "tidegate:alert:pins:"

Text = Annotated[str, Meta(max_length=2000)]
Labels = Annotated[dict[str, Text], Meta(max_length=100)]


class Alert(msgspec.Struct, frozen=True, rename="camel"):
    """One alert of a notification. starts_at and fingerprint name this firing of it."""

    status: Literal["firing", "resolved"]
    labels: Labels
    starts_at: Annotated[str, Meta(max_length=64)]
    fingerprint: Annotated[str, Meta(min_length=1, max_length=64)]


class Refused(Exception):
    """The action must not, or cannot, be done here. The text is one sentence."""


class PartOrders(Protocol):
    """Whoever can start and stop the service's parts. part: gateway, triton or ingest; instance: host:port."""

    async def restart(self, part: str, instance: str) -> str:
        """Let open work finish, then start anew. Returns the process's name. Raises: Refused, UpstreamUnavailable."""
        ...

    async def drain(self, part: str, instance: str) -> str:
        """Let open work finish and stay away. Returns, raises: as restart."""
        ...

    async def resume(self, part: str, instance: str) -> str:
        """Take it back after a drain. Returns the name, empty where there is nothing to do. Raises: as restart."""
        ...


class AlertMemory:
    """What was acted on, shared through Redis; while that is away, what this worker itself remembers."""

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis, self._clock = redis, clock
        self._seen: dict[str, float] = {}
        self._actions: deque[float] = deque()

    async def is_new(self, alert: Alert) -> bool:
        """Whether this firing, or resolution, was not seen before; from now on it was."""
        key, now = _name(alert), self._clock()
        self._seen = {each: until for each, until in self._seen.items() if until > now}
        if key in self._seen:
            return False
        self._seen[key] = now + SEEN_S
        try:
            async with asyncio.timeout(REDIS_LIMIT_S):
                return bool(await self._redis.set(_SEEN + key, b"1", nx=True, ex=SEEN_S))
        except (RedisError, OSError, TimeoutError):
            return True

    async def forget(self, alert: Alert) -> None:
        """It could not be done: the next time it is new again."""
        self._seen.pop(_name(alert), None)
        try:
            async with asyncio.timeout(REDIS_LIMIT_S):
                await self._redis.delete(_SEEN + _name(alert))
        except (RedisError, OSError, TimeoutError):
            return

    async def may_act(self) -> bool:
        """Count one action; False beyond MAX_ACTIONS within WINDOW_S."""
        now = self._clock()
        while self._actions and self._actions[0] <= now - WINDOW_S:
            self._actions.popleft()
        if len(self._actions) >= MAX_ACTIONS:
            return False
        try:
            async with asyncio.timeout(REDIS_LIMIT_S):
                await self._redis.set(_COUNT, 0, nx=True, ex=WINDOW_S)
                if int(await self._redis.incr(_COUNT)) > MAX_ACTIONS:
                    return False
        except (RedisError, OSError, TimeoutError):
            pass  # the worker's own count holds
        self._actions.append(now)
        return True

    async def pin(self, step: Step, fingerprint: str) -> None:
        """Remember who wants the step. Raises: RedisError, OSError, TimeoutError."""
        async with asyncio.timeout(REDIS_LIMIT_S):
            await self._redis.sadd(_PINS + step, fingerprint)
            await self._redis.expire(_PINS + step, SEEN_S)

    async def unpin(self, step: Step, fingerprint: str) -> bool:
        """True when this alert was the last that wanted the step. Raises: as pin."""
        async with asyncio.timeout(REDIS_LIMIT_S):
            was_there = await self._redis.srem(_PINS + step, fingerprint)
            return bool(was_there) and not await self._redis.exists(_PINS + step)

    async def is_pinned(self, step: Step) -> bool:
        """Whether an alert, not an operator, has pinned the step. Raises: as pin."""
        async with asyncio.timeout(REDIS_LIMIT_S):
            return bool(await self._redis.exists(_PINS + step))


def _name(alert: Alert) -> str:
    return f"{alert.fingerprint}:{alert.starts_at}:{alert.status}"
