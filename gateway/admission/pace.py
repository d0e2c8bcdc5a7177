"""What overtaking makes of an expected wait, as measured: the pure maths. `pace.lua` is the same inside Redis.

`drain.py` knows what those who are in line now will take. Whoever comes later with a better right goes first, too: a
light tenant beside a flood, a better band, one whose slot was asked back. How many will come nobody knows, but how they
slow a band down of late shows in its virtual time, which follows the tags of those who are let in: a wait lasts as long
as that time needs to come from the head's tag to one's own. Overtakers keep it back, and those who leave push it on.

It is measured only while so many wait that the line cannot have run dry between two looks, and no longer than slots
take to come free: a line that is short, or an engine that stands still, says nothing of overtaking. Until there is
enough of it, light tenants are expected to take the part of the slots that they had since there is a line. What is
expected without any of this is the least that is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.admission.drain import NUM_BANDS, Drain, Forecast

MOST = 10.0  # times what those in line take: an expected wait stays finite
SURE_SHARE = 0.8  # of an expected wait, what it will hardly be shorter than
_MEMORY_MS = 15_000.0  # how far back it is remembered, at the least
_MEMORY_HOLDS = 8  # and in mean holds
_LEAST_MS = 2_500.0  # of a line that did not run dry, before it counts
_LEAST_HOLDS = 2  # and in mean holds
# What the wait without measured overtaking counts beside it: so long, or so many ends.
_USUAL_MS, _USUAL_ENDS = 1_000.0, 10
_LONGEST_MS, _LONGEST_HOLDS = 1_000.0, 2  # between two looks; beyond it the engine stood still
# Waiters at the last look for each slot (and for each end since), and the line did not run dry. Not for each end alone:
# where slots come free many at once, spans with few ends would count, those with many not, and every line look slow.
_ROUNDS = 1
_NEWEST_SHARE = 0.1  # what the newest cost counts in the mean
_UNSURE = 0.5  # of a mean cost: tags of tenants that are served by turns are no finer


class Band(NamedTuple):
    """One band's line now. time: virtual. cost: of the first in line (tokens), 0 = has none."""

    num_waiting: int
    time: int = 0
    cost: int = 0


class Expected(NamedTuple):
    """told_ms: expected wait, -1 = nothing was measured yet. sure_ms: what it will hardly be shorter than."""

    told_ms: float
    sure_ms: float


def _zeros() -> list[float]:
    return [0.0] * NUM_BANDS


@dataclass
class Paces:
    """Lists are by band. tokens, ms: how far its virtual time came of late, and in what time; older counts less.

    moved: how far tags moved under those who waited, in the mean of all (tokens); what virtual time moves with them
    brings nobody on. marks, nums: virtual time less that, and how many waited, at the last look (at_ms; after ends).
    """

    tokens: list[float] = field(default_factory=_zeros)
    ms: list[float] = field(default_factory=_zeros)
    costs: list[float] = field(default_factory=_zeros)
    moved: list[float] = field(default_factory=_zeros)
    marks: list[float] = field(default_factory=_zeros)
    nums: list[int] = field(default_factory=lambda: [0] * NUM_BANDS)
    at_ms: int = 0
    ends: int = 0

    def look(self, bands: Sequence[Band], drain: Drain, limit: int, now_ms: int) -> None:
        """Measure since the last look, if a slot has come free since. limit: slots."""
        new_ends = drain.num_holds - self.ends
        if new_ends == 0:
            return
        since_ms = max(0, now_ms - self.at_ms)
        fade = math.exp(-since_ms / max(_MEMORY_MS, _MEMORY_HOLDS * drain.hold_ms))
        counted_ms = min(since_ms, max(_LONGEST_MS, _LONGEST_HOLDS * drain.hold_ms))
        for number, band in enumerate(bands):
            self.tokens[number] *= fade
            self.ms[number] *= fade
            mark = band.time - self.moved[number]
            if band.num_waiting and self.nums[number] >= _ROUNDS * max(limit, new_ends):
                self.tokens[number] += mark - self.marks[number]
                self.ms[number] += counted_ms
            self.marks[number], self.nums[number] = mark, band.num_waiting
            if band.cost:
                mean = self.costs[number] or band.cost
                self.costs[number] = mean + _NEWEST_SHARE * (band.cost - mean)
        self.at_ms, self.ends = now_ms, drain.num_holds

    def expected(self, band: int, gap: int, forecast: Forecast, hold_ms: float, limit: int) -> Expected:
        """The wait of one whose tag is so far behind that of its band's head (tokens)."""
        if forecast.usual_ms <= 0:
            return Expected(forecast.usual_ms, forecast.usual_ms)
        told_ms = forecast.usual_ms * self._stretch(band, gap, forecast, hold_ms, limit)
        told_ms = min(told_ms, forecast.least_ms * MOST)
        return Expected(told_ms, max(forecast.least_ms, told_ms * SURE_SHARE))

    def _stretch(self, band: int, gap: int, forecast: Forecast, hold_ms: float, limit: int) -> float:
        """How many times as long as usual those in line before it will take; at least 1."""
        way = gap - _UNSURE * self.costs[band]
        usual_ms = forecast.ahead_ms * forecast.slower
        measured_ms = self.ms[band]
        if way <= 0 or usual_ms <= 0:
            return 1.0
        if measured_ms < max(_LEAST_MS, _LEAST_HOLDS * hold_ms):
            return forecast.lighter
        few_ms = max(_USUAL_MS, _USUAL_ENDS * hold_ms / max(limit, 1))
        tokens = max(0.0, self.tokens[band]) + few_ms * way / usual_ms
        return max(1.0, way * (measured_ms + few_ms) / tokens / usual_ms)
