from __future__ import annotations

import pytest

from gateway.language.pieces import pieces
from gateway.language.question import read
from gateway.language.referent import MAX_REFERENT_CHARS, referent


def meant(text: str, *, question: str = "What happened?", heading: str = "") -> str:
    return referent(read(question), pieces(text, heading)[-1])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Nikola Tesla moved to Prague. He studied there.", "Nikola Tesla"),
        ("The Newcastle Tigers won. Their coach left.", "Newcastle Tigers"),
        ("The neighbourhood is old. It has three parks.", "neighbourhood"),
        ("Anna Berg, an engineer, came in 1843. In 1845 she left.", "Anna Berg"),
    ],
)
def test_the_subject_of_the_sentence_before_is_meant(text: str, name: str) -> None:
    assert meant(text) == name


def test_whom_the_question_names_is_meant_wherever_the_sentence_before_names_him() -> None:
    text = "Students came to Wittenberg to hear Luther speak. He published a short work."
    assert meant(text) == ""
    assert meant(text, question="What did Luther publish?") == "Luther"


def test_a_thing_is_named_by_its_heading() -> None:
    assert meant("It opens at nine.", heading="Guide > Reading room") == "Reading room"
    assert meant("He opens at nine.", heading="Guide > Reading room") == ""


@pytest.mark.parametrize(
    "text",
    [
        "Nikola Tesla moved. The city was large.",
        "The Hauteville family ruled. He was young.",
        "The bridge was closed. It is known that rust did it.",
        "In November, Luther wrote. He rested.",
        "They came.",
        "",
    ],
    ids=["no pronoun", "a family is no he", "it stands for nothing", "a month", "nothing before", "empty"],
)
def test_nobody_is_named_rather_than_the_wrong_one(text: str) -> None:
    found = pieces(text, "")
    assert not found or referent(read("What happened?"), found[-1]) == ""


def test_marks_and_length_of_a_name_are_bounded() -> None:
    assert meant("It opens.", heading="A > [1] `b` (c)\x00") == "1 b c"
    assert meant("It opens.", heading="x" * (MAX_REFERENT_CHARS + 1)) == ""
