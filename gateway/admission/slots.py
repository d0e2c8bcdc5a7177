"""Permits for a tier's slots, and the bounded line in front of them. Pure asyncio, no I/O.

Triton is treated as slots with no queue: whoever holds a `Permit` may have one request in flight there.
Waiting happens here, in priority bands (interactive, standard, batch), first come first served inside a band.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType

from gateway.errors import DeadlineExceeded, Evicted, Rejected

BANDS = ("interactive", "standard", "batch")
TELL_EVERY_S = 1.0  # how often a waiter hears its position
_NEWEST_SHARE = 0.1  # what the newest hold counts in the mean


class Permit:
    """The right to have one request in flight. Release it exactly once; a context manager does."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


class SlotQueue:
    """limit: permits at once. max_waiting: bound of the line. ttl_s: longest wait (seconds).

    clock: monotonic seconds; an argument so that tests need no sleeping.
    """

    def __init__(self, limit: int, *, max_waiting: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self.limit, self.max_waiting, self.ttl_s = limit, max_waiting, ttl_s
        self.inflight = 0
        self._clock = clock
        self._bands: dict[str, OrderedDict[asyncio.Future[None], None]] = {
            band: OrderedDict() for band in BANDS
        }
        self._mean_hold_s: float | None = None  # of recent permits: the line drains by limit / this

    @property
    def num_waiting(self) -> int:
        return sum(len(band) for band in self._bands.values())

    def num_ahead(self, band: str) -> int:
        """Waiters that a newcomer of this band would stand behind."""
        return sum(len(self._bands[each]) for each in BANDS[: BANDS.index(band) + 1])

    def check(self) -> None:
        """Refuse now what would be refused later anyway. Raises: Rejected when the line is full."""
        if self.inflight >= self.limit and self.num_waiting >= self.max_waiting:
            raise Rejected(
                "The service is at capacity and its queue is full; try again later.",
                retry_after_s=self.eta_s(self.num_waiting + 1),
            )

    async def acquire(
        self,
        *,
        band: str,
        deadline: float,
        on_wait: Callable[[int, float], object] | None = None,
    ) -> Permit:
        """A permit at once, or after waiting in line.

        deadline: monotonic seconds. on_wait(position, eta_s) is called when the wait begins and once a second.
        Raises: Rejected (line full), Evicted (waited ttl_s), DeadlineExceeded (the caller's deadline came first).
        A cancelled wait leaves the line at once.
        """
        if self.inflight < self.limit and not self.num_waiting:
            self.inflight += 1
            return self._permit()
        self.check()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bands[band][future] = None
        now = self._clock()
        until = min(now + self.ttl_s, deadline)
        try:
            while not future.done():
                if on_wait is not None:
                    position = self.position(future)
                    on_wait(position, self.eta_s(position))
                left_s = until - self._clock()
                if left_s <= 0:
                    raise self._too_late(by_deadline=deadline <= now + self.ttl_s)
                await asyncio.wait((future,), timeout=min(left_s, TELL_EVERY_S))
        except BaseException:
            self._leave(band, future)
            raise
        return self._permit()

    def _permit(self) -> Permit:
        granted = self._clock()

        def release() -> None:
            held_s = self._clock() - granted
            mean_s = held_s if self._mean_hold_s is None else self._mean_hold_s
            self._mean_hold_s = mean_s + _NEWEST_SHARE * (held_s - mean_s)
            self._released()

        return Permit(release)

    def _too_late(self, *, by_deadline: bool) -> DeadlineExceeded | Evicted:
        if by_deadline:
            return DeadlineExceeded("The request's deadline passed while it waited in the queue.")
        return Evicted(
            f"The request waited {self.ttl_s:g} s in the queue without getting a slot.",
            retry_after_s=self.eta_s(self.num_waiting),
        )

    def _leave(self, band: str, future: asyncio.Future[None]) -> None:
        """Take a waiter out. If a slot was handed over in the same instant, pass it on: it must not be lost."""
        self._bands[band].pop(future, None)
        if future.done() and not future.cancelled():
            self._released()
        future.cancel()

    def _released(self) -> None:
        self.inflight -= 1
        while self.inflight < self.limit:
            waiter = self._next()
            if waiter is None:
                return
            self.inflight += 1
            waiter.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        for band in BANDS:
            while self._bands[band]:
                future, _ = self._bands[band].popitem(last=False)
                if not future.done():  # a done one was cancelled: its client left
                    return future
        return None

    def position(self, future: asyncio.Future[None]) -> int:
        """1-based place in line; 0 when not in it."""
        place = 0
        for band in BANDS:
            for other in self._bands[band]:
                place += 1
                if other is future:
                    return place
        return 0

    def eta_s(self, position: int) -> float:
        """Expected wait (seconds) at a position, from the measured drain rate; 1 s before anything was measured."""
        if self._mean_hold_s is None:
            return 1.0
        return round(max(0.05, position * self._mean_hold_s / self.limit), 2)
