"""The search for G, the highest goodput an arm reaches at any offered load. Pure: probes made so far -> next rate."""

from __future__ import annotations

from typing import NamedTuple

from perf.load.scenario import PeakSearch

SERVED = 0.97  # of what is offered: below it the arm is past what it can do
FALLING = 0.9  # of the best goodput so far: below it, higher rates are not worth a probe


class Probe(NamedTuple):
    """Requests/s."""

    offered: float
    goodput: float


def next_rate(probes: list[Probe], search: PeakSearch, capacity: float) -> float | None:
    """The rate to try next; None = the search is over.

    Upwards by `growth` until goodput stays behind what is offered; then once between the best and its neighbours,
    where the peak hides when the steps are wide.
    """
    if not probes:
        return search.first * capacity
    if len(probes) >= search.max_probes:
        return None
    ordered = sorted(probes)
    top = best(probes)
    highest = ordered[-1]
    if not top.goodput:  # nothing was good even here: look far below
        return ordered[0].offered / 2
    if highest is top or highest.goodput >= SERVED * highest.offered:
        return highest.offered * search.growth
    if highest.goodput > FALLING * top.goodput and len([p for p in probes if p.offered > top.offered]) < 2:
        return highest.offered * search.growth
    return _between(ordered, top, search.growth)


def _between(ordered: list[Probe], top: Probe, growth: float) -> float | None:
    at = ordered.index(top)
    neighbours = [ordered[at + step] for step in (1, -1) if 0 <= at + step < len(ordered)]
    for other in neighbours:
        low, high = sorted((top.offered, other.offered))
        if high / low > 1 + (growth - 1) * 0.6:
            return (low + high) / 2
    return None


def best(probes: list[Probe]) -> Probe:
    return max(probes, key=lambda probe: (probe.goodput, -probe.offered))
