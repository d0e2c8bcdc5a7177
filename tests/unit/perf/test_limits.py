"""The figures of the limits' benchmark, from rows."""

from __future__ import annotations

from pathlib import Path

from perf import limits, rows
from perf.rows import Row


def test_the_fullest_minute_slides() -> None:
    assert limits.fullest_minute([]) == 0
    assert limits.fullest_minute([0.0, 59.9, 60.0, 119.0]) == 3
    assert limits.fullest_minute([70.0, 10.0, 0.0, 69.9]) == 2


def test_a_flood_is_measured_by_what_it_let_in() -> None:
    kept = [Row("flood", 0, at, at, at + 0.001, int(at < 11)) for at in range(70)]
    arm = {"part": "flood", "arm": "flood", "workers": 2, "limit": 10, "trips": 7}
    (figures,) = limits.summarise(kept, [arm])["limits"]["arms"]
    assert (figures["fullest_minute"], figures["over_admission"]) == (11, 0.1)
    assert (figures["admitted"], figures["requests_per_trip"]) == (11, 10.0)
    assert figures["is_full_minute"]


def test_a_store_that_is_away_is_compared_with_before() -> None:
    kept = [Row("frozen", 0, at, at, at + (0.001 if at < 50 else 0.003)) for at in range(101)]
    arm = {"part": "frozen", "arm": "frozen", "workers": 2, "limit": 0, "trips": 1}
    (figures,) = limits.summarise(kept, [arm])["limits"]["arms"]
    assert figures["added_ms"] == {"p50": 2.0, "p99": 2.0}


def test_rows_and_figures_are_kept(tmp_path: Path) -> None:
    kept, arms = [Row("rate", 0, 0.0, 0.0, 0.001)], [{"part": "rate", "arm": "rate", "trips": 1, "limit": 0}]
    summary = limits.summarise(kept, arms)
    limits.keep(tmp_path, (kept, arms), summary)
    assert rows.read(tmp_path / "limits.jsonl.gz") == kept
    assert (tmp_path / "limits.json").is_file()
    limits.show({"limits": {"arms": [arm | {"workers": 2} for arm in summary["limits"]["arms"]]}})
