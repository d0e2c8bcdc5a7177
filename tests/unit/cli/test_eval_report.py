"""Results of an evaluation: kept, shown, compared, held to limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import eval_report as report
from gateway.cli.eval_labels import LabelledSet, parse
from gateway.cli.eval_run import Options
from gateway.cli.eval_score import ALL, KEPT, Found, Row, metrics
from gateway.cli.terminal import CommandFailed

PATH = Path("result.json")


def labelled(text: str = "The tide.") -> LabelledSet:
    raw = {"documents": [{"id": "a", "text": text}], "questions": [{"question": "q"}]}
    return parse(raw, Path("tides.json"))


def row(question: str = "q", **changed: Any) -> Row:
    known = {"phase": ALL, "is_answerable": True, "documents": ["a"], "answers": ["x"], "tier": "fast"}
    return Row(question=question, **(known | changed))


def result(*rows: Row, text: str = "The tide.") -> report.Result:
    return report.result_of(labelled(text), Options(model="fast"), {"cores": 2}, list(rows), 1.0)


def compared(
    capsys: pytest.CaptureFixture[str], old: report.Result, new: report.Result
) -> dict[str, list[str]]:
    report.compare(old, new)
    return {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.split()}


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    cited = [Found(document="a", is_right=True, holds=True, score=0.5)]
    made = result(row(answer="x [1]", in_first=True, in_answer=True, cited=cited, latency_ms=3.5))
    path = tmp_path / "new" / "result.json"
    report.write(made, path)
    raw = json.loads(path.read_text())
    assert report.is_result(raw)
    assert report.to_result(raw, path) == made
    assert raw["metrics"]["answer_in_first"] == 1.0
    assert raw["options"]["model"] == "fast"


def test_a_result_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"cannot be written"):
        report.write(result(row()), tmp_path)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"documents": [], "questions": []}, "is not a result of `tidegate eval`"),
        ({"rows": [], "metrics": {}, "format": 9}, "is a result of format 9, this version reads 1"),
        ({"rows": [3], "metrics": {}, "format": 1}, "is not a result of `tidegate eval`"),
    ],
)
def test_what_is_no_result_is_refused(raw: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        report.to_result(raw, PATH)
    assert sentence in str(failed.value)
    assert failed.value.exit_code == 2


def test_the_table_says_what_each_number_is_taken_over(capsys: pytest.CaptureFixture[str]) -> None:
    made = result(row(in_answer=True), row("r"))
    report.show(made, metrics(made.rows, made.took_s))
    out = capsys.readouterr().out
    assert out.startswith("tides: 2 questions; answered by fast.\n")
    (line,) = (line for line in out.splitlines() if line.startswith("answer_in_answer"))
    assert line.split()[:3] == ["answer_in_answer", "0.500", "2"]
    assert line.endswith("a label stands in the answer")


def test_a_change_tells_its_direction_and_whether_that_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    old, new = result(row(refused=True), row("r")), result(row(in_first=True, in_answer=True), row("r"))
    lines = compared(capsys, old, new)
    assert lines["answer_in_first"][1:] == ["0.000", "0.500", "+0.500", "↑", "better", "1", "0", "1.000"]
    assert lines["refused"][1:] == ["0.500", "0.000", "-0.500", "↓", "better", "1", "0", "1.000"]
    assert lines["recall_at_1"][1:] == ["0.000", "0.000", "0", "0", "0"]


def test_a_metric_that_has_no_better_way_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    lines = compared(capsys, result(row(answer="xx")), result(row(answer="xxx")))
    assert lines["chars_per_answer"][1:] == ["2", "3", "+1", "↑"]


@pytest.mark.parametrize(("num", "chance"), [(5, "0.062"), (8, "0.008*"), (30, "<0.001*")])
def test_a_change_that_is_hardly_chance_is_marked(
    capsys: pytest.CaptureFixture[str], num: int, chance: str
) -> None:
    names = [str(number) for number in range(num)]
    old, new = result(*map(row, names)), result(*(row(name, in_first=True) for name in names))
    assert compared(capsys, old, new)["answer_in_first"][-1] == chance


def test_runs_are_compared_over_the_questions_that_both_asked(capsys: pytest.CaptureFixture[str]) -> None:
    old = result(row(in_first=True), row("gone", in_first=True))
    new = result(row(), row("new", in_first=True), row(phase=KEPT))
    report.compare(old, new)
    out = capsys.readouterr().out
    assert "Compared over the 1 row that both have." in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    assert lines["answer_in_first"][1:4] == ["1.000", "0.000", "-1.000"]
    assert "answers_per_s" not in lines
    assert "refused_kept" not in lines


def test_a_metric_that_the_old_result_lacks_is_shown_alone(capsys: pytest.CaptureFixture[str]) -> None:
    lines = compared(capsys, result(row(error="gone")), result(row(latency_ms=3.0)))
    assert lines["latency_ms_p50"][:3] == ["latency_ms_p50", "-", "3.0"]


def test_results_of_different_sets_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    old, new = result(row(), text="Other."), result(row())
    report.compare(old, new)
    assert "The labelled sets differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"error": "gone", "refused": True}, "failed"),
        ({"is_answerable": False}, "answered, though there is no answer"),
        ({"is_answerable": False, "refused": True}, ""),
        ({"refused": True}, "refused, though there is an answer"),
        ({}, "no right document was found"),
        ({"passages": [Found(document="a", is_right=True)]}, "the answer does not hold a label"),
        (
            {"passages": [Found(document="a", is_right=True)], "in_answer": True},
            "the first sentence does not hold a label",
        ),
        ({"passages": [Found(document="a", is_right=True)], "in_answer": True, "in_first": True}, ""),
    ],
)
def test_the_gravest_fault_is_named(changed: dict[str, Any], fault: str) -> None:
    assert report.fault(row(**changed)) == fault


def test_failures_show_what_was_wanted_and_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    passages = [Found(document="b"), Found(document="a", is_right=True)]
    rows = [
        row("How\x1b[2J?", answer="No\nidea [1]", passages=passages),
        row(error="gone"),
        row("r", refused=True),
    ]
    report.failures(rows, 2)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "  wanted  x  in a\n  ranks   2 of 2\n  said    No idea [1]\n" in out
    assert "  said    gone\n" in out
    assert out.endswith("\n1 more in the result file.\n")


def test_no_failures_are_shown_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    report.failures([row()], 0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "text", ["refused", "refused=", "refused=low", "refused=-1", "refused=nan", "refused=1e9"]
)
def test_a_limit_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(CommandFailed, match=r"--fail-over '.*' is not METRIC=VALUE\."):
        report.limits([text], "--fail-over")


def test_limits_hold_up_to_their_value() -> None:
    found = metrics([row(in_first=True, in_answer=True), row(refused=True)], 1.0)
    floors = report.limits(["answer_in_first=0.5", "answer_in_answer = .5"], "--fail-under")
    assert report.broken(found, floors, report.limits(["refused=0.5"], "--fail-over")) == []


def test_a_broken_limit_is_told_with_its_number() -> None:
    found = metrics([row(in_first=True), row(refused=True)], 1.0)
    told = report.broken(found, {"answer_in_first": 0.6, "abstained": 0.5}, {"refused": 0.4})
    assert told[0] == "answer_in_first is 0.500, below 0.6"
    assert told[1].startswith("abstained was not measured; this run has recall_at_1, ")
    assert told[2] == "refused is 0.500, above 0.4"


def test_what_was_lost_beyond_its_margin_is_told() -> None:
    old = result(row("a", in_answer=True), row("b", in_answer=True))
    new = result(row("a", in_answer=True), row("b", in_answer=False))
    assert report.lost(old, new, {"answer_in_answer": 0.5}) == []
    assert report.lost(old, new, {"answer_in_answer": 0.4}) == ["answer_in_answer went from 1.000 to 0.500"]
    assert report.lost(new, old, {"answer_in_answer": 0.0}) == []
    (told,) = report.lost(old, new, {"speed": 0.1})
    assert told.startswith("speed cannot be compared; these runs have ")
