from __future__ import annotations

from typing import Any

import pytest

from perf import answers, generate, relay_report
from perf.report import BEGIN, END, README, block, inserted
from perf.rows import Row
from tests.unit.perf.test_summaries import measured

ENVIRONMENT = {
    "cores": "2",
    "cpu": "AMD EPYC",
    "python": "3.11.7",
    "date": "2026-11-24",
    "load_before": "0.26",
}


def summary() -> dict[str, Any]:
    tokens = [
        Row(f"{arm}/{n}", 0, 0, 0, 2.0, 100) for arm in ("engine", "grpc", "grpc_each") for n in (8, 32)
    ]
    return {
        "environment": ENVIRONMENT,
        "relay": relay_report.summarise(measured()),
        "generate": generate.summarise(tokens, {}),
    }


def test_whole_answers_are_told_beside_their_targets() -> None:
    alone = [Row(f"{tier}@1", 0, 0.0, 0.0, 0.03) for tier in answers.TIERS]
    many = [Row("fast@32", 0, 0.0, 0.0, 0.5)] * 140
    text = block({"environment": ENVIRONMENT} | answers.summarise(alone + many, 2.0))
    assert "| fast@1 | 30.0 (target 40) | 30.0 |" in text
    assert "| fast@32, 70 answers/s (target 60) | 500.0 | 500.0 |" in text


def test_every_figure_of_the_relay_is_told_beside_its_target() -> None:
    text = block(summary())
    assert "service / bare = **0.80** (target 0.7" in text
    assert "service / litellm = **16.00** (target 15" in text
    assert "gateway **50.0 us** a token over whole streams" in text
    assert "**50.0 us** between first and last token (target 15)" in text
    assert "| 32 | grpc | 50 | 1.00 (target 0.90) |" in text


def test_a_scenario_that_was_not_run_is_not_in_the_block() -> None:
    assert "Generative" not in block(
        {"environment": ENVIRONMENT, "relay": relay_report.summarise(measured())}
    )


def test_the_block_replaces_the_last_one_and_nothing_else() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert inserted(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert inserted(inserted(page, "x"), "new") == inserted(page, "new")


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="results"):
        inserted("nothing here", "new")


def test_the_readme_has_its_marks() -> None:
    assert inserted(README.read_text(), "x")
