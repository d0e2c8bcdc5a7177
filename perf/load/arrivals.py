"""When requests are sent. Pure: the whole schedule is made before the first one leaves and never looks at an answer.

That is what keeps a slow server from slowing down those who measure it (coordinated omission): there is no way back
from an answer to a send.
"""

from __future__ import annotations

import random

import msgspec

from perf.load.scenario import ArrivalKind, Phase, Scenario, Source


class Planned(msgspec.Struct, frozen=True):
    """One request to come. at_s: seconds after the start. is_counted: outside the phase's warm-up."""

    number: int
    at_s: float
    phase: str
    source: str
    tenant: str
    priority: str
    num_tokens: int
    deadline_ms: int
    is_counted: bool


class Window(msgspec.Struct, frozen=True):
    """A phase in time: [start_s, end_s) with its warm-up, counted from `from_s` on; and what it offers by plan."""

    phase: str
    start_s: float
    from_s: float
    end_s: float
    rate: float

    @property
    def counted_s(self) -> float:
        return self.end_s - self.from_s


def times(kind: ArrivalKind, rate: float, duration_s: float, rng: random.Random, burst: int) -> list[float]:
    """Send times in [0, duration_s), rising, `rate` per second in the mean.

    poisson: independent arrivals. burst: `burst` at the very same moment, the moments themselves Poisson. even: one
    every 1/rate.
    """
    if rate <= 0:
        return []
    if kind == "even":
        return [number / rate for number in range(round(duration_s * rate))]
    size = burst if kind == "burst" else 1
    out: list[float] = []
    at_s = rng.expovariate(rate / size)
    while at_s < duration_s:
        out += [at_s] * size
        at_s += rng.expovariate(rate / size)
    return out


def plan(
    scenario: Scenario, phases: list[Phase], peak: float, *, seed: int
) -> tuple[list[Planned], list[Window]]:
    """Every request of the phases, one after the other in time, in the order of sending. peak: G, requests/s."""
    found: list[tuple[float, Phase, Source, str, bool]] = []
    windows, start_s = [], 0.0
    for phase in phases:
        rate = phase.rate_at(peak)
        active = scenario.active(phase)
        offered = rate * sum(source.share for source in active) / sum(s.share for s in scenario.sources)
        end_s = start_s + phase.duration_s
        windows.append(Window(phase.name, start_s, start_s + phase.warm_s, end_s, offered))
        for source in active:
            for at_s, tenant in _of_source(scenario, phase, source, rate, seed):
                found.append((start_s + at_s, phase, source, tenant, at_s >= phase.warm_s))
        start_s = end_s
    found.sort(key=lambda each: each[0])
    return [_planned(number, each) for number, each in enumerate(found)], windows


def _of_source(
    scenario: Scenario, phase: Phase, source: Source, rate: float, seed: int
) -> list[tuple[float, str]]:
    """Each tenant is a process of arrivals of its own."""
    total = sum(each.share for each in scenario.sources)
    each_rate = rate * source.share / total / source.num_tenants
    kind = source.arrivals or phase.arrivals
    out = []
    for tenant in source.tenants:
        rng = random.Random(f"{seed}/{phase.name}/{tenant}")  # a tenant sends the same whoever else is there
        out += [(at, tenant) for at in times(kind, each_rate, phase.duration_s, rng, phase.burst_size)]
    return out


def _planned(number: int, found: tuple[float, Phase, Source, str, bool]) -> Planned:
    at_s, phase, source, tenant, is_counted = found
    return Planned(
        number=number,
        at_s=at_s,
        phase=phase.name,
        source=source.name,
        tenant=tenant,
        priority=source.priority,
        num_tokens=source.num_tokens,
        deadline_ms=source.deadline_ms,
        is_counted=is_counted,
    )
