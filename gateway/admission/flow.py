"""What requests took of a limit lately, and how much a worker holds so that hardly one waits before its next tick.

Arrivals are taken for independent: the next tick takes the mean, give or take its square root. Pure; time is a number.
"""

from __future__ import annotations

import math

FLOW_S = 10  # what is remembered: a request every few seconds counts as a rate
COVER_S = 1.25  # the longest time between two ticks, and a trip
SPREADS = 3.0  # standard deviations above the mean: one tick of a thousand is short
BUSY_FROM = 5  # requests in a second: from here on blocks are fetched between ticks, too


class Flow:
    """Requests, units and squared units of each of the last seconds."""

    def __init__(self) -> None:
        self._seconds: dict[int, list[int]] = {}

    def add(self, amount: int, now: float) -> None:
        second = int(now)
        entry = self._seconds.get(second)
        if entry is None:
            self._forget(second)
            self._seconds[second] = [1, amount, amount * amount]
        else:
            entry[0] += 1
            entry[1] += amount
            entry[2] += amount * amount

    def expected(self, now: float, *, least: int = 1) -> int:
        """Units to hold; 0 where fewer than `least` requests came lately."""
        self._forget(int(now))
        requests = units = squares = 0
        for entry in self._seconds.values():
            requests += entry[0]
            units += entry[1]
            squares += entry[2]
        if requests < max(least, 1):
            return 0
        part = COVER_S / FLOW_S
        usual = units * part + SPREADS * math.sqrt(squares * part) + math.sqrt(squares / requests)
        return max(math.ceil(usual), self._peak(now, 1))

    def is_busy(self, now: float) -> bool:
        return self._peak(now, 0) >= BUSY_FROM

    def _peak(self, now: float, at: int) -> int:
        """Of this second and the one before."""
        nothing = (0, 0, 0)
        return max(self._seconds.get(second, nothing)[at] for second in (int(now), int(now) - 1))

    def _forget(self, second: int) -> None:
        for old in [each for each in self._seconds if each < second - FLOW_S]:
            del self._seconds[old]
