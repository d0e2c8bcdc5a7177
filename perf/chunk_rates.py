"""What every benchmark of streams prints of its summary: chunks a second, their ratios, the time to the first one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def show(summary: dict[str, Any], targets: Mapping[str, float]) -> None:
    """targets: least ratio by its name."""
    for arm, value in summary["chunks_per_s"].items():
        profile = ", ".join(f"{name} {us:.0f}" for name, us in summary["processor_us_per_chunk"][arm].items())
        print(f"  {arm:9} {value:8.0f}   processor us per chunk: {profile}")
    for name, share in summary["ratio"].items():
        told = f"; target >= {targets[name]:g}" if name in targets else ""
        print(f"  {name:20} {share['median']:6.2f}  ({share['q1']:.2f} to {share['q3']:.2f}{told})")
    print("first chunk at concurrency 1 (ms)")
    for arm, row in sorted(summary["first_chunk_ms"].items()):
        print(f"  {arm:9} p50 {row['p50']:7.2f}  p90 {row['p90']:7.2f}  p99 {row['p99']:7.2f}")
