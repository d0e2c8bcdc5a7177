"""What the ingest benchmark makes, and what it makes of its rows."""

from __future__ import annotations

import pytest

from perf import ingest, report
from perf.ingest_memory import Memory
from perf.ingest_texts import documents
from perf.rows import Row

MEMORY = Memory(100_000, 512.0, [(0, 100.0), (50_000, 300.0), (100_000, 310.0)])


def test_rounds_share_no_text_and_a_seed_always_gives_the_same() -> None:
    one, two = documents(3, seed=1), documents(3, seed=2)
    assert documents(3, seed=1) == one
    lines = [{line for data in files.values() for line in data.split(b"\n\n")} for files in (one, two)]
    assert not [line for line in lines[0] & lines[1] if not line.startswith(b"##")]


def test_the_rate_is_compared_round_by_round_and_the_latency_by_its_p95() -> None:
    rate = [Row("batch", n, 0, 0, 1, 100) for n in range(3)] + [
        Row("ingest", n, 0, 0, 1, 90) for n in range(3)
    ]
    latency = [Row("idle", 0, 0, 0, ms / 1000) for ms in range(1, 101)]
    latency += [Row("ingesting", 0, 0, 0, 1.4 * ms / 1000) for ms in range(1, 101)]
    summary = ingest.summarise(rate, latency, MEMORY)
    assert summary["ingest_rate"]["share_of_batch_loop"]["median"] == pytest.approx(0.9)
    assert summary["ingest_latency"]["ratio"] == pytest.approx({"p50": 1.4, "p95": 1.4})
    env = {"cores": "2", "cpu": "x", "python": "3", "date": "now", "load_before": "0"}
    page = report.block({"environment": env} | summary)
    assert "**0.90** (target 0.85" in page
    assert "p95 **1.40** x idle" in page
    assert "peak 512" in page
