"""What was measured of a tier on another server beside LiteLLM, as a summary and as text.

The arms are those of perf/upstream_relay.py. `python -m perf.upstream_report` writes the block of perf/README.md again.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perf import report, rows
from perf.relay_text import NUM_CHUNKS
from perf.rows import Row

KEPT = Path(__file__).parent / "results" / "upstream" / "upstream.json"
BEGIN, END = "<!-- upstream: written by perf/upstream_report.py -->", "<!-- end of upstream -->"
OURS = ("plain", "documents")
RATE_TARGET = 15.0  # times LiteLLM's
ADDED_TARGET = 0.1  # of what LiteLLM adds to the first chunk


@dataclass
class Measured:
    """profile: arm -> process -> microseconds of processor time for each chunk."""

    num_workers: int
    rows: list[Row] = field(default_factory=list)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)
    stacks: str = ""


def summarise(measured: Measured) -> dict[str, Any]:
    """Rates, ratios and added times from the rows alone; the profile as it was taken."""
    rates = rows.rates(_part(measured, "rate"))
    first = rows.to_first(_part(measured, "first"))
    added = {name: row["p50"] - first["upstream"]["p50"] for name, row in first.items() if name != "upstream"}
    pairs = [(name, "upstream") for name in rates if name != "upstream"]
    pairs += [(name, "litellm") for name in OURS if "litellm" in rates]
    ratios = {}
    for top, bottom in pairs:
        mid, low, high = rows.ratio(rates[top], rates[bottom])
        ratios[f"{top} / {bottom}"] = {"median": mid, "q1": low, "q3": high}
    return {
        "workers": measured.num_workers,
        "chunks_per_s": {arm: statistics.median(values) for arm, values in rates.items()},
        "ratio": ratios,
        "first_chunk_ms": first,
        "added_first_chunk_p50_ms": added,
        "added_share": {name: added[name] / added["litellm"] for name in OURS if "litellm" in added},
        "processor_us_per_chunk": measured.profile,
    }


def _part(measured: Measured, scenario: str) -> list[Row]:
    """Its rows, their arms without its name."""
    named = [(row, *row.arm.split("/")) for row in measured.rows]
    return [replace(row, arm=arm) for row, part, arm in named if part == scenario]


def show(summary: dict[str, Any]) -> None:
    print(f"\n{summary['workers']} worker(s), streams of {NUM_CHUNKS} chunks (chunks/s, median of rounds)")
    for arm, value in summary["chunks_per_s"].items():
        profile = ", ".join(f"{name} {us:.0f}" for name, us in summary["processor_us_per_chunk"][arm].items())
        print(f"  {arm:9} {value:8.0f}   processor us per chunk: {profile}")
    for name, share in summary["ratio"].items():
        told = f"; target >= {RATE_TARGET:g}" if name.endswith("litellm") else ""
        print(f"  {name:20} {share['median']:6.2f}  ({share['q1']:.2f} to {share['q3']:.2f}{told})")
    print("first chunk at concurrency 1 (ms)")
    for arm, row in sorted(summary["first_chunk_ms"].items()):
        print(f"  {arm:9} p50 {row['p50']:7.2f}  p90 {row['p90']:7.2f}  p99 {row['p99']:7.2f}")
    for name, value in summary["added_first_chunk_p50_ms"].items():
        share = summary["added_share"].get(name)
        told = "" if share is None else f"  = {share:.2f} of LiteLLM's (target <= {ADDED_TARGET:g})"
        print(f"  {name:9} adds {value:6.2f} ms{told}")


def block(kept: dict[str, Any]) -> str:
    """Markdown of what is kept, by number of workers."""
    parts = []
    for workers, summary in sorted(kept.items()):
        env = summary["environment"]
        where = f"{env['cores']} cores ({env['cpu']}), {env['date']}, LiteLLM {env['litellm']}"
        parts.append(
            f"**{workers} worker{'s' if workers != '1' else ''} each** ({where})\n\n{_table(summary)}"
        )
    return "\n\n".join(parts)


def _table(summary: dict[str, Any]) -> str:
    ratio, share = summary["ratio"], summary["added_share"]
    added, profile = summary["added_first_chunk_p50_ms"], summary["processor_us_per_chunk"]
    lines = []
    for arm, value in summary["chunks_per_s"].items():
        found = ratio.get(f"{arm} / litellm")
        first = f"{summary['first_chunk_ms'][arm]['p50']:.2f}" + (
            f" (+{added[arm]:.2f})" if arm in added else ""
        )
        lines.append(
            (
                arm,
                f"{value:.0f}",
                f"**{found['median']:.1f}** ({found['q1']:.1f} to {found['q3']:.1f})" if found else "",
                first,
                f"**{share[arm]:.2f}**" if arm in share else "",
                ", ".join(f"{name} {us:.0f}" for name, us in profile[arm].items() if us >= 2),
            )
        )
    times, part = f"x LiteLLM (target {RATE_TARGET:g})", f"of LiteLLM's (target {ADDED_TARGET:g})"
    heads = ("arm", "chunks/s", times, "first chunk, p50 ms (added)", part, "processor us per chunk")
    return report.table(heads, lines)


def write() -> None:
    page = report.README.read_text()
    text = block(json.loads(KEPT.read_text()))
    report.README.write_text(report.inserted(page, text, BEGIN, END))


if __name__ == "__main__":
    write()
