"""What `tidegate eval` measures: a row for each question asked, and every formula over rows. Pure.

An answer "holds" a label when the label's text is in it, in any case, whatever the white space, without a full stop at
its end and without marks of code and emphasis; a label that begins or ends with a digit must not stand inside a longer
number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from gateway.cli.eval_labels import bare
from gateway.language.sentences import Kind, split

ALL, KEPT = "all", "kept"  # phases: every document is there; a part of them is left out
_MARK = re.compile(r"\s*\[\d+\]")


class Found(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A passage that was retrieved or cited. document: its id in the set. holds: a label stands in its text."""

    document: str
    is_right: bool = False
    holds: bool = False
    score: float = 0.0


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question asked once. is_answerable: it has labels, and one of its documents was in the collection.

    latency_ms: sent -> whole answer. ttft_ms: sent -> first text. Both as the client saw them; -1 = there was none.
    error: why there is no answer; empty when there is one. draw: which time the phase was gone through.
    """

    phase: str
    question: str
    documents: list[str] = []
    answers: list[str] = []
    is_answerable: bool = False
    refused: bool = False
    answer: str = ""
    first: str = ""
    in_first: bool = False
    in_answer: bool = False
    passages: list[Found] = []
    cited: list[Found] = []
    latency_ms: float = -1.0
    ttft_ms: float = -1.0
    tier: str = ""
    cache: str = ""
    receipt: str = ""
    error: str = ""
    draw: int = 0


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the labels stands in the text."""
    where = bare(text)
    return any(_stands_in(label, where) for label in map(bare, answers) if label)


def _stands_in(label: str, where: str) -> bool:
    at = where.find(label)
    while at >= 0:
        end = at + len(label)
        inside = (label[0].isdigit() and where[max(at - 1, 0) : at].isdigit()) or (
            label[-1].isdigit() and where[end : end + 1].isdigit()
        )
        if not inside:
            return True
        at = where.find(label, at + 1)
    return False


def first_sentence(text: str, quote: str = "") -> str:
    """The first sentence of an answer, without its marks.

    quote: what the first mark cites. An answer that quotes is one sentence up to its first mark; one that was written
    may have several there, and is cut where sentences are.
    """
    mark = _MARK.search(text)
    statement = text[: mark.start()] if mark else text
    if mark and len(quote) >= len(statement) / 2:
        return statement.strip()
    said = [span for span in split(statement) if span.kind is not Kind.MARKUP]
    return statement[said[0].start : said[0].end] if said else statement.strip()


class Measure(NamedTuple):
    """A share of yes over the rows that it counts. of: None = this row is not counted."""

    name: str
    formula: str
    of: Callable[[Row], bool | None]
    is_better_high: bool = True


def _answerable(phase: str, judge: Callable[[Row], bool]) -> Callable[[Row], bool | None]:
    return lambda row: judge(row) if row.phase == phase and row.is_answerable else None


def _unanswerable(phase: str) -> Callable[[Row], bool | None]:
    return lambda row: row.refused if row.phase == phase and not row.is_answerable else None


def _recall(k: int) -> Callable[[Row], bool | None]:
    return _answerable(ALL, lambda row: any(passage.is_right for passage in row.passages[:k]))


def _evidence(k: int) -> Callable[[Row], bool | None]:
    return _answerable(
        ALL, lambda row: any(passage.is_right and passage.holds for passage in row.passages[:k])
    )


def _first(k: int) -> str:
    return "the first passage" if k == 1 else f"one of the first {k} passages"


MEASURES = (
    *(Measure(f"recall_at_{k}", f"{_first(k)} is of a right document", _recall(k)) for k in (1, 3, 5)),
    *(
        Measure(f"evidence_at_{k}", f"{_first(k)} is of a right document and holds a label", _evidence(k))
        for k in (1, 5)
    ),
    Measure(
        "answer_in_first", "a label stands in the first sentence", _answerable(ALL, lambda row: row.in_first)
    ),
    Measure("answer_in_answer", "a label stands in the answer", _answerable(ALL, lambda row: row.in_answer)),
    Measure(
        "refused", "refused, though there is an answer", _answerable(ALL, lambda row: row.refused), False
    ),
    Measure("abstained", "refused, and there is no answer", _unanswerable(ALL)),
    Measure(
        "refused_kept",
        "refused, though its document was not left out",
        _answerable(KEPT, lambda row: row.refused),
        False,
    ),
    Measure("abstained_left_out", "refused, and its document was left out", _unanswerable(KEPT)),
)


class Metric(NamedTuple):
    """A number of a run. num: how many questions, citations or answers it is taken over.

    is_better_high: None = neither way is better.
    """

    name: str
    value: float
    num: int
    formula: str
    is_better_high: bool | None
    decimals: int = 3


def metrics(rows: Sequence[Row], took_s: float) -> list[Metric]:
    """Everything that the rows say. took_s: how long the questions of the first phase took, all together."""
    found = [metric for measure in MEASURES if (metric := _share(measure, rows)) is not None]
    return [*found, *_citations(rows), *_lengths(rows), *_speed(rows, took_s)]


def _share(measure: Measure, rows: Iterable[Row]) -> Metric | None:
    judged = [verdict for row in rows if (verdict := measure.of(row)) is not None]
    if not judged:
        return None
    value = sum(judged) / len(judged)
    return Metric(measure.name, value, len(judged), measure.formula, measure.is_better_high)


def _citations(rows: Iterable[Row]) -> list[Metric]:
    cited = [mark for row in rows if row.phase == ALL and row.is_answerable for mark in row.cited]
    if not cited:
        return []
    right = sum(mark.is_right for mark in cited) / len(cited)
    held = sum(mark.is_right and mark.holds for mark in cited) / len(cited)
    return [
        Metric("citation_precision", right, len(cited), "citations that are of a right document", True),
        Metric(
            "citation_evidence", held, len(cited), "citations whose passage is right and holds a label", True
        ),
    ]


def _lengths(rows: Iterable[Row]) -> list[Metric]:
    answered = [row for row in rows if row.phase == ALL and row.answer and not row.refused]
    num = len(answered)
    if not num:
        return []
    cited = sum(len(row.cited) for row in answered) / num
    chars = sum(len(row.answer) for row in answered) / num
    return [
        Metric("citations_per_answer", cited, num, "citations of an answer, mean", None, 2),
        Metric("chars_per_answer", chars, num, "characters of an answer, mean", None, 0),
    ]


def _speed(rows: Iterable[Row], took_s: float) -> list[Metric]:
    asked = [row for row in rows if row.phase == ALL]
    failed = sum(bool(row.error) for row in asked)
    found = [Metric("num_errors", failed, len(asked), "questions without any answer", False, 0)]
    found += _percentiles("latency_ms", "sent to whole answer", [row.latency_ms for row in asked])
    found += _percentiles("ttft_ms", "sent to first text", [row.ttft_ms for row in asked])
    done = len(asked) - failed
    if took_s > 0:
        found.append(Metric("answers_per_s", done / took_s, done, "answers over the time they took", True, 1))
    return found


def _percentiles(name: str, what: str, values: Iterable[float]) -> list[Metric]:
    taken = [value for value in values if value >= 0]
    return [
        Metric(f"{name}_p{q}", percentile(taken, q), len(taken), f"{what}, {q} % are faster", False, 1)
        for q in (50, 95, 99)
        if taken
    ]


def percentile(values: Sequence[float], q: float) -> float:
    """Nearest-rank percentile, q in 0..100, of one value or more."""
    return sorted(values)[max(math.ceil(q / 100 * len(values)) - 1, 0)]


class Change(NamedTuple):
    """A measure before and after, question by question.

    gained, lost: questions that turned good, or bad. chance: probability of a split at least this uneven if neither run
    were better (exact McNemar test, two-sided).
    """

    gained: int
    lost: int
    chance: float


def common(old: Iterable[Row], new: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of the questions that both runs asked, in the same order. They meet by all that tells a row."""
    before = {_key(row): row for row in old}
    after = [row for row in new if _key(row) in before]
    return [before[_key(row)] for row in after], after


def changes(old: Sequence[Row], new: Sequence[Row]) -> dict[str, Change]:
    """By measure: how the questions of `common` rows went."""
    return {measure.name: _change(measure, zip(old, new, strict=True)) for measure in MEASURES}


def _key(row: Row) -> tuple[str, ...]:
    return (row.phase, str(row.draw), row.question, *row.documents)


def _change(measure: Measure, pairs: Iterable[tuple[Row, Row]]) -> Change:
    gained = lost = 0
    for old, new in pairs:
        was, now = measure.of(old), measure.of(new)
        if was is None or now is None or was == now:
            continue
        if now == measure.is_better_high:
            gained += 1
        else:
            lost += 1
    return Change(gained, lost, chance(gained, lost))


def chance(gained: int, lost: int) -> float:
    """Two-sided probability of a split this uneven or more, of gained + lost fair coins."""
    num = gained + lost
    tail = sum(math.comb(num, k) for k in range(min(gained, lost) + 1))
    splits: int = 2**num
    return min(1.0, 2 * tail / splits)
