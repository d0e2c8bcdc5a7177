"""Reads how hard the queues and the event loop are pressed, four times a second, and moves the ladders by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from gateway.admission.waiting import Queue
from gateway.metrics import Metrics
from gateway.tiering.ladders import BANDS, Ladders, Line
from gateway.tiering.pressure import Reading

EVERY_S = 0.25


def newcomer_eta_s(queue: Queue, band: str) -> float:
    """Expected wait (seconds) of whoever came now; 0 with a slot free and nobody in line."""
    if queue.inflight < queue.limit and not queue.num_waiting:
        return 0.0
    return queue.eta_s(queue.num_ahead(band) + 1)


class PressureWatch:
    """queues: a tier's slots. shared: the line in front of retrieval, which presses on every tier.

    lag_s: how late the event loop runs (seconds).
    """

    def __init__(
        self,
        *,
        ladders: Ladders,
        queues: Mapping[str, Queue],
        metrics: Metrics,
        clock: Callable[[], float],
        shared: Queue | None = None,
        lag_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._ladders, self._queues, self._metrics = ladders, queues, metrics
        self._clock, self._shared, self._lag_s = clock, shared, lag_s

    def look(self) -> None:
        """Take one reading of every line."""
        lag_s = self._lag_s()
        readings = {
            Line(name, band): Reading(self._eta_s(queue, band), queue.inflight / max(queue.limit, 1), lag_s)
            for name, queue in self._queues.items()
            for band in BANDS
        }
        self._ladders.observe(readings, self._clock())
        for name, queue in self._queues.items():
            self._metrics.queue_eta_s.labels(name).set(readings[Line(name, "interactive")].eta_s)
            self._metrics.slot_limit.labels(name).set(queue.limit)
        for line, ladder in self._ladders.lines().items():
            self._metrics.ladder_level.labels(*line).set(ladder.level)
            self._metrics.pressure.labels(*line).set(round(ladder.pressure, 4))

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def _eta_s(self, queue: Queue, band: str) -> float:
        shared_s = newcomer_eta_s(self._shared, "interactive") if self._shared is not None else 0.0
        return max(newcomer_eta_s(queue, band), shared_s)
