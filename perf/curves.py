"""The picture of perf_analyzer's reports: latency over throughput, a panel a model. `python -m perf.curves FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from perf.points import NUM_TOKENS, Point, parse

PICTURE = "curves.png"
_NEAR: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False}
ORDER = ("embed", "retrieve", "reader")  # a generative tier comes after them
WHAT = {
    "embed": "text → vector",
    "retrieve": "question → passages (ensemble)",
    "reader": "question, passages → quotes (stream)",
}
INK, FAINT, MEDIAN, TAIL = "#1b2a33", "#8a979f", "#0b7a75", "#d1603d"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": "#cfd6da",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "axes.grid": True,
    "grid.color": "#eef1f2",
    "figure.facecolor": "white",
}


def draw(folder: Path) -> Path:
    """Draw every report in the folder. Returns the picture's path."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("agg")
    names = sorted((path.stem for path in folder.glob("*.csv")), key=_place)
    with mpl.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, len(names), figsize=(3.3 * len(names), 3.6), squeeze=False)
        for name, axes in zip(names, panels[0], strict=True):
            _panel(axes, name, parse((folder / f"{name}.csv").read_text()))
        figure.suptitle(
            "Triton through Envoy, measured by perf_analyzer",
            x=0.012,
            y=0.985,
            ha="left",
            fontsize=13,
            weight="bold",
        )
        figure.text(0.012, 0.893, _subtitle(folder), ha="left", fontsize=8.5, color=FAINT)
        figure.tight_layout(rect=(0, 0, 1, 0.94), w_pad=2.2)
        figure.savefig(folder / PICTURE, dpi=130)
        pyplot.close(figure)
    return folder / PICTURE


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _subtitle(folder: Path) -> str:
    env = json.loads((folder / "environment.json").read_text())
    cores = f"{env['cores']} cores that server and client share ({env['cpu']})"
    return (
        f"latency over rate, closed loop; the number at a point is its clients; {cores}; {env['date'][:10]}"
    )


def _panel(axes: Any, name: str, points: list[Point]) -> None:
    rates = [point.requests_per_s for point in points]
    p50, p99 = [point.p50_ms for point in points], [point.p99_ms for point in points]
    axes.plot(rates, p99, "o-", color=TAIL, lw=1.3, ms=3.5, mfc="white")
    axes.plot(rates, p50, "o-", color=MEDIAN, lw=2, ms=4.5)
    for label, values, color, up in (("p50", p50, MEDIAN, 0), ("p99", p99, TAIL, 5)):
        at = (rates[-1], values[-1])
        axes.annotate(label, at, (7, up), **_NEAR, va="center", fontsize=8, color=color, weight="bold")
    for point in points:
        at = (point.requests_per_s, point.p50_ms)
        axes.annotate(str(point.concurrency), at, (5, -5), **_NEAR, va="top", fontsize=7.5, color=MEDIAN)
    axes.set_yscale("log")
    axes.set_xlim(0, max(rates) * 1.15)
    axes.set_ylim(min(p50) / 1.8, max(p99) * 1.4)
    axes.yaxis.set_major_formatter(lambda value, _: _time(value))
    axes.yaxis.set_minor_formatter(lambda value, _: _time(value) if f"{value:e}"[0] in "25" else "")
    axes.tick_params(length=0, which="both", labelsize=8)
    axes.set_xlabel("requests / s")
    axes.set_title(name, loc="left", fontsize=10.5, weight="bold", pad=18)
    what = WHAT.get(name, f"prompt → {NUM_TOKENS} tokens (stream)")
    axes.text(0, 1.035, what, transform=axes.transAxes, fontsize=8, color=FAINT)


def _time(value_ms: float) -> str:
    return f"{value_ms:g} ms" if value_ms < 1000 else f"{value_ms / 1000:g} s"


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
