"""The queue of a tier as Redis keeps it: calls of `queue.lua` that end, and the worker's mailbox.

All keys of a tier share a hash tag, so a call stays on one node of a cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from gateway.admission.line import BANDS
from gateway.storage.redis_trips import answered

SCRIPT = b"".join(
    (Path(__file__).parent / name).read_bytes() for name in ("drain.lua", "recall.lua", "queue.lua")
)
_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()  # what EVALSHA calls it by
CALL_S = 1.0  # longest wait of a request for Redis, once: then all go by their own part
ENTER_AT_MOST = 128  # requests that ask in one go
MAIL_BLOCK_S = 1
MAIL_CALL_S = 3.0
MAIL_AT_MOST = 500
PAUSE_S = 0.25


def queue_key(tier: str, part: str) -> str:
    """A key of the tier's queue. `line` is the sorted set of who waits: scalers in a cluster go by its length."""
    return f"tidegate:queue:{{{tier}}}:{part}"


class Away(Exception):
    """Redis does not answer."""


@dataclass
class State:
    """What the newest reply said of all workers together. waiting: by band."""

    inflight: int = 0
    waiting: tuple[int, ...] = (0,) * len(BANDS)
    hold_ms: float = -1.0
    workers: int = 1
    num_bytes: int = 0
    is_line: bool = False


class Beat(NamedTuple):
    """is_known: whether the store knew this worker. num_held: slots that it has by the store's count."""

    is_known: bool
    num_held: int
    secret: bytes
    state: State


class QueueStore:
    """headroom_share: of the slots, kept free for light tenants. now_ms: another clock than the server's, for tests."""

    def __init__(
        self,
        tier: str,
        redis: Redis,
        worker: str,
        *,
        limit: int,
        headroom_share: float = 0.0,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.limit = limit  # slots, by this worker's knowledge
        self._headroom_share = headroom_share
        self._redis: Any = redis
        self._now_ms = now_ms
        parts = ("held", "line", "entries", "tenants", "state", "workers", "seen", "gives")
        self._keys = [queue_key(tier, part) for part in parts]
        self._mailboxes = queue_key(tier, "mail:")
        self._mailbox = self._mailboxes + worker
        self._asking: list[tuple[Sequence[Any], asyncio.Future[Any]]] = []
        self._to_ask = asyncio.Event()

    async def call(self, operation: str, *args: Any) -> Any:
        """Raises: Away."""
        return await self._within(lambda: self._run(self._head(operation), args))

    async def beat(self, worker: str, secret: bytes) -> Beat:
        """Say that the worker lives. secret: taken where the store has none. Raises: Away."""
        is_known, mine, inflight, waiting, hold, kept, workers, num_bytes = await self.call(
            "beat", worker, secret.hex()
        )
        state = State(
            int(inflight), tuple(map(int, waiting)), float(hold), int(workers), int(num_bytes), any(waiting)
        )
        return Beat(bool(is_known), int(mine), bytes.fromhex(kept.decode()), state)

    async def enter(self, terms: Sequence[Any]) -> Any:
        """The reply to `enter`; many that come at once share a trip. Raises: Away."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asking.append((terms, future))
        self._to_ask.set()
        return await future

    async def send_entering(self) -> None:
        """Until cancelled. A store that has lost the script is away until the next `call`."""
        while True:
            await self._to_ask.wait()
            batch = [each for each in self._asking[:ENTER_AT_MOST] if not each[1].done()]
            del self._asking[:ENTER_AT_MOST]
            if not self._asking:
                self._to_ask.clear()
            replies: Sequence[Any]
            try:
                replies = await self._call_many([terms for terms, _ in batch]) if batch else []
            except Away as away:
                replies = [away] * len(batch)
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(Away(repr(reply)))
                else:
                    future.set_result(reply)

    async def mail(self) -> list[str]:
        """What has come for this worker, after a wait; nothing when there was nothing, or no store."""
        try:
            async with asyncio.timeout(MAIL_CALL_S):
                first = await self._redis.blpop([self._mailbox], timeout=MAIL_BLOCK_S)
                if first is None:
                    return []
                letters = [first[1], *(await self._redis.lpop(self._mailbox, MAIL_AT_MOST) or [])]
        except (RedisError, OSError, TimeoutError):
            await asyncio.sleep(PAUSE_S)
            return []
        return [letter.decode() for letter in letters]

    def _head(self, operation: str) -> tuple[Any, ...]:
        headroom = int(self.limit * self._headroom_share)
        options = (operation, self._now_ms(), self.limit, self._mailboxes, headroom)
        return (_SHA, len(self._keys), *self._keys, *options)

    async def _run(self, head: tuple[Any, ...], args: Sequence[Any]) -> Any:
        try:
            return await self._redis.evalsha(*head, *args)
        except NoScriptError:  # a Redis that was started again has forgotten it
            await self._redis.script_load(SCRIPT)
            return await self._redis.evalsha(*head, *args)

    async def _call_many(self, calls: Sequence[Sequence[Any]]) -> list[Any]:
        head = self._head("enter")

        async def run() -> list[Any]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for args in calls:
                    pipe.evalsha(*head, *args)
                return list(await pipe.execute(raise_on_error=False))

        return list(await self._within(run))

    async def _within(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def call() -> Any:
            try:
                return await work()
            except RedisConnectionError:  # of a pooled connection that had ended unseen
                return await work()

        try:
            return await answered(call(), CALL_S)
        except (RedisError, OSError, TimeoutError) as error:
            raise Away(repr(error)) from error
