"""What was measured of a tier on another server beside LiteLLM, as a summary and as text.

The arms are those of perf/upstream_relay.py. `python -m perf.upstream_report` writes the block of perf/README.md again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf import chunk_rates, report, rows
from perf.relay_text import NUM_CHUNKS
from perf.rows import Row

KEPT = Path(__file__).parent / "results" / "upstream" / "upstream.json"
BEGIN, END = "<!-- upstream: written by perf/upstream_report.py -->", "<!-- end of upstream -->"
OURS = ("plain", "documents")
RATE_TARGET = 15.0  # times LiteLLM's
ADDED_TARGET = 0.1  # of what LiteLLM adds to the first chunk


@dataclass
class Measured:
    """is_each: the upstream writes token by token. profile: arm -> process -> microseconds of processor time for each
    chunk."""

    num_workers: int
    rows: list[Row] = field(default_factory=list)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)
    stacks: str = ""
    is_each: bool = False


def summarise(measured: Measured) -> dict[str, Any]:
    """Rates, ratios and added times from the rows alone; the profile as it was taken."""
    rates = rows.rates(rows.part_of(measured.rows, "rate"))
    first = rows.to_first(rows.part_of(measured.rows, "first"))
    in_a_row = rows.to_first(rows.part_of(measured.rows, "row"))
    added = added_by(first)
    pairs = [(name, "upstream") for name in rates if name != "upstream"]
    pairs += [(name, "litellm") for name in OURS if "litellm" in rates]
    pairs += [("plain", "bare")] if "bare" in rates else []
    return {
        "workers": measured.num_workers,
        "token_by_token": measured.is_each,
        "chunks_per_s": rows.medians(rates),
        "ratio": {f"{top} / {bottom}": rows.ratio(rates[top], rates[bottom]) for top, bottom in pairs},
        "first_chunk_ms": first,
        "added_first_chunk_p50_ms": added,
        "added_share": share_of(added),
        "first_in_a_row_ms": in_a_row,
        "added_share_in_a_row": share_of(added_by(in_a_row)),
        "processor_us_per_chunk": measured.profile,
    }


def added_by(first: dict[str, Any]) -> dict[str, float]:
    """By arm, ms beyond the upstream's own p50."""
    return {name: row["p50"] - first["upstream"]["p50"] for name, row in first.items() if name != "upstream"}


def share_of(added: dict[str, float]) -> dict[str, float]:
    """By arm, of what LiteLLM adds."""
    return {name: added[name] / added["litellm"] for name in ("bare", *OURS) if {name, "litellm"} <= {*added}}


def show(summary: dict[str, Any]) -> None:
    print(f"\n{summary['workers']} worker(s), streams of {NUM_CHUNKS} chunks (chunks/s, median of rounds)")
    chunk_rates.show(summary, {name: RATE_TARGET for name in summary["ratio"] if name.endswith("litellm")})
    for name, value in summary["added_first_chunk_p50_ms"].items():
        share = summary["added_share"].get(name)
        row = summary["added_share_in_a_row"].get(name, share)
        told = (
            ""
            if share is None
            else f"  = {share:.2f} of LiteLLM's, {row:.2f} in a row (target <= {ADDED_TARGET:g})"
        )
        print(f"  {name:9} adds {value:6.2f} ms{told}")


def block(kept: dict[str, Any]) -> str:
    """Markdown of what is kept, by number of workers."""
    parts = []
    for _, summary in sorted(kept.items()):
        env, workers = summary["environment"], summary["workers"]
        how = ", the upstream token by token" if summary.get("token_by_token") else ""
        where = f"{env['cores']} cores ({env['cpu']}), {env['date']}, LiteLLM {env['litellm']}"
        parts.append(
            f"**{workers} worker{'s' if workers != 1 else ''} each{how}** ({where})\n\n{_table(summary)}"
        )
    return "\n\n".join(parts)


def _table(summary: dict[str, Any]) -> str:
    ratio, share = summary["ratio"], summary["added_share"]
    in_a_row = summary.get("added_share_in_a_row", {})
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
                f"{in_a_row[arm]:.2f}" if arm in in_a_row else "",
                ", ".join(f"{name} {us:.0f}" for name, us in profile[arm].items() if us >= 2),
            )
        )
    times, part = f"x LiteLLM (target {RATE_TARGET:g})", f"of LiteLLM's (target {ADDED_TARGET:g})"
    heads = (
        "arm", "chunks/s", times, "first chunk, p50 ms (added)", part, "thirty in a row", "processor us per chunk",
    )  # fmt: skip
    return report.table(heads, lines)


def write() -> None:
    page = report.README.read_text()
    text = block(json.loads(KEPT.read_text()))
    report.README.write_text(report.inserted(page, text, BEGIN, END))


if __name__ == "__main__":
    write()
