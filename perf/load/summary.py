"""What a load run comes to. Pure: rows and windows in, figures out, so that old rows can be summarised again.

FORMULAS says how each figure is made; reports print it beside them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from perf.load.arrivals import Window
from perf.load.fairness import jain, satisfaction
from perf.load.rows import LoadRow
from perf.load.scenario import Scenario, Slo
from perf.rows import percentile

LATE_S = 0.02  # a generator whose p99 is later than this is named in the report
RECOVERY_WINDOW_S = 1.0
RECOVERY_STEP_S = 0.1
RECOVERY_SLACK = 0.05
ETA_WITHIN = 0.25

FORMULAS = {
    "offered": "requests the schedule wanted sent in the window / its length, whatever became of them",
    "admitted": "of those, the ones that got a first text / the window's length",
    "completed": "answers that came whole, every text in its place, each by the part of its texts that came in the "
    "window / its length; so an answer asked for in the window and given after it is no rate of the window",
    "goodput": "the same of those that met every SLO of their source",
    "TTFT": "first non-empty text - intended send",
    "TPOT": "(last text - first text) / (tokens - 1), per request",
    "ITL": "every gap between texts as they reached the client; texts of one read have a gap of 0",
    "lateness": "the generator turned to the request - intended send; the generator's own, and part of TTFT",
    "Jain": "(sum x)^2 / (n sum x^2) over tenants, x = tokens served / the tenant's max-min fair part of all served",
    "recovery": "from the end of the surge to the first moment after which, in every second, the share of good "
    "requests is within 5 points of the share before it",
    "ETA": "share of those who heard an ETA before their first text whose wait by the receipt is within 25 % of the "
    "first one",
}


def is_good(row: LoadRow, slo: Slo) -> bool:
    """Complete, and within every bound that is asked."""
    return (
        row.is_complete
        and (not slo.ttft_s or row.ttft_s <= slo.ttft_s)
        and (not slo.tpot_s or row.tpot_s <= slo.tpot_s)
        and (not slo.total_s or row.done_s - row.intended_s <= slo.total_s)
    )


def served_in(row: LoadRow, window: Window) -> float:
    """The part of a whole answer that came in the window: 1 = all of it, 0 = none or not whole."""
    if not row.is_complete:
        return 0.0
    came = [(row.sent_s + at_ms / 1000, count) for at_ms, count in row.reads] or [(row.done_s, 1)]
    inside = sum(count for at_s, count in came if window.from_s <= at_s < window.end_s)
    return inside / sum(count for _, count in came)


def phase_summary(rows: list[LoadRow], window: Window, scenario: Scenario) -> dict[str, Any]:
    """The figures of one arm in one phase; rows of its warm-up do not count."""
    phase = [row for row in rows if row.phase == window.phase]
    counted = [row for row in phase if row.is_counted]
    seconds = window.counted_s
    good = [row for row in counted if is_good(row, scenario.slo_of(row.source))]
    served = [(served_in(row, window), is_good(row, scenario.slo_of(row.source))) for row in phase]
    return {
        "planned_rate": round(window.rate, 3),
        "offered": round(len(counted) / seconds, 3),
        "admitted": round(sum(bool(row.first_s) for row in counted) / seconds, 3),
        "completed": round(sum(part for part, _ in served) / seconds, 3),
        "goodput": round(sum(part for part, is_within in served if is_within) / seconds, 3),
        "good_share": round(len(good) / len(counted), 5) if counted else 0.0,
        "outcomes": dict(Counter(row.outcome for row in counted).most_common()),
        "codes": dict(Counter(row.code for row in counted if row.code).most_common(8)),
        "jain": round(_jain(counted), 4),
        "eta_within": _eta_within(counted),
        "by": {name: _grouped(counted, scenario, key) for name, key in GROUPS.items()},
    }


GROUPS: dict[str, Callable[[LoadRow], str]] = {
    "all": lambda _: "all",
    "tier": lambda row: row.tier,
    "priority": lambda row: row.priority,
    "source": lambda row: row.source,
    "tenant": lambda row: row.tenant,
}


def _grouped(rows: list[LoadRow], scenario: Scenario, key: Callable[[LoadRow], str]) -> dict[str, Any]:
    groups: dict[str, list[LoadRow]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return {name: _figures(found, scenario) for name, found in sorted(groups.items()) if name}


def _figures(rows: list[LoadRow], scenario: Scenario) -> dict[str, Any]:
    complete = [row for row in rows if row.is_complete]
    good = sum(is_good(row, scenario.slo_of(row.source)) for row in rows)
    return {
        "requests": len(rows),
        "completed": len(complete),
        "good": good,
        "success": round(len(complete) / len(rows), 5),
        "good_share": round(good / len(rows), 5),
        "ttft_ms": quantiles(row.ttft_s for row in rows if row.first_s),
        "itl_ms": quantiles(gap for row in complete for gap in row.itl_s),
        "tpot_ms": quantiles(row.tpot_s for row in complete if row.num_tokens > 1),
    }


def quantiles(seconds: Iterable[float]) -> dict[str, float]:
    """p50, p95, p99 and max in milliseconds; empty when there is nothing."""
    values = [value * 1000 for value in seconds]
    if not values:
        return {}
    found = {f"p{q}": round(percentile(values, q), 2) for q in (50, 95, 99)}
    return found | {"max": round(max(values), 2)}


def _jain(rows: list[LoadRow]) -> float:
    """Over tenants, by tokens; what a tenant asked for bounds what is due to it.

    An answer weighs as much as its source's answers do in the mean: a model's own choice of length is no unfairness.
    """
    lengths: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.is_complete:
            lengths[row.source].append(row.num_tokens)
    weights = {source: sum(found) / len(found) for source, found in lengths.items()}
    usual = max(weights.values(), default=1.0)
    asked: dict[str, float] = defaultdict(float)
    served: dict[str, float] = defaultdict(float)
    for row in rows:
        weight = weights.get(row.source, usual)
        asked[row.tenant] += weight
        served[row.tenant] += weight if row.is_complete else 0
    shares = satisfaction(asked, served)
    return jain(list(shares.values())) if shares else 1.0


def _eta_within(rows: list[LoadRow]) -> dict[str, float]:
    """Empty when nobody was told an ETA and waited. What comes together with the first text foretells nothing."""
    told = [
        (row.eta_s, row.queue_s)
        for row in rows
        if row.eta_s > 0
        and row.queue_s > 0
        and row.is_complete
        and (not row.told_s or row.told_s < row.first_s)
    ]
    if not told:
        return {}
    near = sum(abs(eta - queue) <= ETA_WITHIN * queue for eta, queue in told)
    return {"share": round(near / len(told), 4), "waiters": len(told)}


def lateness(rows: list[LoadRow]) -> dict[str, Any]:
    """The generator about itself. is_late: its figures hold its own delay; unsent > 0: the run is void."""
    late = [max(0.0, row.lateness_s) for row in rows if row.started_s]
    connect = [row.sent_s - row.started_s for row in rows if row.sent_s]
    found = quantiles(late)
    return {
        "lateness_ms": found,
        "connect_ms": quantiles(connect),
        "is_late": bool(found) and found["p99"] > LATE_S * 1000,
        "unsent": sum(row.outcome == "unsent" for row in rows),
    }


def recovery_s(
    rows: list[LoadRow], before: Window, surge: Window, after: Window, scenario: Scenario
) -> float:
    """Seconds after the surge until service is as before; the length of `after` when it never is. See FORMULAS."""
    calm = [row for row in rows if row.phase == before.phase and row.is_counted]
    later = [
        (row.intended_s, is_good(row, scenario.slo_of(row.source)))
        for row in rows
        if row.phase == after.phase
    ]
    if not calm or not later:
        return after.end_s - after.start_s
    bar = sum(is_good(row, scenario.slo_of(row.source)) for row in calm) / len(calm) - RECOVERY_SLACK
    recovered = after.start_s
    steps = round((after.end_s - after.start_s - RECOVERY_WINDOW_S) / RECOVERY_STEP_S)
    for step in range(steps + 1):
        from_s = after.start_s + step * RECOVERY_STEP_S
        seen = [good for at_s, good in later if from_s <= at_s < from_s + RECOVERY_WINDOW_S]
        if seen and sum(seen) / len(seen) < bar:
            recovered = from_s + RECOVERY_STEP_S
    return round(recovered - surge.end_s, 2)


def max_concurrent(rows: list[LoadRow]) -> int:
    """The most requests that were open at one moment, from their being sent to their end."""
    moves = [(row.sent_s, 1) for row in rows if row.sent_s] + [(row.done_s, -1) for row in rows if row.sent_s]
    most = now = 0
    for _, step in sorted(moves):
        now += step
        most = max(most, now)
    return most
