"""One answer for all workers that are asked for it at once: one of them makes it, the others read along.

When the one that makes it is gone, or has failed, the next one that asks makes it; what its readers have already is not
sent twice. A worker that does not reach Redis makes its own. Knows nothing of what is remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gateway.caching.claims import Answered, Claims, Followed, Led, Standing
from gateway.caching.entry import Entry
from gateway.caching.key import Key
from gateway.pipeline.deadline import over
from gateway.pipeline.relay import Lost, Relay
from gateway.pipeline.request import ChatRequest
from gateway.pipeline.shared_work import SharedWork, take_over

MAX_LEADERS = 5  # that are waited for in vain before a worker goes its own way

# Makes the answer here, or gives the one that was found meanwhile; returns what is still being written of it.
Make = Callable[[Entry | None], Awaitable["asyncio.Task[None] | None"]]


class JointWork:
    """count: told what became of each piece of work: led, followed, taken_over, alone. clock: monotonic seconds."""

    def __init__(
        self,
        claims: Claims,
        relay: Relay,
        *,
        count: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claims, self.relay, self._count, self._clock = claims, relay, count, clock
        self._landing: set[asyncio.Task[None]] = set()

    async def done(
        self,
        key: Key,
        request: ChatRequest,
        shared: SharedWork,
        make: Make,
        *,
        may_be_answered: bool,
        limit_s: float,
    ) -> None:
        """Fill `shared` with the answer, wherever it is made. limit_s: how long Redis is waited for.

        Raises: what making it raises, DeadlineExceeded.
        """
        lost = ""
        for _ in range(MAX_LEADERS):
            standing = await self._stand(
                key, request, lost=lost, may_be_answered=may_be_answered, limit_s=limit_s
            )
            if not isinstance(standing, Followed):
                break
            try:
                await self._follow(standing.flight, request, shared)
            except Lost:
                lost = standing.flight
                shared.begin_again()
            else:
                return
        else:
            standing = Led("")
        await self._lead(standing, key, request, shared, make, is_heir=bool(lost))

    async def close(self) -> None:
        """Give back what is claimed, and leave all followers; they go on without."""
        if self._landing:
            await asyncio.wait(self._landing)
        await self.relay.close()

    async def _stand(
        self, key: Key, request: ChatRequest, *, lost: str, may_be_answered: bool, limit_s: float
    ) -> Standing:
        if not self.relay.is_listening:
            return Led("")
        mine = self.relay.named()
        standing: Standing = Led("")
        try:
            standing = await self._claims.take(
                key, request.priority, mine, lost=lost, may_be_answered=may_be_answered, limit_s=limit_s
            )
        finally:
            if standing != Led(mine):
                self.relay.dismiss(mine)
        return standing

    async def _follow(self, flight: str, request: ChatRequest, shared: SharedWork) -> None:
        """Raises: Lost, DeadlineExceeded."""
        shared.is_anothers = True
        try:
            async with asyncio.timeout(max(0.0, request.deadline - self._clock())):
                made = await self.relay.follow(flight, shared)
        except TimeoutError:
            raise over(request) from None
        take_over(shared.made, made)
        shared.made.usage, shared.made.trace_id = made.usage, made.trace_id
        shared.check_whole()
        self._count("followed")

    async def _lead(
        self,
        standing: Led | Answered,
        key: Key,
        request: ChatRequest,
        shared: SharedWork,
        make: Make,
        *,
        is_heir: bool,
    ) -> None:
        flight = standing.flight if isinstance(standing, Led) else ""
        shared.is_anothers, written = False, None
        self._count("taken_over" if is_heir else "led" if flight else "alone")
        self.relay.lead(flight, shared)
        try:
            written = await make(standing.entry if isinstance(standing, Answered) else None)
            shared.check_whole()
        finally:
            self._land(key, request.priority, flight, written)

    def _land(self, key: Key, band: str, flight: str, written: asyncio.Task[None] | None) -> None:
        """Give the claim back, but not before whoever comes next would find the answer."""
        if not flight:
            return
        self.relay.landed(flight)
        if written is None:
            self._claims.release(key, band, flight)
            return

        async def release() -> None:
            await asyncio.wait({written})
            self._claims.release(key, band, flight)

        task = asyncio.get_running_loop().create_task(release())
        self._landing.add(task)
        task.add_done_callback(self._landing.discard)
