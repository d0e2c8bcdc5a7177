"""Ended spans on their way to a collector: a queue with a bound, and one thread that empties it.

The SDK's own processor drops in silence, waits up to half a minute at the end and logs each failure; here what is lost
is counted, the end is bounded, and a collector that goes away is told once. Whatever the collector does, the event
loop only ever appends to the queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger("tidegate.tracing")

SENT, QUEUE_FULL, REFUSED, SHUTDOWN = "sent", "queue_full", "refused", "shutdown"

# To encode a span takes the interpreter some 0.08 ms; the usual 512 in one go would hold up the event loop by 40 ms.
MAX_BATCH = 64

Count = Callable[[str, int], None]


class BoundedExport(SpanProcessor):
    """max_queue: spans that wait at most. max_batch: spans of one message. delay_s: how long a span waits for others.

    count: told of every ended span once, by one of the four words above.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        count: Count,
        max_queue: int,
        max_batch: int,
        delay_s: float,
    ) -> None:
        self._exporter, self._count = exporter, count
        self._max_queue, self._max_batch, self._delay_s = max_queue, min(max_batch, max_queue), delay_s
        self._queue: deque[ReadableSpan] = deque()  # appended on the event loop, emptied by the thread
        self._wake = threading.Event()
        self._is_closing = False
        self._is_taken = True  # the collector's last answer
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        """Never waits."""
        if self._is_closing:
            self._count(SHUTDOWN, 1)
        elif len(self._queue) >= self._max_queue:
            self._count(QUEUE_FULL, 1)
        else:
            self._queue.append(span)
            if len(self._queue) >= self._max_batch and not self._wake.is_set():
                self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most timeout_s; the rest is counted. Blocks: not for the event loop."""
        deadline = time.monotonic() + timeout_s
        self._is_closing = True
        self._wake.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._exporter.shutdown()  # ends its pauses between tries
        while batch := self._next_batch():
            self._count(SHUTDOWN, len(batch))

    def shutdown(self) -> None:
        self.close(0.0)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether everything that waited was handed over in time."""
        deadline = time.monotonic() + timeout_millis / 1000
        self._wake.set()
        while self._queue and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._queue

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            while batch := self._next_batch():
                self._send(batch)

    def _next_batch(self) -> list[ReadableSpan]:
        batch: list[ReadableSpan] = []
        while len(batch) < self._max_batch:
            try:
                batch.append(self._queue.popleft())
            except IndexError:
                break
        return batch

    def _send(self, batch: list[ReadableSpan]) -> None:
        try:
            is_taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:
            log.exception("%d spans could not be sent", len(batch))
            is_taken = False
        self._count(SENT if is_taken else REFUSED, len(batch))
        if is_taken is not self._is_taken:
            self._is_taken = is_taken
            if is_taken:
                log.info("traces are taken again")
            else:
                log.warning("traces are not taken; the service goes on, and what does not fit is dropped")


def bounded_export(exporter: SpanExporter, count: Count, environ: Mapping[str, str]) -> BoundedExport:
    """With the bounds that OpenTelemetry's OTEL_BSP_* variables name. Raises: ValueError."""
    return BoundedExport(
        exporter,
        count=count,
        max_queue=_number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048),
        max_batch=_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", MAX_BATCH),
        delay_s=_number(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
    )


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip() or str(default)
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{name}={text!r} is not a number above 0")
    return int(text)
