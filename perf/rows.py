"""Raw rows and what is computed from them. Pure: `python -m perf.rows FILE` summarises an old run again.

A row is one request: arm, round, intended_s (when the open-loop schedule wanted it sent), sent_s, done_s, count
(texts, requests or chunks it stands for), first_s (a stream's first text; 0 = no stream). latency = done - intended, so
a stalled client shows; service = done - sent; to_first = first - sent.
"""

from __future__ import annotations

import gzip
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Row:
    arm: str
    round: int
    intended_s: float
    sent_s: float
    done_s: float
    count: int = 1
    first_s: float = 0.0

    @property
    def latency_ms(self) -> float:
        return (self.done_s - self.intended_s) * 1000

    @property
    def to_first_ms(self) -> float:
        return (self.first_s - self.sent_s) * 1000


def write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        for row in rows:
            file.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    with gzip.open(path, "rt") as file:
        return [Row(**json.loads(line)) for line in file]


def part_of(rows: Iterable[Row], scenario: str) -> list[Row]:
    """The rows whose arms are SCENARIO/ARM, under their arms alone."""
    return [
        replace(row, arm=row.arm.removeprefix(f"{scenario}/"))
        for row in rows
        if row.arm.startswith(f"{scenario}/")
    ]


def percentile(values: list[float], q: float) -> float:
    """Nearest-rank percentile, q in 0..100."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(q / 100 * len(ordered)) - 1))]


def latencies(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """p50, p90, p99 (ms) and count by arm."""
    by_arm: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_arm[row.arm].append(row.latency_ms)
    return {
        arm: {"p50": percentile(v, 50), "p90": percentile(v, 90), "p99": percentile(v, 99), "n": len(v)}
        for arm, v in by_arm.items()
    }


def to_first(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """p50, p90, p99 (ms) of the first text, by arm; streams only."""
    streams = [row for row in rows if row.first_s]
    return latencies(Row(row.arm, row.round, row.sent_s, row.sent_s, row.first_s) for row in streams)


def rates(rows: Iterable[Row]) -> dict[str, list[float]]:
    """Counts per second of each round, by arm."""
    spans: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        span = spans.setdefault((row.arm, row.round), [row.sent_s, row.done_s, 0.0])
        span[0], span[1], span[2] = min(span[0], row.sent_s), max(span[1], row.done_s), span[2] + row.count
    out: dict[str, list[float]] = defaultdict(list)
    for (arm, _), (start, end, count) in sorted(spans.items(), key=lambda item: item[0][1]):
        out[arm].append(count / (end - start))
    return out


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """Of the rounds, by arm."""
    return {arm: statistics.median(values) for arm, values in rates.items()}


def ratio(top: list[float], bottom: list[float]) -> dict[str, float]:
    """Median and quartiles (q1, q3) of the rounds' ratios: neighbours in time are compared, drift cancels."""
    each = [a / b for a, b in zip(top, bottom, strict=True)]
    low, mid, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return {"median": mid, "q1": low, "q3": high}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        kept = read(Path(name))
        print(json.dumps({"latency_ms": latencies(kept), "rate": rates(kept)}, indent=2))
