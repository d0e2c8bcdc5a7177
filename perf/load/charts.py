"""Pictures of a load run: goodput over offered load, and TTFT by time."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from perf.curves import FAINT, STYLE
from perf.load.rows import LoadRow
from perf.load.scenario import Scenario

COLOURS = {
    "tidegate": "#0b7a75",
    "unshedded": "#d1603d",
    "nginx": "#6b5b95",
    "litellm": "#c9a227",
    "envoy": "#8a979f",
}


def draw(
    folder: Path, scenario: Scenario, arms: dict[str, dict[str, Any]], rows: dict[str, list[LoadRow]]
) -> Path:
    """The picture's path. Left: goodput over what was offered, by arm; right: first texts over the run of tidegate."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("agg")
    with mpl.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.9))
        for name, arm in arms.items():
            _goodput(left, name, arm)
        left.set_xlabel("offered, requests / s")
        left.set_ylabel(f"goodput / s ({scenario.slo})")
        left.set_ylim(bottom=0)
        left.legend(frameon=False, fontsize=8)
        shown = next(iter(rows))
        _first_texts(right, rows[shown])
        right.set_title(f"{shown}: time to first text over the run", loc="left", fontsize=9, color=FAINT)
        right.set_xlabel("intended send, s after the phase's start")
        right.set_ylabel("TTFT, s")
        figure.suptitle(scenario.title, x=0.012, ha="left", fontsize=13, weight="bold")
        figure.tight_layout()
        path = folder / f"{scenario.name}.png"
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    return path


def _goodput(axes: Any, name: str, arm: dict[str, Any]) -> None:
    points = [tuple(probe) for probe in arm.get("probes", [])]
    points += [(p["offered"], p["goodput"]) for p in arm.get("figures", {}).get("phases", {}).values()]
    if points:
        xs, ys = zip(*sorted(points), strict=True)
        axes.plot(xs, ys, "o-", color=COLOURS.get(name), lw=1.6, ms=4, label=name)


def _first_texts(axes: Any, rows: list[LoadRow]) -> None:
    by_phase: dict[str, list[LoadRow]] = defaultdict(list)
    for row in rows:
        if row.first_s and not row.phase.startswith("probe-"):
            by_phase[row.phase].append(row)
    for phase, found in by_phase.items():
        axes.plot([r.intended_s for r in found], [r.ttft_s for r in found], ".", ms=2.5, label=phase)
    if by_phase:
        axes.legend(frameon=False, fontsize=7, markerscale=3)
