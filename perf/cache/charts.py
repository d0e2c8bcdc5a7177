"""Pictures of the cache's measurements: the day, eviction, and the pairs beside GPTCache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perf.cache.day import ENGINE, Line, Measured, by_hour
from perf.curves import FAINT, MEDIAN, STYLE, TAIL

COLOURS = {"exact": MEDIAN, "semantic": "#6bb5a8", "joined": "#c9a227", "miss": TAIL, "refresh": FAINT}


def _saved(path: Path, title: str, num_panels: int, draw: Any) -> Path:
    """One row of panels; draw: fills them."""
    import matplotlib as mpl
    from matplotlib import pyplot

    style: Any = STYLE
    mpl.use("agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(style):
        figure, panels = pyplot.subplots(1, num_panels, figsize=(3.9 * num_panels, 3.7), squeeze=False)
        draw(panels[0])
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, weight="bold")
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
    return path


def draw_day(folder: Path, measured: Measured, summary: dict[str, Any]) -> Path:
    def panels(axes: Sequence[Any]) -> None:
        _hours(axes[0], measured.with_cache.lines)
        _first_texts(axes[1], measured)
        _work(axes[2], summary["processor_ms_per_question"])

    title = (
        f"{summary['asked']:,} questions, Zipf(1.0) over {summary['meanings']:,} meanings: "
        f"{summary['hit_rate']:.0%} hits, {summary['engine_work_saved']:.0%} of the engine's work saved"
    )
    return _saved(folder / "day.png", title, 3, panels)


def _hours(axes: Any, lines: Sequence[Line]) -> None:
    shares = by_hour(lines)
    hours, base = np.arange(len(shares)), np.zeros(len(shares))
    for name in ("exact", "semantic", "joined", "refresh", "miss"):
        heights = np.array([share.get(name, 0.0) for share in shares])
        if heights.any():
            axes.bar(hours, heights, bottom=base, width=0.9, color=COLOURS[name], label=name)
        base += heights
    axes.set_ylim(0, 1)
    axes.set_xlabel("hour of the day")
    axes.set_title("what the receipts say", loc="left", fontsize=9, color=FAINT)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7, loc="lower right", facecolor="white", framealpha=1, edgecolor="white")


def _first_texts(axes: Any, measured: Measured) -> None:
    for name, arm, colour in (("with", measured.with_cache, MEDIAN), ("without", measured.without, TAIL)):
        values = np.sort([line.first_us / 1000 for line in arm.lines if line.first_us > 0])
        axes.plot(values, np.linspace(0, 1, len(values)), color=colour, lw=1.6, label=f"{name} cache")
    axes.set_xscale("log")
    axes.set_xlabel("time to first text, ms")
    axes.set_title("share of questions", loc="left", fontsize=9, color=FAINT)
    axes.legend(frameon=False, fontsize=8)


def _work(axes: Any, used: dict[str, dict[str, float]]) -> None:
    names = [name for name in used["without"] if name.startswith(ENGINE) and used["without"][name] > 0.05]
    arms, base = ("with", "without"), [0.0, 0.0]
    for at, name in enumerate([*names, "gateway", "envoy"]):
        values = [used[arm].get(name, 0.0) for arm in arms]
        axes.bar(arms, values, bottom=base, color=f"C{at}", label=name)
        base = [low + value for low, value in zip(base, values, strict=True)]
    axes.set_axisbelow(True)
    axes.set_title("processor ms a question", loc="left", fontsize=9, color=FAINT)
    axes.legend(frameon=False, fontsize=7)


def draw_eviction(folder: Path, rates: dict[str, Any]) -> Path:
    def panels(axes: Sequence[Any]) -> None:
        for panel, (name, rows) in zip(axes, rates.items(), strict=True):
            capacities = [float(at) for at in rows]
            for policy, colour in (("ours", MEDIAN), ("lru", TAIL)):
                panel.plot(
                    capacities, [row[policy] for row in rows.values()], "o-", color=colour, label=policy
                )
            panel.set_xscale("log")
            panel.set_xlabel("share of the keys that fit")
            panel.set_title(name, loc="left", fontsize=10, weight="bold")
        axes[0].set_ylabel("hit rate")
        axes[0].legend(frameon=False, fontsize=8)

    return _saved(folder / "eviction.png", "Hit rate by policy", len(rates), panels)


def draw_peer(folder: Path, summary: dict[str, Any]) -> Path:
    def panels(axes: Sequence[Any]) -> None:
        for arm, row in summary["pairs"].items():
            colour = MEDIAN if arm == "tidegate" else TAIL
            axes[0].plot(row["false_hits"], row["hits"], "o", color=colour)
            axes[0].annotate(
                arm, (row["false_hits"], row["hits"]), (4, -11), textcoords="offset points", fontsize=7
            )
        axes[0].set_xlim(-0.05, 1.25)
        axes[0].set_xlabel("swaps that get an answer (wrong)")
        axes[0].set_title("paraphrases that get their answer", loc="left", fontsize=9, color=FAINT)
        kinds = ("exact", "semantic")
        for offset, arm, colour in ((-0.2, "tidegate", MEDIAN), (0.2, "gptcache", TAIL)):
            values = [summary["p50_ms"][f"{arm}/{kind}"] for kind in kinds]
            axes[1].bar(np.arange(2) + offset, values, 0.38, color=colour, label=arm)
        axes[1].set_xticks(range(2), kinds)
        axes[1].set_axisbelow(True)
        axes[1].set_yscale("log")
        axes[1].set_ylim(0.02, 12)
        axes[1].set_title("p50 of a hit without model and search, ms", loc="left", fontsize=9, color=FAINT)
        axes[1].legend(frameon=False, fontsize=8)

    return _saved(folder / "gptcache.png", f"Beside GPTCache {summary['version']}", 2, panels)
