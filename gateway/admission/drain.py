"""How fast a tier's slots come free, as measured: the pure maths behind every expected wait.

Two pictures of the same slots are mixed by how much their holds differ. When all last equally long, each slot comes
free when its own time is over, often many at once, and the wait is read off the slots. When they differ much, nothing
can be read off a single slot, and the line moves by the mean. Bands that go first take their part of the slots
meanwhile. `drain.lua` is the same maths inside Redis; a test holds the two to each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

NUM_BANDS = 3
_NEWEST_SHARE = 0.05  # what the newest hold counts in a mean, once there are enough of them
_MEMORY_MS = 10_000.0  # how far back the bands' parts of the slots are remembered
_FEW_ROUNDS = 0.5  # of all slots: what is known of light tenants counts beside as much without any
_MAX_TAKEN = 0.9  # of the slots by bands that go first: an expected wait stays finite


class Slot(NamedTuple):
    """One slot that is taken."""

    band: int
    since_ms: int
    tenant: str = ""


class Left(NamedTuple):
    """free_in_ms: until each taken slot should come free, soonest first. typical_ms: mean hold of those taken."""

    free_in_ms: list[float]
    typical_ms: float


class Forecast(NamedTuple):
    """A wait, by those who are in line. least_ms: what they take, -1 = nothing was measured yet; ahead_ms: the same
    without the rest of the holds that run now, and no matter when which of them ends.

    slower: how many times as long it takes while bands that go first take their part of the slots. lighter: how many
    times as long as that for whoever stands behind its own tenant's others, while tenants that have nobody in line take
    as large a part of the slots as since there is one.
    """

    least_ms: float
    ahead_ms: float
    slower: float
    lighter: float = 1.0

    @property
    def usual_ms(self) -> float:
        return self.least_ms * self.slower if self.least_ms >= 0 else self.least_ms


@dataclass
class Drain:
    """hold_ms: mean time (ms) that a slot was held, of all; -1 = nothing measured. by_band: the same of each band.

    spread: mean squared difference from the band's mean, as a share of that mean. busy_ms: slot time of each band of
    late, older time counting less; full_ms: the same of those that ended
    while others of their band waited; light_ms: of these, of tenants that had nobody in line.
    """

    hold_ms: float = -1.0
    num_holds: int = 0
    by_band: list[float] = field(default_factory=lambda: [-1.0] * NUM_BANDS)
    counts: list[int] = field(default_factory=lambda: [0] * NUM_BANDS)
    spread: float = 0.0
    busy_ms: list[float] = field(default_factory=lambda: [0.0] * NUM_BANDS)
    full_ms: list[float] = field(default_factory=lambda: [0.0] * NUM_BANDS)
    light_ms: list[float] = field(default_factory=lambda: [0.0] * NUM_BANDS)
    at_ms: int = 0

    def note(
        self, band: int, held_ms: float, now_ms: int, *, is_line: bool = False, is_light: bool = False
    ) -> None:
        """A slot came free after held_ms. is_line: somebody of its band waits. is_light: nobody of its tenant does."""
        self.num_holds += 1
        self.counts[band] += 1
        self.hold_ms = _moved(self.hold_ms, held_ms, self.num_holds)
        mean = self.by_band[band]
        if mean > 0:
            off = min(1.0, ((held_ms - mean) / mean) ** 2)
            self.spread += _NEWEST_SHARE * (off - self.spread)
        self.by_band[band] = _moved(mean, held_ms, self.counts[band])
        fade = self._fade(now_ms)
        self.busy_ms = [ms * fade for ms in self.busy_ms]
        self.busy_ms[band] += held_ms
        self.full_ms = [ms * fade for ms in self.full_ms]
        self.light_ms = [ms * fade for ms in self.light_ms]
        if is_line:
            self.full_ms[band] += held_ms
            self.light_ms[band] += held_ms if is_light else 0.0
        self.at_ms = now_ms

    def _fade(self, now_ms: int) -> float:
        return math.exp(-max(0, now_ms - self.at_ms) / _MEMORY_MS)

    def mean_ms(self, band: int) -> float:
        return self.by_band[band] if self.by_band[band] >= 0 else self.hold_ms

    def left(self, slots: Iterable[Slot], now_ms: int) -> Left:
        """When the taken slots should come free: one look for all whose wait is asked for."""
        means = [(self.mean_ms(slot.band), slot) for slot in slots]
        if not means:
            return Left([0.0], self.hold_ms)
        free_in = sorted(max(0.0, mean - (now_ms - slot.since_ms)) for mean, slot in means)
        return Left(free_in, sum(mean for mean, _ in means) / len(means))

    def forecast(self, ahead: Sequence[int], band: int, left: Left, limit: int, now_ms: int) -> Forecast:
        """The wait behind so many waiters of each band."""
        if self.hold_ms < 0:
            return Forecast(-1.0, -1.0, 1.0)
        limit = max(limit, 1)
        num_ahead = sum(ahead)
        work = sum(number * self.mean_ms(each) for each, number in enumerate(ahead))
        rounds, at = divmod(num_ahead, len(left.free_in_ms))
        by_slot = left.free_in_ms[at] + rounds * (work / num_ahead if num_ahead else left.typical_ms)
        by_mean = (work + left.typical_ms) / limit
        differ = min(1.0, math.sqrt(self.spread))
        taken = min(_MAX_TAKEN, sum(self.busy_ms[:band]) * self._fade(now_ms) / (_MEMORY_MS * limit))
        light = self.light_ms[band] / max(1.0, self.full_ms[band] + _FEW_ROUNDS * limit * self.hold_ms)
        return Forecast(
            (1 - differ) * by_slot + differ * by_mean,
            (1 - differ) * work / len(left.free_in_ms) + differ * work / limit,
            1 / (1 - taken),
            1 / (1 - min(_MAX_TAKEN, light)),
        )


def _moved(mean: float, newest: float, count: int) -> float:
    """The mean of late, which the newest value moves by its share."""
    return newest if mean < 0 else mean + max(_NEWEST_SHARE, 1 / count) * (newest - mean)


def fluid_ms(position: int, hold_ms: float, limit: int) -> float:
    """A first guess without a look at the slots; -1 when nothing was measured yet."""
    return -1.0 if hold_ms < 0 else position * hold_ms / max(limit, 1)
