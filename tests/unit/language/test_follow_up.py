"""Follow-ups on labelled conversations: what is to be searched for, and that nothing else is touched."""

from __future__ import annotations

import string
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.language.follow_up import Resolved, resolve
from gateway.language.said import MAX_QUESTION_CHARS, MAX_SAID
from gateway.language.terms import word_set
from gateway.types import Turn
from tests.unit.language.dialogues import DEVELOPED, EIFFEL, HELD_OUT, Case

ROOT = Path(__file__).parents[3]
MIN_HELD_OUT = 0.85  # measured when the rules were done: 35 of 40
MAX_HOSTILE_S = 0.25  # of the worst inputs found; a few milliseconds on an idle machine
HISTORY = [Turn("user", EIFFEL[0]), Turn("assistant", EIFFEL[1])]


@pytest.mark.parametrize("case", DEVELOPED, ids=lambda case: f"{case.said[-2:-1]}-{case.question}")
def test_the_labelled_turns_are_resolved(case: Case) -> None:
    found = resolve(case.question, case.history)
    assert case.is_met_by(found.question), found
    assert found.is_follow_up == (found.question != case.question)
    assert bool(found.reason) == found.is_follow_up


def test_turns_that_the_rules_were_not_made_for_are_mostly_resolved() -> None:
    met = [case.is_met_by(resolve(case.question, case.history).question) for case in HELD_OUT]
    assert sum(met) / len(met) >= MIN_HELD_OUT, f"{sum(met)} of {len(met)}"


def test_the_table_of_the_documentation_is_true() -> None:
    """Said before (with the answer in italics), asked, searched for."""
    lines = (ROOT / "docs" / "conversations.md").read_text("utf-8").splitlines()
    start = lines.index("| said before | asked | searched for |")
    rows = [line for line in lines[start + 2 :] if line.startswith("|")][:6]
    for row in rows:
        said, asked, searched_for = (cell.strip() for cell in row.strip("|").split("|"))
        question, _, answer = said.partition(" *")
        history = [Turn("user", question), Turn("assistant", answer.rstrip("*"))]
        assert resolve(asked, history).question == searched_for


def test_the_reason_names_the_word_and_what_it_stands_for() -> None:
    assert resolve("Who designed it?", HISTORY).reason == "follow-up: “it” is the Eiffel Tower"
    assert resolve("What is a tide gate?", HISTORY) == Resolved("What is a tide gate?", "")


def test_a_question_that_stands_alone_keeps_its_very_bytes() -> None:
    for question in (
        "  What is a\ttide gate ?? \n",
        "And  who is the mayor of Denver",
        "Größe der Schleuse?",
    ):
        assert resolve(question, HISTORY).question == question


def test_what_was_searched_for_before_counts_not_what_was_written() -> None:
    kept = [
        Turn("user", "And that one?", question="How tall is the Space Needle?"),
        Turn("assistant", "184 m. [1]"),
    ]
    assert resolve("Who designed it?", kept).question == "Who designed the Space Needle?"


def test_only_sentences_with_a_source_are_taken_from_an_answer() -> None:
    asked = Turn("user", "Who leads the finance team?")
    unsourced = [asked, Turn("assistant", "I did not find that. Maria Schmidt may know.")]
    cited = [asked, Turn("assistant", "I think so. Jan Petersen leads it. [1]")]
    assert resolve("How can I reach him?", cited).question == "How can I reach Jan Petersen?"
    assert "[1]" not in resolve("How can I reach him?", cited).question
    assert "Petersen" not in resolve("How can I reach him?", unsourced).question


def test_no_more_than_the_last_questions_count() -> None:
    filler = [
        turn
        for n in range(MAX_SAID)
        for turn in (Turn("user", f"What happened in {1900 + n}?"), Turn("assistant", "Much. [1]"))
    ]
    assert "Eiffel" in resolve("Who designed it?", HISTORY).question
    assert "Eiffel" not in resolve("Who designed it?", [*HISTORY, *filler]).question


@pytest.mark.parametrize(
    "history",
    [
        [],
        [Turn("system", "You are the Eiffel Tower.")],
        [Turn("assistant", "The Eiffel Tower is in Paris. [1]")],
        [Turn("user", ""), Turn("assistant", "")],
        [Turn("user", "Thanks!"), Turn("assistant", "You are welcome.")],
    ],
    ids=["nothing", "system", "assistant", "empty", "small talk"],
)
def test_without_a_question_before_there_is_nothing_to_follow(history: list[Turn]) -> None:
    assert resolve("Who designed it?", history) == Resolved("Who designed it?", "")


def test_a_long_message_speaks_for_itself() -> None:
    long = "Who designed it? " + "x" * MAX_QUESTION_CHARS
    assert resolve(long, HISTORY).question == long


HOSTILE = [
    "why?", "it " * 79, "and " * 59 + "x?", "the " * 59, "A" * 239 + "?", "“" * 239, "`" * 239, "which " * 39 + "?",
    "when " * 45 + "it?", "one " * 59, " " * 230 + "?", "x" * 32_000, "A of " * 45 + "it?",
    "what is " + "a " * 110 + "?", "how " + "what " * 45,
    "\x00?" * 100, "🌊" * 200, "what about " + "of " * 60, "it" + "'s" * 100,
]  # fmt: skip


@pytest.mark.parametrize("question", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_hostile_texts_and_long_conversations_take_little_time(question: str) -> None:
    text = ("What is the Tower of X and it? " * 1300)[:32_000]
    long = [Turn("user" if n % 2 == 0 else "assistant", text) for n in range(1000)]
    same = [Turn("user", question), Turn("assistant", question * 20)]
    for history in (long, same, same * 500):
        took_s = []
        for _ in range(2):  # the better one counts: the machine may have been busy with something else
            start = time.perf_counter()
            found = resolve(question, history)
            took_s.append(time.perf_counter() - start)
            if took_s[-1] < MAX_HOSTILE_S:
                break
        assert min(took_s) < MAX_HOSTILE_S
        assert len(found.question) <= len(question) + 4 * MAX_QUESTION_CHARS


_WORDS = word_set(
    "it its he she there that one why what who is are the a and of in Paris Eiffel 2015 , ? . tower designed when was "
    'does how many about [1] und er das ihn which were they them `x` " “ ”'
)
_TEXT = st.one_of(
    st.text(max_size=120),
    st.lists(st.sampled_from(sorted(_WORDS)), max_size=16).map(" ".join),
    st.text(string.ascii_letters + " ?.,'’`\"", max_size=80),
)


@settings(deadline=None, max_examples=400)
@given(_TEXT, st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), _TEXT), max_size=6))
def test_any_texts_give_a_question(question: str, said: list[tuple[str, str]]) -> None:
    found = resolve(question, [Turn(role, text) for role, text in said])
    assert found.question == question or found.is_follow_up
    assert not question.strip() or found.question.strip()
