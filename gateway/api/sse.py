"""One server-sent event stream: ids, keep-alive comments, errors in the stream, a bound on slow readers.

The HTTP status is decided by the first write, so a request that fails early still gets a real status. Small
notices (stages) don't open the stream: they wait for the next event or for the first keep-alive tick.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import RequestCancelled, ServerError

from gateway.errors import ClientGone, TidegateError
from gateway.metrics import Metrics

FIRST_KEEPALIVE_S = 0.8  # the promise is 1 s
NOTICE_S = 0.02
WINDOW_S = (
    0.025  # with many streams, events that follow one another faster share a write; the first never waits
)
FEW_STREAMS = (
    16  # up to as many open requests, a write for each batch that the tier gives at once costs little
)
WINDOW_BYTES = 16_384  # as much shares one write
HIGH_WATER_BYTES = (
    65_536  # Sanic's write buffer: above it a write waits for the reader, and with it the producer
)
MAX_NOTICE_BYTES = 16_384  # notices that wait for a slow reader; places in the line beyond them are left out
KEEPALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
_HEADERS = {"cache-control": "no-cache, no-store", "x-accel-buffering": "no"}


class EventStream:
    """Use as `async with`; leaving it stops the keep-alive timer.

    What one reader can make us hold: HIGH_WATER_BYTES and one write on top, what waits for that write (WINDOW_BYTES,
    and MAX_NOTICE_BYTES), and the kernel's queue (gateway/listener.py). max_stall_s: the longest time that one write
    waits for its reader (seconds); then the reader is cut off. head: more of the response's head, asked for when it
    is sent. num_open: how many requests are in work in this worker.
    """

    def __init__(
        self,
        request: Request,
        stream_id: str,
        *,
        keepalive_s: float,
        max_stall_s: float,
        metrics: Metrics,
        head: Callable[[], dict[str, str]] = dict,
        num_open: Callable[[], int] = lambda: 1,
    ) -> None:
        self._num_open = num_open
        self._max_stall_s = max_stall_s
        self._metrics = metrics
        self._request = request
        self._stream_id = stream_id.encode()
        self._keepalive_s = keepalive_s
        self._head = head
        self._response: HTTPResponse | None = None
        self._lock = asyncio.Lock()  # one write at a time
        self._pending = bytearray()  # events that wait for the next write
        self._next_id = 0
        self._num_written = 0  # the newest event before which none is missing
        self._has_lost = False  # a write was cancelled or given up, and its events with it
        self._flush_timer: asyncio.Handle | None = None
        self._flush_task: asyncio.Task[None] | None = None
        self._is_gone = self._has_ended = False
        self._is_ending = False  # nothing comes behind what waits
        self._timer: asyncio.TimerHandle | None = None
        self._tick_task: asyncio.Task[None] | None = None
        self._last_write = 0.0
        self._loop = asyncio.get_running_loop()

    @property
    def started(self) -> bool:
        return self._response is not None

    @property
    def last_id(self) -> int:
        """The number of the newest event."""
        return self._next_id

    async def settle(self, within_s: float) -> int:
        """Write what waits, and drop what the reader does not take in time. Returns the number of the last event up to
        which the reader gets all."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop_flush()
        tasks = [each for each in (self._flush_task, self._tick_task) if each is not None]
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*tasks)
                if self._pending:
                    await self.write(b"")
        except (TimeoutError, ClientGone):
            self._has_lost = True
            self._pending.clear()
        return self._num_written

    async def __aenter__(self) -> EventStream:
        self._timer = self._loop.call_later(FIRST_KEEPALIVE_S, self._tick)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._tick_task is not None:
            self._tick_task.cancel()
        self._stop_flush()
        if self._flush_task is not None:
            self._flush_task.cancel()

    def event(self, data: bytes) -> bytes:
        """Frame one event. `data` is JSON, so it holds no line break that could forge another event."""
        self._next_id += 1
        return b"id: %b.%d\ndata: %b\n\n" % (self._stream_id, self._next_id, data)

    def notice(self, data: bytes) -> None:
        """An event that opens no stream: it waits for the next write, in an open one for NOTICE_S at most. Left out
        while the reader is far behind."""
        if len(self._pending) >= MAX_NOTICE_BYTES:
            return
        self._pending += self.event(data)
        if self.started and self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(NOTICE_S, self._tick)

    async def send(self, data: bytes) -> None:
        """One event. The first is written at once; others together with what the tier gives in the same breath, and
        where many streams are open within WINDOW_S.

        Waits while the reader is slow. Raises: ClientGone.
        """
        if self._is_gone:
            raise ClientGone("the reader left")
        is_crowded = self._num_open() > FEW_STREAMS
        if self._response is None or (is_crowded and self._loop.time() - self._last_write >= WINDOW_S):
            await self.write(self.event(data))
            return
        self._pending += self.event(data)
        if len(self._pending) >= WINDOW_BYTES:
            await self.write(b"")
        elif self._flush_timer is None and is_crowded:
            self._flush_timer = self._loop.call_later(WINDOW_S, self._flush)
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_soon(self._flush)  # when the tier waits for more

    def _flush(self) -> None:
        self._flush_timer = None
        if self._pending and _may_begin(self._flush_task) and not self._lock.locked():
            self._flush_task = self._loop.create_task(self._write_waiting())

    async def _write_waiting(self) -> None:
        await self._write_alone(b"")
        self._flush_task = None

    async def _comment(self) -> None:
        await self._write_alone(KEEPALIVE)
        self._tick_task = None  # thousands of streams wait: what is done is not kept

    async def _write_alone(self, frames: bytes) -> None:
        with contextlib.suppress(ClientGone):  # the request's own task learns it from its next event
            await self.write(frames)

    def _stop_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    async def write(self, frames: bytes, *, is_last: bool = False) -> None:
        """Ready frames, behind all that waits; is_last: the stream ends with them.

        Raises: ClientGone when the reader left or took too long.
        """
        self._pending += frames
        self._is_ending |= is_last
        self._stop_flush()
        await self._lock.acquire()  # whoever has it writes what comes meanwhile, each write in max_stall_s
        try:
            if self._is_gone:
                raise ClientGone("the reader left")
            while (self._pending or self._is_ending) and not self._has_ended:
                await self._write_pending()
        finally:
            self._lock.release()

    async def _write_pending(self) -> None:
        """For who has the lock: all that waits, in one write."""
        frames, newest, is_last = bytes(self._pending), self._next_id, self._is_ending
        self._pending.clear()
        try:
            if self._response is None:
                self._response = await self._request.respond(
                    content_type="text/event-stream; charset=utf-8", headers=_HEADERS | self._head()
                )
            is_first = not self._last_write
            if self._is_keeping_up():
                await self._response.send(frames, end_stream=is_last)
            else:
                async with asyncio.timeout(self._max_stall_s):
                    await self._response.send(frames, end_stream=is_last)
        except TimeoutError:
            self._is_gone = True
            self._metrics.slow_readers.labels("http").inc()
            self._abort()
            raise ClientGone("the reader took too little for too long") from None
        except (RequestCancelled, ServerError) as error:
            self._is_gone = True
            raise ClientGone("the reader left") from error
        except asyncio.CancelledError:
            self._has_lost = True
            raise
        self._has_ended = is_last
        self._last_write = self._loop.time()
        if not self._has_lost:
            self._num_written = newest
        if is_first:  # they are on their way: no use in keeping them until the answer ends
            self._response.headers.clear()
            self._head = dict
            await asyncio.sleep(
                0
            )  # uvloop writes when its turn ends: not behind the work on what else has come

    async def fail(self, error: TidegateError) -> None:
        """End a started stream with one well-formed error event."""
        await self.write(self.event(msgspec.json.encode({"error": error.body()})), is_last=True)

    def _is_keeping_up(self) -> bool:
        """Whether the reader took all there was, so that a write cannot have to wait."""
        transport: Any = self._request.transport
        return transport is not None and transport.get_write_buffer_size() == 0

    def _abort(self) -> None:
        transport: Any = self._request.transport
        if transport is not None:
            transport.abort()

    def _tick(self) -> None:
        """Write a comment (or waiting notices) when nothing was written for a while. A blocked write is no silence."""
        now = self._loop.time()
        quiet_s = now - self._last_write
        if not self.started or self._pending or quiet_s >= self._keepalive_s * 0.9:
            if _may_begin(self._tick_task) and not self._lock.locked():
                self._tick_task = self._loop.create_task(self._comment())
            quiet_s = 0.0
        self._timer = self._loop.call_later(max(0.05, self._keepalive_s - quiet_s), self._tick)


def _may_begin(task: asyncio.Task[None] | None) -> bool:
    """Whether none of its kind is under way."""
    return task is None or task.done()
