from __future__ import annotations

from typing import Any

from perf.relay_text import NUM_CHUNKS
from perf.report import README, inserted
from perf.rows import Row
from perf.upstream_report import BEGIN, END, Measured, block, summarise

STREAMS_A_SECOND = {"upstream": 1000, "plain": 300, "documents": 100, "litellm": 20}
FIRST_S = {"upstream": 0.001, "plain": 0.003, "documents": 0.011, "litellm": 0.021}


def measured() -> Measured:
    rates = [
        Row(f"rate/{arm}", number, 10.0 * number, 10.0 * number, 10.0 * number + 1, NUM_CHUNKS * count)
        for number in range(3)
        for arm, count in STREAMS_A_SECOND.items()
    ]
    first = [Row(f"first/{arm}", 0, 0.0, 0.0, 1.0, NUM_CHUNKS, at) for arm, at in FIRST_S.items()]
    row = [Row(f"row/{arm}", 0, 0.0, 0.0, 1.0, NUM_CHUNKS, at / 2) for arm, at in FIRST_S.items()]
    return Measured(
        1, rates + first + row, {arm: {"gateway": 20.0, "guard": 1.0} for arm in STREAMS_A_SECOND}
    )


def test_ratios_and_what_is_added_come_from_the_rows() -> None:
    summary = summarise(measured())
    assert summary["ratio"]["plain / litellm"]["median"] == 15
    assert summary["ratio"]["documents / upstream"]["median"] == 0.1
    assert round(summary["added_first_chunk_p50_ms"]["litellm"], 6) == 20
    assert {name: round(share, 6) for name, share in summary["added_share"].items()} == {
        "plain": 0.1,
        "documents": 0.5,
    }
    assert round(summary["added_share_in_a_row"]["plain"], 6) == 0.1


def test_without_litellm_the_rest_is_told() -> None:
    found = measured()
    found.rows = [row for row in found.rows if "litellm" not in row.arm]
    summary = summarise(found)
    assert "plain / litellm" not in summary["ratio"]
    assert summary["added_share"] == {}


def measure_of(num_workers: int) -> Measured:
    found = measured()
    found.num_workers = num_workers
    return found


def kept() -> dict[str, Any]:
    environment = {"cores": "2", "cpu": "AMD EPYC", "date": "2026-11-27", "litellm": "1.109"}
    return {
        f"workers-{number}": {"environment": environment, **summarise(measure_of(number))}
        for number in (2, 1)
    }


def test_the_page_tells_every_arm_by_workers() -> None:
    text = block(kept())
    assert text.index("**1 worker each**") < text.index("**2 workers each**")
    assert "| plain | 19200 | **15.0** (15.0 to 15.0) | 3.00 (+2.00) | **0.10** | 0.10 | gateway 20 |" in text
    assert "| litellm | 1280 |  | 21.00 (+20.00) |  |  | gateway 20 |" in text


def test_a_run_token_by_token_says_so() -> None:
    found = measured()
    found.is_each = True
    environment = {"cores": "2", "cpu": "AMD EPYC", "date": "2026-11-27", "litellm": "1.109"}
    text = block({"workers-1-token-by-token": {"environment": environment, **summarise(found)}})
    assert text.startswith("**1 worker each, the upstream token by token** (")


def test_the_readme_has_its_place() -> None:
    page = README.read_text()
    assert "**1 worker each**" in page
    assert inserted(page, "x", BEGIN, END) != page
