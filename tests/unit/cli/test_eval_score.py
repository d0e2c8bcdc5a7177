"""What counts as right, and every formula, on rows made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.eval_score import (
    ALL,
    KEPT,
    Found,
    Row,
    chance,
    changes,
    common,
    first_sentence,
    holds,
    metrics,
    percentile,
)

RIGHT = Found(document="a", is_right=True, holds=True)
BESIDE = Found(document="a", is_right=True)
WRONG = Found(document="b", holds=True)


def row(question: str = "q", **changed: Any) -> Row:
    known = {"phase": ALL, "is_answerable": True, "documents": ["a"], "answers": ["x"]}
    return Row(question=question, **(known | changed))


def measured(*rows: Row, took_s: float = 1.0) -> dict[str, tuple[float, int]]:
    return {metric.name: (metric.value, metric.num) for metric in metrics(rows, took_s)}


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("It turns TWICE a day.", ["twice"], True),
        ("It turns twice\n  a day", ["Twice a day."], True),
        ("The **guard** runs `make  run`.", ["the guard", "nothing"], True),
        ("The guard", ["the `guard`"], True),
        ("18 slots", ["8"], False),
        ("80 slots", ["8"], False),
        ("18 or 8 slots", ["8"], True),
        ("8 slots", ["8"], True),
        ("slots", ["slot"], True),
        ("Straße", ["STRASSE"], True),
        ("", ["x"], False),
        ("x", [], False),
        ("x", ["."], False),
    ],
)
def test_a_label_stands_in_a_text(text: str, answers: list[str], expected: bool) -> None:
    assert holds(text, answers) is expected


@pytest.mark.parametrize(
    ("text", "quote", "first"),
    [
        ("It turns twice. [1] The moon pulls. [2]", "It turns twice.", "It turns twice."),
        ("e.g. No. 5 · a row [1]", "| e.g. | No. 5 | a row |", "e.g. No. 5 · a row"),
        ("Yes, it does. The tide turns twice a day because of the moon. [1]", "Moon.", "Yes, it does."),
        ("Without marks. Two sentences.", "", "Without marks."),
        ("no end", "", "no end"),
        ("", "", ""),
    ],
    ids=["quoted", "row", "written", "unmarked", "endless", "empty"],
)
def test_the_first_sentence_of_an_answer(text: str, quote: str, first: str) -> None:
    assert first_sentence(text, quote) == first


def test_recall_and_evidence_look_at_the_first_passages_only() -> None:
    found = measured(
        row(passages=[RIGHT]),
        row(passages=[BESIDE, WRONG, RIGHT]),
        row(passages=[WRONG] * 4 + [RIGHT]),
        row(),
    )
    assert found["recall_at_1"] == (0.5, 4)
    assert found["recall_at_3"] == (0.5, 4)
    assert found["recall_at_5"] == (0.75, 4)
    assert found["evidence_at_1"] == (0.25, 4)
    assert found["evidence_at_5"] == (0.75, 4)


def test_answers_are_counted_over_the_answerable_with_all_documents() -> None:
    found = measured(
        row(in_first=True, in_answer=True),
        row(in_answer=True),
        row(refused=True),
        row(error="gone"),
        row(phase=KEPT, in_first=True, in_answer=True),
        row(is_answerable=False),
    )
    assert found["answer_in_first"] == (0.25, 4)
    assert found["answer_in_answer"] == (0.5, 4)
    assert found["refused"] == (0.25, 4)


def test_refusals_are_told_apart_by_phase_and_by_whether_there_is_an_answer() -> None:
    found = measured(
        row(),
        row(is_answerable=False, refused=True),
        row(is_answerable=False),
        row(phase=KEPT, refused=True),
        row(phase=KEPT, is_answerable=False, refused=True),
        row(phase=KEPT, is_answerable=False, error="gone"),
    )
    assert found["abstained"] == (0.5, 2)
    assert found["refused_kept"] == (1.0, 1)
    assert found["abstained_left_out"] == (0.5, 2)


def test_what_was_not_asked_is_not_measured() -> None:
    found = measured(row(is_answerable=False))
    assert "recall_at_1" not in found
    assert "citation_precision" not in found
    assert "abstained_left_out" not in found
    assert "latency_ms_p50" not in found
    assert "answers_per_s" not in measured(row(), took_s=0.0)


def test_citations_are_counted_one_by_one() -> None:
    found = measured(
        row(cited=[RIGHT, BESIDE, WRONG], answer="x" * 10),
        row(cited=[RIGHT], answer="x" * 20),
        row(refused=True),
    )
    assert found["citation_precision"] == (0.75, 4)
    assert found["citation_evidence"] == (0.5, 4)
    assert found["citations_per_answer"] == (2.0, 2)
    assert found["chars_per_answer"] == (15.0, 2)


def test_latency_is_of_the_first_phase_and_of_whole_answers() -> None:
    found = measured(
        row(latency_ms=10.0, ttft_ms=5.0),
        row(latency_ms=20.0, ttft_ms=-1.0),
        row(error="gone"),
        row(phase=KEPT, latency_ms=99.0),
        took_s=0.5,
    )
    assert found["latency_ms_p50"] == (10.0, 2)
    assert found["latency_ms_p99"] == (20.0, 2)
    assert found["ttft_ms_p95"] == (5.0, 1)
    assert found["num_errors"] == (1.0, 3)
    assert found["answers_per_s"] == (4.0, 2)


@pytest.mark.parametrize(("q", "expected"), [(0, 1), (50, 5), (95, 10), (90, 9), (100, 10)])
def test_percentiles_are_nearest_rank(q: float, expected: float) -> None:
    assert percentile(range(10, 0, -1), q) == expected


def test_rows_meet_by_phase_question_and_documents() -> None:
    old = [row("a"), row("b"), row("gone")]
    new = [row("b"), row("new"), row("a"), row("a", phase=KEPT), row("b", documents=["z"])]
    before, after = common(old, new)
    assert [each.question for each in before] == [each.question for each in after] == ["b", "a"]


def test_changes_count_what_turned_good_or_bad() -> None:
    old = [row("a", in_first=True), row("b"), row("c", in_first=True)]
    new = [row("a"), row("b", in_first=True), row("c", in_first=True)]
    change = changes(old, new)["answer_in_first"]
    assert (change.gained, change.lost, change.chance) == (1, 1, 1.0)


def test_a_refusal_less_is_gained_where_refusing_is_wrong_and_lost_where_it_is_right() -> None:
    old = [row("a", refused=True), row("b", is_answerable=False, refused=True)]
    new = [row("a"), row("b", is_answerable=False)]
    found = changes(old, new)
    assert found["refused"][:2] == (1, 0)
    assert found["abstained"][:2] == (0, 1)


def test_a_question_whose_document_was_kept_in_one_run_only_is_not_compared() -> None:
    found = changes([row("a", phase=KEPT, refused=True)], [row("a", phase=KEPT, is_answerable=False)])
    assert found["refused_kept"][:2] == found["abstained_left_out"][:2] == (0, 0)


@pytest.mark.parametrize(
    ("gained", "lost", "expected"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (8, 1, 0.0390625), (3, 3, 1.0)]
)
def test_chance_is_that_of_fair_coins(gained: int, lost: int, expected: float) -> None:
    assert chance(gained, lost) == chance(lost, gained) == expected


def test_chance_of_many_is_still_a_number() -> None:
    assert 0 < chance(1400, 1600) < 0.001
