from __future__ import annotations

from pathlib import Path

from perf import rows
from perf.rows import Row


def test_the_time_to_the_first_text_counts_from_the_send() -> None:
    found = rows.to_first([Row("a", 0, 0.0, 1.0, 9.0, 64, first_s=1.25), Row("b", 0, 0.0, 1.0, 9.0)])
    assert found == {"a": {"p50": 250.0, "p90": 250.0, "p99": 250.0, "n": 1}}


def test_a_round_lasts_from_its_first_send_to_its_last_end() -> None:
    found = rows.rates([Row("a", 0, 0.0, 0.0, 2.0, 64), Row("a", 0, 1.0, 1.0, 4.0, 64)])
    assert found == {"a": [32.0]}


def test_ratios_are_taken_between_neighbours_in_time() -> None:
    assert rows.ratio([1.0, 2.0, 9.0], [2.0, 4.0, 6.0]) == {"median": 0.5, "q1": 0.5, "q3": 1.5}
    assert rows.ratio([1.0], [4.0]) == {"median": 0.25, "q1": 0.25, "q3": 0.25}


def test_a_scenarios_rows_stand_under_their_arms_alone() -> None:
    found = [Row(arm, 0, 0.0, 0.0, 1.0) for arm in ("rate/hit", "rate_2/hit", "first/hit", "rate/bare/10")]
    assert [row.arm for row in rows.part_of(found, "rate")] == ["hit", "bare/10"]


def test_rows_survive_their_file(tmp_path: Path) -> None:
    kept = [Row("a", 1, 0.5, 0.5, 2.0, 64, first_s=1.0)]
    rows.write(tmp_path / "rows.gz", kept)
    assert rows.read(tmp_path / "rows.gz") == kept
