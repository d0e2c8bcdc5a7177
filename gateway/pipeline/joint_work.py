"""One answer for all workers that are asked for it at once: one of them makes it, the others read along.

When the one that makes it is gone, or has failed, the next one that asks makes it; what its readers have already is not
sent twice. A worker that does not reach Redis makes its own. Knows nothing of what is remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from gateway.caching.claims import Answered, Claims, Followed, Led, Standing, read
from gateway.caching.entry import Entry
from gateway.caching.key import Key
from gateway.pipeline.deadline import over
from gateway.pipeline.relay import Lost, Relay
from gateway.pipeline.request import ChatRequest
from gateway.pipeline.shared_work import SharedWork, take_over

MAX_LEADERS = 5  # that are waited for in vain before a worker goes its own way

# Makes the answer here, or gives the one that was found meanwhile; returns what is still being written of it.
Make = Callable[[Entry | None], Awaitable["asyncio.Task[None] | None"]]


@dataclass(eq=False)
class _Job:
    """flight: as which other workers know it; empty = they do not. is_heir: another worker's, that was lost. is_left:
    to another that was at it before."""

    key: Key
    request: ChatRequest
    shared: SharedWork
    make: Make
    flight: str = ""
    is_heir: bool = False
    is_left: bool = False


def _role(standing: Led | Answered, job: _Job) -> str:
    if isinstance(standing, Answered):
        return "answered"
    if job.is_heir:
        return "taken_over"
    return "led" if job.flight else "alone"


class JointWork:
    """count: told what became of each piece of work: led, followed, taken_over, answered (it was there by then) or
    alone. clock: monotonic seconds."""

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
        lost, job = "", _Job(key, request, shared, make)
        for _ in range(MAX_LEADERS):
            standing = await self._stand(job, lost=lost, may_be_answered=may_be_answered, limit_s=limit_s)
            if standing is None:
                return
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
        job.is_heir = bool(lost)
        await self._lead(standing, job)

    async def close(self) -> None:
        """Give back what is claimed, and leave all followers; they go on without."""
        if self._landing:
            await asyncio.wait(self._landing)
        await self.relay.close()

    async def _stand(self, job: _Job, *, lost: str, may_be_answered: bool, limit_s: float) -> Standing | None:
        """Who makes it. None = it is made: Redis was not in time to say so."""
        if not self.relay.is_listening:
            return Led("")
        mine, key = self.relay.named(), job.key
        asking = self._claims.ask(key, job.request.priority, mine, lost=lost, may_be_answered=may_be_answered)
        try:
            standing = await self._claims.answered(asking, key, limit_s)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda _: self._drop(read(asking.result(), key), mine, job))
            raise
        if standing is None:
            return await self._begin(job, asking, mine)
        if standing != Led(mine):
            self.relay.dismiss(mine)
        return standing

    async def _begin(self, job: _Job, asking: asyncio.Future[Any], mine: str) -> Standing | None:
        """Make it while it is not known who else does; should another, it is left to that one if nothing was sent."""
        own = asyncio.get_running_loop().create_task(self._lead(Led(""), job))
        better: Followed | Answered | None = None

        def hear(_: asyncio.Future[Any]) -> None:
            nonlocal better
            standing = read(asking.result(), job.key)
            if own.done() or standing == Led("") or (standing != Led(mine) and job.shared.has_sent):
                self._drop(standing, mine, job)
            elif isinstance(standing, Led):
                job.flight = mine
                self.relay.lead(mine, job.shared)
            else:
                self.relay.dismiss(mine)
                better, job.is_left = standing, True
                own.cancel()

        asking.add_done_callback(hear)
        try:
            await asyncio.wait({own})
        finally:
            if not own.done():
                own.cancel()
                await asyncio.wait({own})
        if better is not None and own.cancelled():
            job.shared.begin_again()
            job.is_left = False
            return better
        own.result()
        return None

    def _drop(self, standing: Standing, mine: str, job: _Job) -> None:
        """What came too late to be of use."""
        self.relay.dismiss(mine)
        if isinstance(standing, Followed):
            self.relay.leave(standing.flight)
        elif standing == Led(mine):
            self._claims.release(job.key, job.request.priority, mine)

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

    async def _lead(self, standing: Led | Answered, job: _Job) -> None:
        job.flight = standing.flight if isinstance(standing, Led) else ""
        job.shared.is_anothers, written = False, None
        self.relay.lead(job.flight, job.shared)
        try:
            written = await job.make(standing.entry if isinstance(standing, Answered) else None)
            job.shared.check_whole()
        finally:
            if not job.is_left:
                self._count(_role(standing, job))
            self._land(job.key, job.request.priority, job.flight, written)

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
