"""What perf_analyzer reported, as numbers. Pure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import NamedTuple

NUM_TOKENS = 32  # of an answer of a generative tier


class Point(NamedTuple):
    """One concurrency's figures. responses_per_s: of a decoupled model; else as many as requests.

    The latency of a decoupled request is that of its whole stream. (perf_analyzer 2.46 announces that it takes the
    first response; clients / rate, which is the whole, is what its figures say.)
    """

    concurrency: int
    requests_per_s: float
    responses_per_s: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


def parse(report: str) -> list[Point]:
    """The points of one CSV report, by rising concurrency."""
    points = []
    for row in csv.DictReader(report.splitlines()):
        requests_per_s = float(row["Inferences/Second"])
        latencies = (float(row[f"p{q} latency"]) / 1000 for q in (50, 90, 95, 99))
        responses_per_s = float(row.get("Response Throughput") or requests_per_s)
        points.append(Point(int(row["Concurrency"]), requests_per_s, responses_per_s, *latencies))
    return sorted(points)


def merged(reports: Sequence[str]) -> str:
    """Reports of single concurrencies as one, under the one heading."""
    heading = reports[0].splitlines()[0]
    return (
        "\n".join([heading, *(line for report in reports for line in report.splitlines()[1:] if line)]) + "\n"
    )
