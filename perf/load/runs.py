"""The three kinds of runs: phases (with the search for G before them), the price of a refusal, and held streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import msgspec

from perf.load import arms, summary
from perf.load.arms import Arm
from perf.load.arrivals import Window, plan
from perf.load.generator import send
from perf.load.peak import Probe, best, next_rate
from perf.load.rows import LoadRow
from perf.load.scenario import Phase, Scenario, Source

SETTLE_S = 1.0
IDLE_S = 10.0  # for which it is measured what the blockers cost by themselves
OPENING = Phase(name="opening", duration_s=4.0, rate=2.0)


@dataclass
class ArmRun:
    """What one arm did. windows: of each phase, on the clock of its own rows (phases that are joined share one)."""

    arm: str
    peak: float = 0.0
    probes: list[Probe] = field(default_factory=list)
    rows: list[LoadRow] = field(default_factory=list)
    windows: dict[str, Window] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


async def phases(arm: Arm, scenario: Scenario, peak: float) -> ArmRun:
    """peak: G to scale by; 0 = look for this arm's own, when the phases ask for it."""
    run = ArmRun(arm.endpoint.arm)
    await _send(arm, scenario, [OPENING], 0.0, run, "warm")  # every path once before anything counts
    run.rows.clear()
    run.windows.clear()
    run.figures.clear()
    if scenario.needs_peak:
        run.peak = peak or await find_peak(arm, scenario, run)
    for group in _joined(scenario.phases):
        await _send(arm, scenario, group, run.peak, run, "+".join(phase.name for phase in group))
    by_phase = {
        name: summary.phase_summary(run.rows, window, scenario)
        for name, window in run.windows.items()
        if not name.startswith("probe-")
    }
    for name, figures in by_phase.items():
        figures["kept_of_peak"] = round(figures["goodput"] / run.peak, 4) if run.peak else None
        figures["processor_ms_per_request"] = run.figures.pop(f"processor/{name}", {})
    run.figures = {"phases": by_phase, "generator": summary.lateness(run.rows)}
    surge = [run.windows.get(name) for name in ("before", "surge", "after")]
    if all(surge):
        run.figures["recovery_s"] = summary.recovery_s(run.rows, *surge, scenario)  # type: ignore[arg-type]
    return run


async def find_peak(arm: Arm, scenario: Scenario, run: ArmRun) -> float:
    capacity = scenario.model.capacity(scenario.num_tokens)
    while (rate := next_rate(run.probes, scenario.peak, capacity)) is not None:
        name = f"probe-{len(run.probes):02d}"
        probe = Phase(name=name, duration_s=scenario.peak.probe_s, rate=rate, warm_s=scenario.peak.warm_s)
        await _send(arm, scenario, [probe], 0.0, run, f"{name} at {rate:.1f}/s")
        run.figures.pop(f"processor/{name}", None)
        found = summary.phase_summary(run.rows, run.windows[name], scenario)
        run.probes.append(Probe(found["offered"], found["goodput"]))
        print(
            f"  {arm.endpoint.arm} {name}: offered {found['offered']:.1f}/s, goodput {found['goodput']:.1f}/s"
        )
    return best(run.probes).goodput


def _joined(wanted: list[Phase]) -> list[list[Phase]]:
    """Phases that follow one another without a pause, together."""
    out: list[list[Phase]] = []
    for phase in wanted:
        if phase.is_joined and out:
            out[-1].append(phase)
        else:
            out.append([phase])
    return out


async def _send(
    arm: Arm, scenario: Scenario, group: list[Phase], peak: float, run: ArmRun, label: str
) -> None:
    planned, windows = plan(scenario, group, peak, seed=scenario.seed)
    before = arm.processor_seconds()
    found = await send(
        arm.endpoint,
        planned,
        patience_s=scenario.patience_s,
        processes=scenario.processes,
        label=f"{arm.endpoint.arm} {label}",
    )
    for window in windows:
        run.windows[window.phase] = window
        run.figures[f"processor/{window.phase}"] = _per_request(before, arm.processor_seconds(), len(found))
    run.rows += found
    await asyncio.sleep(SETTLE_S)


def _per_request(before: dict[str, float], after: dict[str, float], count: int) -> dict[str, float]:
    """Milliseconds of processor time for each request sent, by process; below 0.01 left out."""
    used = {name: (after[name] - before.get(name, 0.0)) * 1000 / max(1, count) for name in after}
    ordered = sorted(used.items(), key=lambda item: -item[1])
    return {name: round(value, 3) for name, value in ordered if value >= 0.01 and name != "client"}


async def rejection(arm: Arm, scenario: Scenario) -> ArmRun:
    """Processor time of an accepted and of a refused request; idle time of the same length is taken off both.

    Refused ones are measured while long streams fill slots and line; what those cost is idle time too.
    """
    size, run = scenario.rejection, ArmRun(arm.endpoint.arm)
    await _send(arm, scenario, [OPENING], 0.0, run, "warm")
    run.rows.clear()
    costs = {}
    accepted_s = size.num_accepted / size.accepted_rate
    idle = await _idle_rate(arm, 5.0)
    phase = Phase(name="accepted", duration_s=accepted_s, rate=size.accepted_rate, arrivals="even")
    costs["accepted"] = await _cost_of(arm, scenario, phase, run, idle, size.num_accepted)
    costs |= await _refused(arm, scenario, run)
    counts = {name: dict(_outcomes(run.rows, name)) for name in costs}
    whole = {name: sum(parts.values()) for name, parts in costs.items()}
    gateway = {name: parts.get("gateway", 0.0) for name, parts in costs.items()}
    run.figures = {
        "processor_ms": costs,
        "outcomes": counts,
        "rejected_of_accepted": round(whole["rejected"] / whole["accepted"], 4),
        "rejected_of_accepted_in_gateway": round(gateway["rejected"] / gateway["accepted"], 4),
        "generator": summary.lateness(run.rows),
    }
    if "flooded" in whole:
        run.figures["flooded_of_accepted"] = round(whole["flooded"] / whole["accepted"], 4)
    return run


async def _refused(arm: Arm, scenario: Scenario, run: ArmRun) -> dict[str, dict[str, float]]:
    """Blockers fill the slots and the line, then many more come: slowly, and as a flood."""
    size = scenario.rejection
    rates = {"rejected": size.rejected_rate} | ({"flooded": size.flood_rate} if size.flood_rate else {})
    queue_max = int(scenario.settings.get("queue_max", 512))
    num_blockers = scenario.model.slots + queue_max + 2
    # A few get places in line, as blockers are heavy, and wait there for as long as they like.
    blocked_s = sum(size.num_rejected / rate + scenario.patience_s + SETTLE_S for rate in rates.values())
    long_tokens = round((IDLE_S + blocked_s + 30) * 1000 / max(1.0, scenario.model.gap_ms))
    blocker = Source(name="blocker", num_tokens=long_tokens)
    rate = max(5.0, num_blockers / 5)
    filling = Phase(name="filling", duration_s=num_blockers / rate, rate=rate, arrivals="even")
    blocking = msgspec.structs.replace(scenario, sources=[blocker])
    planned, _ = plan(blocking, [filling], 0.0, seed=0)
    fill_s = num_blockers / rate + 3.0
    held = asyncio.create_task(
        send(
            arm.endpoint,
            planned,
            patience_s=fill_s + IDLE_S + blocked_s + 5.0,
            label=f"{arm.endpoint.arm} blockers",
        )
    )
    await asyncio.sleep(fill_s)
    idle = await _idle_rate(arm, IDLE_S)  # of the blockers, who are in both
    costs = {}
    for name, rate in rates.items():
        phase = Phase(name=name, duration_s=size.num_rejected / rate, rate=rate, arrivals="even")
        costs[name] = await _cost_of(arm, scenario, phase, run, idle, size.num_rejected)
    await held
    return costs


async def _cost_of(
    arm: Arm, scenario: Scenario, phase: Phase, run: ArmRun, idle: dict[str, float], count: int
) -> dict[str, float]:
    """Processor time (ms) of each of so many requests, by part. idle: what is spent anyway, seconds a second."""
    before, began_s = arm.processor_seconds(), perf_counter()
    await _send(arm, scenario, [phase], 0.0, run, phase.name)
    return _costs(before, arm.processor_seconds(), idle, perf_counter() - began_s, count)


async def _idle_rate(arm: Arm, seconds: float) -> dict[str, float]:
    """Processor seconds per second of every part when nothing new comes."""
    before = arm.processor_seconds()
    await asyncio.sleep(seconds)
    after = arm.processor_seconds()
    return {name: (after[name] - before.get(name, 0.0)) / seconds for name in after}


def _costs(
    before: dict[str, float], after: dict[str, float], idle: dict[str, float], seconds: float, count: int
) -> dict[str, float]:
    """Milliseconds per request by part, without what would have been spent anyway."""
    used = {
        name: max(0.0, after[name] - before.get(name, 0.0) - idle.get(name, 0.0) * seconds) * 1000 / count
        for name in after
        if name != "client"
    }
    return {name: round(value, 4) for name, value in sorted(used.items(), key=lambda item: -item[1])}


def _outcomes(rows: list[LoadRow], phase: str) -> Counter[str]:
    return Counter(row.outcome for row in rows if row.phase == phase)


def run_arm(name: str, scenario: Scenario, peak: float) -> ArmRun:
    """Start the arm, measure it, stop it. Raises: ArmMissing."""
    with arms.running(name, scenario) as arm:
        if scenario.kind == "rejection":
            return asyncio.run(rejection(arm, scenario))
        return asyncio.run(phases(arm, scenario, peak))
