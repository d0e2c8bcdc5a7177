"""Permits for a tier's slots, and the bounded line in front of them. Pure asyncio, no I/O.

Triton is treated as slots with no queue: whoever holds a `Permit` may have one request in flight there.
Waiting happens here, in priority bands (interactive, standard, batch), first come first served inside a band.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from types import TracebackType

from gateway.errors import DeadlineExceeded, Evicted, Rejected

BANDS = ("interactive", "standard", "batch")
_DRAIN_WINDOW = 64  # releases that the drain rate is taken from


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
        self._releases: deque[float] = deque(maxlen=_DRAIN_WINDOW)

    @property
    def num_waiting(self) -> int:
        return sum(len(band) for band in self._bands.values())

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

        deadline: monotonic seconds. on_wait(position, eta_s) is called once when the wait begins.
        Raises: Rejected (line full), Evicted (waited ttl_s), DeadlineExceeded (the caller's deadline came first).
        A cancelled wait leaves the line at once.
        """
        if self.inflight < self.limit and not self.num_waiting:
            self.inflight += 1
            return Permit(self._released)
        self.check()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bands[band][future] = None
        if on_wait is not None:
            position = self.position(future)
            on_wait(position, self.eta_s(position))
        wait_s = min(self.ttl_s, max(0.0, deadline - self._clock()))
        try:
            async with asyncio.timeout(wait_s):
                await future
        except TimeoutError:
            self._leave(band, future)
            if self._clock() >= deadline:
                raise DeadlineExceeded(
                    "The request's deadline passed while it waited in the queue."
                ) from None
            raise Evicted(
                f"The request waited {self.ttl_s:g} s in the queue without getting a slot.",
                retry_after_s=self.eta_s(self.num_waiting + 1),
            ) from None
        except asyncio.CancelledError:
            self._leave(band, future)
            raise
        return Permit(self._released)

    def _leave(self, band: str, future: asyncio.Future[None]) -> None:
        """Take a waiter out. If a slot was handed over in the same instant, pass it on: it must not be lost."""
        self._bands[band].pop(future, None)
        if future.done() and not future.cancelled():
            self._released()

    def _released(self) -> None:
        self._releases.append(self._clock())
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
        if len(self._releases) < 2:
            return 1.0
        span = max(self._clock() - self._releases[0], 1e-3)
        return round(max(0.05, position * span / len(self._releases)), 2)
