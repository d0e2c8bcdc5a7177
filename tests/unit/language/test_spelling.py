from __future__ import annotations

import pytest

from gateway.language.question import read
from gateway.language.spelling import MAX_TERMS, is_slip, respelled
from gateway.language.terms import stem
from gateway.types import Passage


def passage(text: str) -> Passage:
    return Passage(
        chunk_id=1, collection_id="c", file_id="f", filename="f.md", ordinal=0, heading="", start=0, end=len(text),
        text=text, score=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("gandhi", "ghandi", False),  # two slips apart
        ("repiar", "repair", True),
        ("harbor", "harbour", True),
        ("tunel", "tunnel", True),
        ("lantarn", "lantern", True),
        ("lanterns", "lantern", True),
        ("lantern", "lantern", False),
        ("bantern", "lantern", False),
        ("lantxyz", "lantern", False),
        ("", "a", False),
    ],
    ids=str,
)
def test_a_slip_is_one_letter(one: str, other: str, expected: bool) -> None:
    assert is_slip(one, other) is expected
    assert is_slip(other, one) is expected


def test_a_word_that_no_text_holds_is_read_as_the_nearest() -> None:
    asked = respelled(read("who built the lantarn"), [passage("Anna Berg built the lantern.")])
    assert stem("lantern") in asked.terms
    assert set(asked.forms) == set(asked.terms)
    assert {term for pair in asked.pairs for term in pair} <= set(asked.terms)


@pytest.mark.parametrize(
    "question",
    ["who built the lantern", "who built the 1844 mill", "who met carl", "who saw the zebra"],
    ids=["held", "number", "short", "far"],
)
def test_other_words_stay(question: str) -> None:
    asked = read(question)
    assert respelled(asked, [passage("Anna built the lantern in 1843 for Karl.")]) == asked


def test_a_question_of_many_unknown_words_is_left_alone() -> None:
    asked = read(" ".join(f"lanterm{chr(97 + n)}x" for n in range(MAX_TERMS + 1)))
    assert respelled(asked, [passage("lantern")]) == asked


def test_without_passages_nothing_changes() -> None:
    asked = read("who built the lantarn")
    assert respelled(asked, []) == asked
