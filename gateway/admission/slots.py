"""A tier's slots within one process: what a worker goes by while the one queue of all workers is out of reach.

Triton is treated as slots with no queue: whoever holds a `Permit` may have one request in flight there. Pure asyncio
around `line.FairLine`, no I/O.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial

from gateway.admission.drain import Slot, fluid_ms
from gateway.admission.line import BANDS, Ask, Entered, FairLine
from gateway.admission.refusals import displaced, refused, waited_too_long
from gateway.admission.tickets import NO_PLACE, Place, Tickets, UsedTickets
from gateway.admission.waiting import NO_CLAIM, Claim, Moved, OnWait, Permit, Waiter, stand

__all__ = ["BANDS", "Permit", "SlotQueue"]

MAX_BYTES = 64 * 2**20
LOOK_EVERY_MS = 200  # how often the slots' clocks are read for those who wait
_UNMEASURED_S = 1.0  # the expected wait before anything was measured


class SlotQueue:
    """limit: permits at once. max_waiting, max_bytes: bounds of the line. ttl_s: longest wait (seconds).
    headroom_share: of the permits, what a heavy tenant leaves free for light ones.

    clock: monotonic seconds; an argument so that tests need no sleeping. tickets: of another line for the same slots.
    """

    def __init__(
        self,
        limit: int,
        *,
        max_waiting: int,
        ttl_s: float,
        clock: Callable[[], float],
        max_bytes: int = MAX_BYTES,
        name: str = "",
        tickets: Tickets | None = None,
        headroom_share: float = 0.0,
    ) -> None:
        self.name, self.ttl_s = name, ttl_s
        self._clock = clock
        self._line = FairLine(limit, max_waiting, max_bytes, headroom_share)
        self._tickets = tickets or Tickets(name)
        self._used = UsedTickets(clock)
        self._waiters: dict[str, Waiter] = {}
        self._permits: dict[str, Permit] = {}  # those whose slots may be asked back
        self._left, self._left_ms = self._line.left(0), -LOOK_EVERY_MS
        self._names = map("{:012d}".format, itertools.count())

    @property
    def limit(self) -> int:
        return self._line.limit

    def resize(self, limit: int) -> None:
        """As many permits from now on; whoever holds one keeps it."""
        if limit != self._line.limit:
            self._line.resize(limit, self._now_ms())
            self._tell()

    @property
    def max_waiting(self) -> int:
        return self._line.max_waiting

    @max_waiting.setter
    def max_waiting(self, number: int) -> None:
        self._line.max_waiting = number

    @property
    def inflight(self) -> int:
        return len(self._line.held)

    @property
    def num_waiting(self) -> int:
        return len(self._line)

    @property
    def is_crowded(self) -> bool:
        """Whether whoever comes now would have to wait."""
        return self.inflight >= self.limit or self.num_waiting > 0

    def has_room(self, tenant: str) -> bool:
        """Whether a newcomer of this tenant would have a slot at once."""
        return not self.num_waiting and self._line.may_take(tenant)

    def num_ahead(self, band: str) -> int:
        """Waiters that a newcomer of this band may stand behind."""
        return self._line.num_ahead(BANDS.index(band))

    def eta_s(self, position: int) -> float:
        """Expected wait (seconds) at a position, from the measured drain rate; 1 s before anything was measured."""
        return seconds(fluid_ms(position, self._line.drain.hold_ms, self.limit))

    def check(self, band: str = "interactive", claim: Claim = NO_CLAIM) -> None:
        """Refuse now what would be refused later anyway. Raises: Rejected when the line is full."""
        number = BANDS.index(band)
        if self._line.is_closed(number, claim.tenant) and self._place(claim, number) == NO_PLACE:
            tag = self._line.promise((number, claim.tenant), claim.cost)
            ticket = self._tickets.issue(number, claim.tenant, Place(tag, ""))
            raise refused("full", self.eta_s(self.num_waiting + 1), ticket)

    async def acquire(
        self, *, band: str, deadline: float, on_wait: OnWait | None = None, claim: Claim = NO_CLAIM
    ) -> Permit:
        """A permit at once, or after waiting in line.

        deadline: monotonic seconds. on_wait(position, eta_s) is called when the wait begins and once a second.
        Raises: Rejected (line full, or no time for it), Evicted (waited ttl_s, displaced), DeadlineExceeded (the
        caller's deadline came first). A cancelled wait leaves the line at once.
        """
        now = self._clock()
        until = deadline if claim.back is not None else min(now + self.ttl_s, deadline)
        number = BANDS.index(band)
        place = self._place(claim, number)
        ticket = partial(self._tickets.issue, number, claim.tenant)
        ask = Ask(
            claim.tenant,
            number,
            claim.cost if claim.back is None else 0,
            claim.size,
            milliseconds(until),
            milliseconds(deadline) if claim.has_own_deadline else 0,
            place.tag,
            claim.gives,
            claim.before_ms,
            claim.has_waited,
        )
        name, entered = self._enter(ask, claim.back)
        self._tell()
        if entered.status in {"granted", "waiting"}:
            self._used.add(place.id)
            if claim.on_place is not None:
                claim.on_place(partial(ticket, Place(entered.tag, "")))
        if entered.status == "granted":
            return self._permit(name, claim, number)
        if entered.status != "waiting":
            raise refused(entered.status, seconds(entered.eta_ms), ticket(place.kept(entered.tag)))
        waiter = Waiter(asyncio.get_running_loop().create_future(), tag=entered.tag)
        self._waiters[name] = waiter
        try:
            said = await stand(
                waiter.future,
                until=until,
                clock=self._clock,
                where=lambda: self._where(name),
                on_wait=on_wait,
            )
        except BaseException as error:
            self._line.leave(name, self._now_ms())
            self._tell()
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
        if said == "moved":
            self._line.leave(name, self._now_ms())
            self._used.forget(place.id)
            raise Moved
        if said == "displaced":
            raise displaced(self.eta_s(self.num_waiting + 1), ticket(place.left(waiter.tag)))
        return self._permit(name, claim, number)

    def _enter(self, ask: Ask, back: Permit | None) -> tuple[str, Entered]:
        if back is None or back.is_over:
            name = next(self._names)
            return name, self._line.enter(name, ask, self._now_ms())
        self._permits.pop(back.name, None)
        back.end()
        return back.name, self._line.give_back(back.name, ask, self._now_ms())

    def _place(self, claim: Claim, band: int) -> Place:
        """What its ticket keeps, where that has not been used."""
        place = self._tickets.read(claim.ticket, band, claim.tenant)
        return NO_PLACE if place.id in self._used else place

    def follow(self, band: int, tag: int) -> None:
        """The line that this one stands in for has come so far."""
        self._line.follow(band, tag)

    def hold(self, name: str, band: int, tenant: str = "") -> None:
        """Count a permit that was given elsewhere."""
        self._line.hold(name, Slot(band, self._now_ms(), tenant))

    def drop(self, name: str) -> None:
        """The end of `hold`."""
        self._line.leave(name, self._now_ms())
        self._tell()

    def dissolve(self) -> None:
        """Send all who wait away, to another line. They get `Moved`."""
        self._line.dissolve()  # at once: thousands who leave it one by one move all behind them, each time
        for waiter in self._waiters.values():
            waiter.say("moved")

    def _where(self, name: str) -> tuple[int, float]:
        now_ms = self._now_ms()
        if now_ms - self._left_ms >= LOOK_EVERY_MS:  # thousands ask once a second
            self._left, self._left_ms = self._line.left(now_ms), now_ms
            self._line.measure(now_ms)
            self._line.recall(now_ms)
            self._tell()
        position, eta_ms = self._line.where(name, self._left, now_ms)
        if position:  # else it has a slot, or its place is gone
            waiter = self._waiters[name]
            waiter.eta_s, waiter.tag = seconds(eta_ms), self._line.tag(name)
        return position, seconds(eta_ms)

    def _permit(self, name: str, claim: Claim, band: int) -> Permit:
        def release(difference: int) -> None:
            self._permits.pop(name, None)
            self._line.settle(claim.tenant, band, difference)
            self._line.release(name, permit.held_ms, self._now_ms())
            self._tell()

        permit = Permit(release, name=name, before_ms=claim.before_ms, clock=self._clock)
        if claim.gives:
            self._permits[name] = permit
        return permit

    def _tell(self) -> None:
        """Wake those whose wait has ended, and ask slots back."""
        moves = self._line.moves()
        for name in (*moves.granted, *moves.displaced):
            if waiter := self._waiters.get(name):
                waiter.tag = moves.displaced.get(name, waiter.tag)
                waiter.say("displaced" if name in moves.displaced else "granted")
        for name in moves.recalled:
            if name in self._permits:
                self._permits[name].recall()

    def _now_ms(self) -> int:
        return milliseconds(self._clock())


def milliseconds(seconds_: float) -> int:
    return int(min(seconds_ * 1000, 2**52))


def seconds(eta_ms: float) -> float:
    return _UNMEASURED_S if eta_ms < 0 else round(max(0.05, eta_ms / 1000), 2)
