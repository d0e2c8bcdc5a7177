"""How long a start takes: the first one over an empty folder, and those after it over what it left."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf.rows import Row, percentile
from perf.service import free_settings, running_in

TARGET_S = 10.0  # of a start over a filled folder


@dataclass(frozen=True)
class Size:
    num_second: int = 7


QUICK = Size(num_second=2)


def run(size: Size) -> list[Row]:
    """Arms `first` and `second`: from the command to "ready", asked from outside."""
    found = []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        for number in range(1 + size.num_second):
            settings = free_settings(Path(folder))
            began = time.monotonic()
            with running_in(settings):
                ready = time.monotonic()
            found.append(Row("second" if number else "first", number, began, began, ready))
            print(f"  {found[-1].arm} start: ready after {ready - began:.1f} s", flush=True)
    return found


def summarise(found: list[Row]) -> dict[str, Any]:
    """Seconds."""
    by_arm = {arm: [row.latency_ms / 1000 for row in found if row.arm == arm] for arm in ("first", "second")}
    return {
        "start_s": {
            "first": round(by_arm["first"][0], 2),
            "second": {f"p{q}": round(percentile(by_arm["second"], q), 2) for q in (50, 100)},
        }
    }


def show(summary: dict[str, Any]) -> None:
    starts = summary["start_s"]
    second = starts["second"]
    print(
        f"first start {starts['first']} s; later ones {second['p50']} s in the median, {second['p100']} s at most "
        f"(target {TARGET_S:g} s)"
    )
