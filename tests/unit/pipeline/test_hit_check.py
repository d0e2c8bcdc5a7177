"""When two answers say the same: a reader in doubt or another order is no other answer, another passage is."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.caching.entry import Entry, Piece
from gateway.pipeline.hit_check import judged
from gateway.types import Citation
from tests.fakes.engines import passage

PASSAGES = [passage(number, f"text {number}") for number in range(1, 6)]
NOTHING = "I could not find an answer to this in your documents."
FOUNDED = "The fort was founded in 1564."
REBUILT = "It was rebuilt in 1620."
LOCK = "A lock lies near by."
MOAT, LEAK, DRY = "A moat was dug.", "It leaks.", "It is dry."


def quoted(*quotes: tuple[str, int]) -> list[Piece]:
    return [
        Piece(f" {text} [{number}]", [Citation(passage=number, start=0, end=len(text), text=text)])
        for text, number in quotes
    ]


def told(pieces: list[Piece] | str, question: str = "When was the fort founded?", **changes: Any) -> Entry:
    """A string is an answer without citations."""
    given = [Piece(pieces)] if isinstance(pieces, str) else pieces
    fields: dict[str, Any] = {
        "tenant_id": "t", "scope": "s", "digest": "d", "question": question, "pieces": given, "passages": PASSAGES,
        "tier": "fast", "edition": "1", "finish_reason": "no_answer" if given[0].text.startswith(NOTHING) else "stop",
        "prompt_tokens": 1, "completion_tokens": 1, "epoch": 0, "created": 0.0, "expires": 1.0,
    } | changes  # fmt: skip
    return Entry(**fields)


ANSWER = told(quoted((FOUNDED, 1), (REBUILT, 1), (LOCK, 2)))
REFUSAL = told(NOTHING, "When was the fort lost?")

RIGHT = {
    "the same": (ANSWER, ANSWER),
    "another order": (ANSWER, told(quoted((LOCK, 2), (FOUNDED, 1), (REBUILT, 1)))),
    "the best quote among others": (ANSWER, told(quoted((MOAT, 3), (LEAK, 4), (FOUNDED, 1)))),
    "fewer quotes": (ANSWER, told(quoted((REBUILT, 1)))),
    "two refusals that name other sections": (
        told(f"{NOTHING} The nearest sections are: Forts; Harbours; Moats."),
        told(f"{NOTHING} The nearest sections are: Lighthouses; Dunes; Piers."),
    ),
    "a refusal with a hint and one without": (told(NOTHING), told(f"{NOTHING} The nearest sections: Forts.")),
    "written in another order": (
        told("The old fort was founded by sailors in 1564."),
        told("Sailors founded the old fort in 1564."),
    ),
    "written, one says more": (
        told("The fort near the harbour was founded in 1564."),
        told("The fort near the harbour was founded in 1564 and has 3 gates."),
    ),
}
WRONG = {
    "another passage": (ANSWER, told(quoted((FOUNDED, 4)))),
    "nothing in common but a passage": (ANSWER, told(quoted((MOAT, 1)))),
    "a side remark in common": (ANSWER, told(quoted((MOAT, 1), (LEAK, 1), (LOCK, 2)))),
    "a refusal to another question": (ANSWER, REFUSAL),
    "an answer where there was a refusal": (REFUSAL, ANSWER),
    "another number, written": (
        told("The old fort was founded by sailors in 1564."),
        told("The old fort was founded by sailors in 1620."),
    ),
    "not, written": (
        told("The old fort was founded by sailors."),
        told("The old fort wasn't founded by sailors."),
    ),
    "other words": (told("Sailors did."), told("The king ordered it after the war.")),
    "a written no that cites the same": (
        told(
            [
                Piece(
                    "The fort can open its gates. [1]",
                    [Citation(passage=1, start=0, end=9, text="The gates of it")],
                )
            ]
        ),
        told(
            [
                Piece(
                    "The fort cannot open its gates. [1]",
                    [Citation(passage=1, start=0, end=9, text="The gates of it")],
                )
            ]
        ),
    ),
}
UNCLEAR = {
    "another tier": (ANSWER, told(ANSWER.pieces, tier="deep")),
    "its passages are gone": (ANSWER, told(quoted((FOUNDED, 1)), passages=[passage(9, "new")])),
    "a reader in doubt over a greeting": (ANSWER, told(NOTHING, "Hi, when was the fort founded?")),
    "in doubt the other way": (told(NOTHING, "Can you tell me when was the fort founded?"), ANSWER),
}


@pytest.mark.parametrize(("given", "made"), RIGHT.values(), ids=RIGHT)
def test_an_answer_that_says_the_same_is_right(given: Entry, made: Entry) -> None:
    assert judged(given, made) == "right"


@pytest.mark.parametrize(("given", "made"), WRONG.values(), ids=WRONG)
def test_an_answer_that_says_something_else_is_wrong(given: Entry, made: Entry) -> None:
    assert judged(given, made) == "wrong"


@pytest.mark.parametrize(("given", "made"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_cannot_be_compared_teaches_nothing(given: Entry, made: Entry) -> None:
    assert judged(given, made) == "unclear"
