"""The project's own labelled questions: pages that are renewed must hold every label that asks about them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gateway.cli.eval_labels import LabelledSet, parse, read_json
from gateway.cli.eval_score import holds

SET = Path(__file__).parents[2] / "perf" / "eval" / "documentation.json"


@pytest.fixture(scope="module")
def labelled() -> LabelledSet:
    return parse(read_json(SET), SET)


def test_every_label_stands_in_each_of_its_documents(labelled: LabelledSet) -> None:
    texts = {document.id: document.content.decode() for document in labelled.documents}
    gone = [
        (question.text, document, question.answers)
        for question in labelled.questions
        for document in question.documents
        if not holds(texts[document], question.answers)
    ]
    assert gone == [], "these pages changed: mend the labels, or the question if it has no answer any more"


def test_the_set_is_large_enough_and_a_quarter_has_no_answer(labelled: LabelledSet) -> None:
    num_unanswerable = sum(not question.is_answerable for question in labelled.questions)
    assert len(labelled.questions) >= 100
    assert num_unanswerable >= len(labelled.questions) / 4


def test_no_question_is_asked_twice(labelled: LabelledSet) -> None:
    counts = Counter(question.text.casefold() for question in labelled.questions)
    assert [text for text, count in counts.items() if count > 1] == []


def test_every_document_is_asked_about(labelled: LabelledSet) -> None:
    asked = {document for question in labelled.questions for document in question.documents}
    assert asked == {document.id for document in labelled.documents}
