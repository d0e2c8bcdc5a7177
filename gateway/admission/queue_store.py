"""The queue of a tier as Redis keeps it: calls of `queue.lua` that end, and the worker's mailbox.

All keys of a tier share a hash tag, so a call stays on one node of a cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from gateway.admission.line import BANDS
from gateway.admission.tickets import TICKET_LIFE_S, Place
from gateway.admission.waiting import Claim
from gateway.storage.redis_trips import answered
from gateway.storage.redis_wire import RedisWire

log = logging.getLogger("tidegate.queue")

SCRIPT = b"".join(
    (Path(__file__).parent / name).read_bytes()
    for name in ("call.lua", "held.lua", "drain.lua", "recall.lua", "pace.lua", "waiting.lua", "queue.lua")
)
_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()  # what EVALSHA calls it by
CALL_S = 1.0  # longest wait of a request for Redis, once: then all go by their own part
LATE_S = 0.025  # of our own loop's time; whoever has heard nothing then goes on without Redis, where it can
ENTER_AT_MOST = 128  # requests that ask in one go
MAIL_BLOCK_S = 1
MAIL_CALL_S = 3.0
MAIL_AT_MOST = 500
PAUSE_S = 0.25


def queue_key(tier: str, part: str) -> str:
    """A key of the tier's queue. `line` is the sorted set of who waits: scalers in a cluster go by its length."""
    return f"tidegate:queue:{{{tier}}}:{part}"


def enter_terms(
    claim: Claim, place: Place, *, band: int, wait_ms: int, left_ms: int, max_waiting: int, max_bytes: int
) -> list[Any]:
    """What `enter` hears after id and worker. left_ms: until the deadline of the whole answer."""
    cost = claim.cost if claim.back is None else 0
    finish_ms = max(1, left_ms) if claim.has_own_deadline else 0
    asked = [claim.tenant, band, cost, claim.size, wait_ms, finish_ms, place.tag]
    ticket = [place.id, int(TICKET_LIFE_S * 1000)]
    own = [int(claim.gives), claim.before_ms, int(claim.has_waited)]
    return [*asked, max_waiting, max_bytes, *ticket, *own]


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


@dataclass
class Asked:
    """One request's `enter`. otherwise: asked while the store is silent, whether the request goes on without the reply;
    then `later` hears that, or why there is none. left: called with the reply to one whose request has been cancelled.
    """

    terms: Sequence[Any]
    otherwise: Callable[[], bool]
    later: Callable[[Any], object]
    reply: asyncio.Future[Any]
    left: Callable[[], object]
    has_gone_on: bool = False

    def go_on(self) -> None:
        """The store is silent."""
        if not self.reply.done() and self.otherwise():
            self.has_gone_on = True
            self.reply.set_result(None)

    def hear(self, reply: Any) -> None:
        """reply: or the exception that came instead of one."""
        if self.has_gone_on:
            self.later(reply)
        elif self.reply.cancelled():  # its end may have overtaken it on the way to the store
            self.left()
        elif isinstance(reply, Exception):
            self.fail(reply)
        elif not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, why: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(why if isinstance(why, Away) else Away(repr(why)))


class Beat(NamedTuple):
    """is_known: whether the store knew this worker. num_held: slots that it has by the store's count. limit: of all
    workers together."""

    is_known: bool
    num_held: int
    secret: bytes
    state: State
    limit: int


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
        # A slot is asked for and given back by every request, and neither waits for the other, nor for the mail.
        self._to_enter, self._to_serve, self._to_hear = (RedisWire(redis) for _ in range(3))
        self._now_ms = now_ms
        parts = ("held", "line", "entries", "tenants", "state", "workers", "seen", "gives")
        self._keys = [queue_key(tier, part) for part in parts]
        self._mailboxes = queue_key(tier, "mail:")
        self._mailbox = self._mailboxes + worker
        self._asking: list[Asked] = []  # not sent yet
        self._sent: list[Asked] = []
        self._to_ask = asyncio.Event()
        self.is_silent = False  # whether what was sent is late

    async def call(self, operation: str, *args: Any) -> Any:
        """One at a time. Raises: Away."""
        head = self._head(operation)

        async def run() -> Any:
            (reply,) = await self._to_serve.send([("EVALSHA", *head, *args)])
            if isinstance(reply, NoScriptError):  # a Redis that was started again has forgotten it
                _, reply = await self._to_serve.send([("SCRIPT", "LOAD", SCRIPT), ("EVALSHA", *head, *args)])
            if isinstance(reply, RedisError):
                raise reply
            return reply

        return await self._within(run)

    async def look(self, names: Sequence[str]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """The place of each, its expected wait (ms), and its tag. Raises: Away."""
        head = self._head("look")

        async def run() -> Any:
            try:
                return await self._redis.evalsha(*head, *names)
            except RedisConnectionError:  # of a pooled connection that had ended unseen
                return await self._redis.evalsha(*head, *names)

        _, _, places, etas_ms, tags = await self._within(run)
        return places, etas_ms, tags

    async def beat(self, worker: str, secret: bytes, limit: int) -> Beat:
        """Say that the worker lives. secret: taken where the store has none. limit: how many slots there are, as far as
        this worker knows. Raises: Away."""
        is_known, mine, inflight, waiting, hold, kept, workers, num_bytes, shared = await self.call(
            "beat", worker, secret.hex(), limit
        )
        state = State(
            int(inflight), tuple(map(int, waiting)), float(hold), int(workers), int(num_bytes), any(waiting)
        )
        return Beat(bool(is_known), int(mine), bytes.fromhex(kept.decode()), state, int(shared))

    async def enter(
        self,
        terms: Sequence[Any],
        otherwise: Callable[[], bool],
        later: Callable[[Any], object],
        left: Callable[[], object] = lambda: None,
    ) -> Any:
        """The reply to `enter`, or None for one that goes on without (see Asked). Many that come at once share a trip.
        Raises: Away.
        """
        asked = Asked(terms, otherwise, later, asyncio.get_running_loop().create_future(), left)
        self._asking.append(asked)
        self._to_ask.set()
        if self.is_silent:
            asked.go_on()
        return await asked.reply

    def let_go(self) -> None:
        """While the store is silent: whoever can goes on without it, first come, first served."""
        if self.is_silent:
            wanting = [each for each in (*self._sent, *self._asking) if not each.reply.done()]
            for asked in wanting[:ENTER_AT_MOST]:
                asked.go_on()

    def give_up(self, why: Exception) -> None:
        """Nobody waits for a reply any more."""
        asking, self._asking = self._asking, []
        for asked in self._sent:
            asked.fail(why)  # who has gone on hears of it when the trip ends
        for asked in asking:
            asked.hear(why)

    async def send_entering(self) -> None:
        """Until cancelled. A store that has lost the script is away until the next `call`."""
        while True:
            await self._to_ask.wait()
            batch = [each for each in self._asking[:ENTER_AT_MOST] if not each.reply.cancelled()]
            del self._asking[:ENTER_AT_MOST]
            if not self._asking:
                self._to_ask.clear()
            replies: Sequence[Any] = [Away("broken off")] * len(batch)
            self._sent = batch
            try:
                replies = await self._call_many([each.terms for each in batch]) if batch else []
            except Away as away:
                replies = [away] * len(batch)
                self.give_up(away)
            finally:
                self._sent, self.is_silent = [], False
                for asked, reply in zip(batch, replies, strict=True):
                    try:
                        asked.hear(reply)
                    except Exception:  # ours, of one that has gone on: the others wait for their replies
                        log.exception("a reply of the queue could not be taken in")

    def _fall_silent(self) -> None:
        self.is_silent = True
        self.let_go()

    async def letters(self) -> AsyncIterator[str]:
        """What comes for this worker, until cancelled; nothing while there is no store."""
        while True:
            try:
                first = await self._hear("BLPOP", self._mailbox, MAIL_BLOCK_S)
                if first is not None:
                    yield first[1].decode()  # whom it is for does not wait for the trip that looks for more
                    for letter in await self._hear("LPOP", self._mailbox, MAIL_AT_MOST) or []:
                        yield letter.decode()
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(PAUSE_S)

    async def _hear(self, *call: Any) -> Any:
        async with asyncio.timeout(MAIL_CALL_S):
            (reply,) = await self._to_hear.send([call])
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def _head(self, operation: str) -> tuple[Any, ...]:
        headroom = int(self.limit * self._headroom_share)
        options = (operation, self._now_ms(), self.limit, self._mailboxes, headroom)
        return (_SHA, len(self._keys), *self._keys, *options)

    async def _call_many(self, calls: Sequence[Sequence[Any]]) -> list[Any]:
        head = self._head("enter")
        sent = [("EVALSHA", *head, *args) for args in calls]
        return list(await self._within(lambda: self._to_enter.send(sent), self._fall_silent))

    async def _within(
        self, work: Callable[[], Coroutine[Any, Any, Any]], on_late: Callable[[], object] = lambda: None
    ) -> Any:
        try:
            return await answered(work(), CALL_S, late_s=LATE_S, on_late=on_late)
        except (RedisError, OSError, TimeoutError) as error:
            raise Away(repr(error)) from error
