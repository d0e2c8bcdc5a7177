"""The one queue of a tier, in Redis: slots and line are the same for all workers of all gateways.

A request costs one call for its slot or its place (`queue.lua`). What ends a wait comes through the worker's mailbox,
and slots go back in batches behind the requests. A beat says twice a second that the worker lives and heals what was
lost between the two; a worker that is silent for 2 s gives back what it held.

While Redis does not answer, the worker goes by a part of its own (`slots.SlotQueue`): its share of the slots, its own
line. Before that is certain, its free slots go to those who ask (`holdings.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.admission.drain import fluid_ms
from gateway.admission.holdings import Holdings, Row
from gateway.admission.line import BANDS
from gateway.admission.mailbox import Mailbox
from gateway.admission.places import Places
from gateway.admission.queue_store import Away, QueueStore, State, enter_terms
from gateway.admission.refusals import RecentRefusals, displaced, refused, waited_too_long
from gateway.admission.slots import SlotQueue, milliseconds, seconds
from gateway.admission.tickets import NO_PLACE, Place, Tickets
from gateway.admission.waiting import NO_CLAIM, Claim, Moved, OnWait, Permit, Waiter, stand

log = logging.getLogger("tidegate.queue")

BEAT_EVERY_S = 0.5
RETURN_AT_MOST = 1000  # slots and places in one call
ODD_BEATS = 3  # in a row, before what this worker holds is told anew
_encode = msgspec.json.Encoder().encode


class _Lost(Exception):
    """The place in line is gone, through no fault of the request."""


class RedisQueue:
    """limit: slots of all replicas together; headroom_share: the part that a heavy tenant leaves free.

    share: how many workers divide them while Redis is away, at the least. now_ms: another clock than the server's.
    unix_s: by which tickets end, for all workers.
    """

    def __init__(
        self,
        name: str,
        redis: Redis,
        *,
        limit: int,
        max_waiting: int,
        max_bytes: int,
        ttl_s: float,
        share: int = 1,
        headroom_share: float = 0.0,
        worker: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: 0,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.ttl_s = name, ttl_s
        self.worker = worker or secrets.token_hex(6)
        self._store = QueueStore(
            name, redis, self.worker, limit=limit, headroom_share=headroom_share, now_ms=now_ms
        )
        self._limit, self._max_waiting, self._max_bytes, self._clock = limit, max_waiting, max_bytes, clock
        self._tickets = Tickets(name, clock=unix_s)
        self._own = SlotQueue(
            max(1, limit // share),
            ttl_s=ttl_s,
            clock=clock,
            name=name,
            tickets=self._tickets,
            headroom_share=headroom_share,
            max_waiting=max_waiting,
            max_bytes=max_bytes,
        )
        self._share = share
        self._state = State()
        self._places = Places(self._store, lambda: self._is_here)
        self._waiters, self._entering = self._places.waiters, self._places.entering
        self._work = asyncio.Event()
        self._held = Holdings(self._own, on_row=self._work.set, on_free=self._see_free, clock=clock)
        self._mailbox = Mailbox(self._store, self._waiters, self._held)
        self._refused = RecentRefusals(clock)
        self._numbers = itertools.count()
        self._is_here = False
        self._num_odd = 0  # beats in a row by which the store and this worker did not agree
        self._must_tell = False  # that it holds slots which the store has not given it

    @property
    def is_shared(self) -> bool:
        """Whether the queue of all workers is in force; else this worker goes by its own part."""
        return self._is_here

    @property
    def limit(self) -> int:
        return self._store.limit if self._is_here else self._own.limit

    def resize(self, limit: int) -> None:
        """As many slots from now on: replicas came or went, or the engine bears no more.

        Each worker finds that out for itself; more of them are given from the next beat on, which tells the mean.
        """
        self._limit = limit
        self._store.limit = min(limit, self._store.limit) if self._state.workers > 1 else limit
        self._own.resize(self._part(self._state.workers))

    def _part(self, workers: int) -> int:
        return max(1, self._store.limit // max(self._share, workers))

    @property
    def inflight(self) -> int:
        return max(self._state.inflight, len(self._held.names)) if self._is_here else self._own.inflight

    @property
    def num_waiting(self) -> int:
        return sum(self._state.waiting) if self._is_here else self._own.num_waiting

    @property
    def is_crowded(self) -> bool:
        """Whether whoever comes now would have to wait, as far as this worker knows."""
        if not self._is_here:
            return self._own.is_crowded
        return self._state.is_line or self._state.inflight >= self._store.limit

    def num_ahead(self, band: str) -> int:
        """Waiters that a newcomer of this band may stand behind."""
        if not self._is_here:
            return self._own.num_ahead(band)
        return sum(self._state.waiting[: BANDS.index(band) + 1])

    def eta_s(self, position: int) -> float:
        """Expected wait (seconds) at a position, from the measured drain rate; 1 s before anything was measured."""
        if not self._is_here:
            return self._own.eta_s(position)
        return seconds(fluid_ms(position, self._state.hold_ms, self._store.limit))

    def check(self, band: str = "interactive", claim: Claim = NO_CLAIM) -> None:
        """Refuse what was refused to the same tenant a moment ago, without asking. Raises: Rejected."""
        if not self._is_here:
            self._own.check(band, claim)
        elif self.is_crowded and self._place(band, claim) == NO_PLACE:
            self._refused.check(claim.tenant, band, claim.size)

    def _place(self, band: str, claim: Claim) -> Place:
        return self._tickets.read(claim.ticket, BANDS.index(band), claim.tenant)

    async def acquire(
        self, *, band: str, deadline: float, on_wait: OnWait | None = None, claim: Claim = NO_CLAIM
    ) -> Permit:
        """As SlotQueue.acquire, over all workers; by this worker's own part while Redis is away."""
        if claim.back is None:
            self.check(band, claim)
        until = min(self._clock() + self.ttl_s, deadline) if claim.back is None else deadline
        while True:
            try:
                if self._is_here:
                    return await self._acquire(band, until, deadline, on_wait, claim)
                return await self._acquire_own(band, deadline, on_wait, claim)
            except Away as away:
                self._lose(away)
                for _ in range(2):  # those who wait already wake, and stand here first
                    await asyncio.sleep(0)
            except (_Lost, Moved):
                claim = claim._replace(has_waited=True)

    async def _acquire_own(self, band: str, deadline: float, on_wait: OnWait | None, claim: Claim) -> Permit:
        back = claim.back
        if back is not None and not back.is_over:
            if back.inner is None:
                self._held.drop(back)  # the store hears of it when it is back
            else:
                self._held.give_back(Row(back.name, -1.0, claim.tenant, BANDS.index(band), 0))
                back.end()
                claim = claim._replace(back=back.inner)
        permit = await self._own.acquire(band=band, deadline=deadline, on_wait=on_wait, claim=claim)
        name = self._next_name()
        self._held.names.add(name)  # the store hears of it when it is back

        def release(difference: int) -> None:
            permit.difference = difference
            permit.release()
            self._held.give_back(Row(name, -1.0, claim.tenant, BANDS.index(band), difference))

        before_ms = max(0, claim.before_ms)
        return Permit(release, name=name, inner=permit, before_ms=before_ms, clock=self._clock)

    def _name_of(self, back: Permit | None) -> str:
        """A claim's name in the store: that of the slot that it gives back there, or a new one."""
        if back is not None and not back.is_over:
            if back.inner is None:
                return self._held.drop(back)
            back.release()
        return self._next_name()

    async def _acquire(
        self, band: str, until: float, deadline: float, on_wait: OnWait | None, claim: Claim
    ) -> Permit:
        name, number = self._name_of(claim.back), BANDS.index(band)
        place, ticket = self._place(band, claim), partial(self._tickets.issue, number, claim.tenant)
        waiter = Waiter(asyncio.get_running_loop().create_future())
        left = Row(name, -1.0, claim.tenant, number, 0)
        self._waiters[name] = waiter  # before the call: what ends the wait may overtake the reply
        self._entering.add(name)
        try:
            try:
                reply = await self._store.enter(
                    [name, self.worker, *self._terms(number, until, deadline, claim, place)],
                    partial(self._take_own, name, number, claim),
                    partial(self._hear_later, name, band, claim),
                    partial(self._held.leave, left),
                )
            finally:
                if not self._held.is_early(name):
                    self._entering.discard(name)
            if reply is None:
                return self._held.permit(name, claim, number)
            status, eta_s = reply[0].decode(), seconds(float(reply[2]))
            waiter.position, waiter.eta_s, waiter.tag = int(reply[1]), eta_s, int(reply[3])
            self._state.inflight, self._state.is_line = int(reply[4]), bool(reply[5])
            if status not in {"granted", "waiting"}:
                if status != "infeasible" and place == NO_PLACE:
                    self._refused.note(claim.tenant, band, status, eta_s, claim.size)
                raise refused(status, eta_s, ticket(place.kept(waiter.tag)))
            self._tell_place(band, claim, reply)
            if status == "granted":
                return self._permit(name, claim, number, waiter)
            said = await stand(
                waiter.future,
                until=until,
                clock=self._clock,
                where=lambda: (waiter.position, waiter.eta_s),
                on_wait=on_wait,
            )
        except BaseException as error:
            self._held.leave(left)
            if isinstance(error, TimeoutError):
                raise waited_too_long(
                    by_deadline=deadline <= until,
                    ttl_s=self.ttl_s,
                    eta_s=waiter.eta_s,
                    ticket=ticket(place.left(waiter.tag)),
                ) from None
            raise
        finally:
            del self._waiters[name]
        if said == "granted":
            return self._permit(name, claim, number, waiter)
        if said == "displaced":
            raise displaced(self.eta_s(self.num_waiting + 1), ticket(place.left(waiter.tag)))
        raise _Lost  # gone, or the queue was: it may be back by now

    def _permit(self, name: str, claim: Claim, band: int, waiter: Waiter) -> Permit:
        self._own.follow(band, waiter.tag)
        return self._held.permit(name, claim, band)

    def _terms(self, band: int, until: float, deadline: float, claim: Claim, place: Place) -> list[Any]:
        now, bounds = self._clock(), {"max_waiting": self._max_waiting, "max_bytes": self._max_bytes}
        wait_ms, left_ms = milliseconds(until - now), milliseconds(deadline - now)
        return enter_terms(claim, place, band=band, wait_ms=wait_ms, left_ms=left_ms, **bounds)

    def _take_own(self, name: str, band: int, claim: Claim) -> bool:
        """The store is silent: whether this one goes on with a slot of the worker's own share."""
        if claim.back is not None or self.is_crowded or not self._held.take_early(name, band, claim.tenant):
            return False
        self._state.inflight += 1
        return True

    def _see_free(self) -> None:
        """A slot came free here. While the store is silent, that is for those who ask here."""
        if self._store.is_silent:
            self._state.inflight = max(0, self._state.inflight - 1)
            self._store.let_go()

    def _hear_later(self, name: str, band: str, claim: Claim, reply: Any) -> None:
        """What the store says of one that has gone on."""
        self._entering.discard(name)
        self._held.end_early(name)
        if not isinstance(reply, Exception):
            self._must_tell |= reply[0] != b"granted"
            self._tell_place(band, claim, reply)
        elif self._is_here:
            self._lose(Away(repr(reply)))

    def _tell_place(self, band: str, claim: Claim, reply: Any) -> None:
        if claim.on_place is not None:
            place = Place(int(reply[3]), "")
            claim.on_place(partial(self._tickets.issue, BANDS.index(band), claim.tenant, place))

    def _next_name(self) -> str:
        """Sorts by age, over all workers as far as their clocks agree."""
        return f"{time.time_ns() // 1000:016d}/{self.worker}/{next(self._numbers)}"

    async def run(self) -> None:
        """Talk to the store until cancelled: slots that go back, beats, places, mail."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    behind = (self._places.watch, self._mailbox.read)
                    for work in (self._serve, self._store.send_entering, *behind):
                        tasks.create_task(work())
            except Exception as error:  # ours: whoever waits must not wait for nobody
                log.exception("queue %s: its work broke off and begins again", self.name)
                self._lose(Away(repr(error)))
                await asyncio.sleep(BEAT_EVERY_S)

    async def connect(self) -> None:
        """The first beat. Where it fails, the worker begins with its own part."""
        with contextlib.suppress(Away):
            await self._beat()

    async def close(self) -> None:
        """Give back all that is left; what was held elsewhere ends with this worker's silence."""
        with contextlib.suppress(Away):
            await self._send_returned()

    async def _serve(self) -> None:
        """The only one that gives back and restores, so the two cannot cross."""
        next_beat = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_beat - self._clock())):
                    await self._work.wait()
            self._work.clear()
            try:
                if self._is_here:
                    await self._send_returned()
                    if self._must_tell:
                        await self._restore()
                if self._clock() >= next_beat:
                    next_beat = self._clock() + BEAT_EVERY_S
                    await self._beat()
            except Away as away:
                self._lose(away)
                self._held.returned.clear()  # the store learns what is held and asked for when it is back

    async def _send_returned(self) -> None:
        while rows := self._held.take_back(RETURN_AT_MOST):
            try:
                inflight, num_waiting = await self._store.call("release", _encode(rows))
            except BaseException:
                self._held.returned[:0] = rows
                raise
            self._state.inflight, self._state.is_line = int(inflight), bool(num_waiting)

    async def _beat(self) -> None:
        beat = await self._store.beat(self.worker, self._tickets.secret, self._limit)
        self._store.limit = beat.limit
        self._tickets.secret = beat.secret
        self._state = beat.state
        self._own.resize(self._part(beat.state.workers))
        under_way = len(self._entering) + len(self._held.returned)
        self._num_odd = self._num_odd + 1 if abs(beat.num_held - len(self._held.names)) > under_way else 0
        if not beat.is_known or not self._is_here or self._num_odd >= ODD_BEATS:
            await self._restore()
        if not self._is_here:
            self._is_here = True
            log.info("queue %s: shared by all workers", self.name)
            self._own.dissolve()  # whoever waited here waits with the others

    async def _restore(self) -> None:
        """Tell the store what this worker holds and asks for."""
        self._must_tell = False
        held, asked = _encode(sorted(self._held.names)), _encode(list(self._waiters))
        await self._store.call("restore", self.worker, held, asked, self._next_name())
        self._num_odd = 0

    def _lose(self, why: Away) -> None:
        """The store does not answer: whoever waits there waits here instead."""
        if self._is_here:
            self._is_here = False
            log.warning(
                "queue %s: redis does not answer, so this worker goes by its own share: %s", self.name, why
            )
        self._store.give_up(why)
        for waiter in self._waiters.values():
            waiter.say("away")
