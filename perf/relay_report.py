"""What was measured of the token relay, as a summary and as text. The arms and scenarios are those of perf/relay.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from perf import chunk_rates, rows
from perf.relay_text import NUM_CHUNKS
from perf.rows import Row

NUM_STREAMS = 32
GAP_MS = 50  # between two tokens of a paced stream: 20 tokens/s
TARGETS = {"service / bare": 0.7, "service / litellm": 15}


@dataclass
class Measured:
    rows: list[Row] = field(default_factory=list)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)  # arm -> process -> us per chunk
    stacks: str = ""


def summarise(measured: Measured) -> dict[str, Any]:
    """Rates, ratios and added times from the rows alone; the profile as it was taken."""
    rates = rows.rates(rows.part_of(measured.rows, "relay_rate"))
    first = rows.to_first(rows.part_of(measured.rows, "relay_first"))
    p50 = {arm: row["p50"] for arm, row in first.items()}
    shares = {f"service / {floor}": rows.ratio(rates["service"], rates[floor]) for floor in ("bare", "parts")}
    added = {"service - bare": p50["service"] - p50["bare"], "service - parts": p50["service"] - p50["parts"]}
    if "litellm" in rates:
        shares["service / litellm"] = rows.ratio(rates["service"], rates["litellm"])
        added["litellm - upstream"] = p50["litellm"] - p50["upstream"]
    paced = rows.part_of(measured.rows, "relay_paced")
    took_s = max(row.done_s for row in paced) - min(row.sent_s for row in paced)
    return {
        "chunks_per_s": rows.medians(rates),
        "ratio": shares,
        "first_chunk_ms": first,
        "added_first_chunk_p50_ms": added,
        "retrieval_p50_ms": p50["parts"] - p50["bare"],
        "paced": {
            "streams": sum(row.round == 0 for row in paced),
            "tokens_per_s": sum(row.count for row in paced) / took_s,
            "first_chunk_ms": rows.to_first(paced)["service"],
        },
        "processor_us_per_chunk": measured.profile,
    }


def show(summary: dict[str, Any]) -> None:
    print(f"\ntoken relay, {NUM_STREAMS} streams of {NUM_CHUNKS} chunks (chunks/s, median of rounds)")
    chunk_rates.show(summary, TARGETS)
    added = summary["added_first_chunk_p50_ms"]
    for name, value in added.items():
        print(f"  {name:18} p50 {value:6.2f} ms")
    print(
        f"  retrieval itself   p50 {summary['retrieval_p50_ms']:6.2f} ms   (target of `service - bare` <= 3)"
    )
    paced, profile = summary["paced"], summary["processor_us_per_chunk"]["paced"]
    print(f"\n{paced['streams']} streams at {1000 // GAP_MS} tokens/s, coalesced as in service")
    print(
        f"  {paced['tokens_per_s']:.0f} tokens/s; gateway {profile.get('gateway', 0):.1f} us a token (target <= 15)"
    )
    steady = summary["processor_us_per_chunk"]["steady"]
    print(
        f"  while they stream (without what a request costs once): gateway {steady.get('gateway', 0):.1f} us a token"
    )
    print("  processor us per token: " + ", ".join(f"{name} {us:.1f}" for name, us in profile.items()))
    print(
        f"  first chunk p50 {paced['first_chunk_ms']['p50']:.0f} ms, p99 {paced['first_chunk_ms']['p99']:.0f} ms"
    )
