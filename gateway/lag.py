"""How late the event loop runs: the time between the moment a timer is due and the moment that it is run.

One loop serves all streams of a worker, so its lateness is added to every token of every one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

EVERY_S = 0.1
SPAN_S = 1.0  # the worst of this span and of the one before it is told


class LoopLag:
    """`run` measures for as long as it runs; `worst_s` may be asked at any time, from the loop's own thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = float("inf")
        self._span_start = clock()
        self._worst = self._worst_before = 0.0

    async def run(self) -> None:
        while True:
            self._due = self._clock() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.note(self._clock() - self._due)

    def note(self, late_s: float) -> None:
        """Take one measurement (seconds)."""
        self._turn()
        self._worst = max(self._worst, late_s)

    def worst_s(self) -> float:
        """The worst lateness of the last one to two seconds, and no less than the present one."""
        self._turn()
        return max(self._worst, self._worst_before, self._clock() - self._due, 0.0)

    def _turn(self) -> None:
        passed = self._clock() - self._span_start
        if passed >= SPAN_S:
            self._worst_before = self._worst if passed < 2 * SPAN_S else 0.0
            self._worst = 0.0
            self._span_start = self._clock()
