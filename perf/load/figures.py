"""The few figures that a scenario has bars for, from a run's summaries. Pure.

Names: kept@PHASE (goodput / G), goodput@PHASE, success@PHASE/PRIORITY, jain@PHASE, ttft_p95_ratio@PHASE/SOURCE (against
the phase `alone`), recovery_s, rejected_of_accepted, bytes_per_stream and so on (as they stand in the summary).
"""

from __future__ import annotations

from typing import Any

LOWER_IS_BETTER = ("ttft", "recovery", "rejected", "flooded", "kib_per_stream", "lost", "doubled", "churn")


def derive(figures: dict[str, Any]) -> dict[str, float]:
    out = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
    phases: dict[str, Any] = figures.get("phases", {})
    for name, phase in phases.items():
        out[f"goodput@{name}"] = phase["goodput"]
        out[f"jain@{name}"] = phase["jain"]
        if phase.get("kept_of_peak") is not None:
            out[f"kept@{name}"] = phase["kept_of_peak"]
        if phase["eta_within"]:
            out[f"eta@{name}"] = phase["eta_within"]["share"]
        for priority, found in phase["by"]["priority"].items():
            out[f"success@{name}/{priority}"] = found["success"]
        for source, found in phase["by"]["source"].items():
            alone = phases.get("alone", {}).get("by", {}).get("source", {}).get(source, {}).get("ttft_ms")
            if alone and name != "alone" and found["ttft_ms"]:
                out[f"ttft_p95_ratio@{name}/{source}"] = round(found["ttft_ms"]["p95"] / alone["p95"], 3)
    return out


def verdicts(
    targets: dict[str, float], derived: dict[str, float]
) -> list[tuple[str, float | None, float, bool]]:
    """(figure, measured or None, bar, met)."""
    out = []
    for name, bar in targets.items():
        value = derived.get(name)
        lower = name.startswith(LOWER_IS_BETTER)
        is_met = value is not None and (value <= bar if lower else value >= bar)
        out.append((name, value, bar, is_met))
    return out
