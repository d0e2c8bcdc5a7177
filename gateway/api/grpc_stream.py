"""One server-streaming call: events in order, text that comes fast in shared messages, a bound on slow readers.

grpc.aio allows one write at a time and lets it wait for the reader, so a stalled reader shows as a write that does
not end. What waits here is at most WINDOW_CHARS of text and the few events before it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from gateway.api.grpc_messages import citation_message, delta_event, queue_event, stage_event
from gateway.errors import ClientGone
from gateway.metrics import Metrics
from gateway.pipeline.handover import Trail
from gateway.types import Citation, Passage

WINDOW_S = 0.004  # text that follows faster than this shares a message; the first piece never waits
WINDOW_CHARS = 16_384  # as much shares one message
MAX_NOTICES = 64  # events that wait for a slow reader; places in the line beyond them are left out

Context = Any  # grpc.aio.ServicerContext: grpcio ships no types


class EventWriter:
    """A sink of the pipeline over one call. Use as `async with`; leaving it stops the timer.

    max_stall_s: the longest time that one write waits for its reader (seconds); then the reader is cut off. head: more
    of the initial metadata.
    """

    def __init__(
        self,
        context: Context,
        request_id: str,
        *,
        events: bool,
        max_stall_s: float,
        metrics: Metrics,
        head: Callable[[], Mapping[str, str]] = dict,
        trail: Trail | None = None,
    ) -> None:
        self._head = head
        self._metrics = metrics
        self._context = context
        self._request_id = request_id
        self._events = events
        self._max_stall_s = max_stall_s
        self._ready: list[bytes] = []  # whole events, oldest first
        self._texts: list[str] = []  # of the delta that is growing behind them
        self._citations: list[Any] = []
        self._num_chars = 0  # of that delta
        self._trail = trail or Trail()
        self._length = self._trail.num_chars  # of the whole answer, in characters
        self.num_deltas = 0
        self._started = self._is_gone = False
        self._last_write = 0.0
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> EventWriter:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def chosen(self, tier: str) -> None:
        """The receipt tells it."""
        self._trail.chosen(tier)

    async def stage(self, name: str) -> None:
        if self._events:
            self._notice(stage_event(name))

    def waiting(self, position: int, eta_s: float) -> None:
        if self._events:
            self._notice(queue_event(position, eta_s))

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        """Text, sent at once or within WINDOW_S. Waits while the reader is slow. Raises: ClientGone."""
        self.num_deltas += 1
        self._trail.sent(self.num_deltas, text, len(citations))
        self._length += len(text)
        self._num_chars += len(text)
        self._texts.append(text)
        self._citations += [citation_message(each, passages, self._length) for each in citations]
        if self._num_chars >= WINDOW_CHARS or self._loop.time() - self._last_write >= WINDOW_S:
            await self._flush()
        else:
            self._flush_in(WINDOW_S)

    async def finish(self, event: bytes) -> None:
        """The last event, behind all that waits. Raises: ClientGone."""
        self._seal()
        self._ready.append(event)
        await self._flush()

    async def settle(self) -> None:
        """Send what waits before an error ends the call. Raises: ClientGone."""
        await self._flush()

    def _notice(self, event: bytes) -> None:
        """An event whose sender cannot wait: left out while the reader is far behind."""
        if len(self._ready) >= MAX_NOTICES:
            return
        self._seal()
        self._ready.append(event)
        self._flush_in(0)

    def _flush_in(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._flush_alone())

    async def _flush_alone(self) -> None:
        with contextlib.suppress(ClientGone):  # the request's own task learns it from its next event
            await self._flush()

    def _seal(self) -> None:
        if self._texts:
            self._ready.append(delta_event("".join(self._texts), self._citations))
            self._texts, self._citations, self._num_chars = [], [], 0

    async def _flush(self) -> None:
        if self._is_gone:
            raise ClientGone("the reader left")
        async with self._lock:
            self._seal()
            while self._ready:
                events, self._ready = self._ready, []
                for event in events:
                    await self._write(event)
                self._last_write = self._loop.time()

    async def _write(self, event: bytes) -> None:
        try:
            async with asyncio.timeout(self._max_stall_s):
                if not self._started:
                    self._started = True
                    head = (("x-request-id", self._request_id), *self._head().items())
                    await self._context.send_initial_metadata(head)
                await self._context.write(event)
        except TimeoutError:
            self._is_gone = True
            self._metrics.slow_readers.labels("grpc").inc()
            raise ClientGone("the reader took too little for too long") from None
        except asyncio.CancelledError:
            self._is_gone = True  # nobody knows whether it was written, so nothing may follow it
            raise
        except grpc.aio.InternalError as error:  # the call is over; the cancel of its task is on the way
            self._is_gone = True
            raise ClientGone("the reader left") from error
