"""Which guard objects to which pair, and that another wording of the same question passes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.caching.guards import GUARDS, objection

SAME = [
    ("How do I turn on the light?", "Please tell me how I turn on the light"),
    ("When was the fort rebuilt?", "In what year was the fort rebuilt?"),
    ("Who did the Broncos defeat in the final?", "In the final, who did the Broncos defeat?"),
    ("What's the capital of France?", "what is the capital of France"),
    ("How many seconds were left?", "What number of seconds were left?"),
    ("Who wrote the book?", "By whom was the book written?"),
    ("Who beat Rome in 1410?", "Who defeated Rome in 1410?"),
    ("Which film has the most awards?", "Which movie has the most awards?"),
    ("Why did the gate not open?", "Why didn't the gate open?"),
    ("What was later discovered by Ada?", "What was later found by Ada?"),
    (
        "How do I get from the lock to our mill in winter?",
        "In winter, how do I get from the lock to our mill?",
    ),
    ("Wie hoch ist der Turm?", "Wie hoch ist  der Turm?"),
]
OTHERS = [
    ("small_words", "How do I turn on the light?", "How do I turn off the light?"),
    ("small_words", "What must I do before lunch?", "What must I do after lunch?"),
    ("small_words", "Which city has more people?", "Which city has less people?"),
    ("direction", "Who beat Rome?", "Who did Rome beat?"),
    ("direction", "How far is it from Rome to Paris?", "How far is it from Paris to Rome?"),
    ("direction", "How does a lion attack a hyena?", "How does a hyena attack a lion?"),
    ("direction", "Who was defeated by Rome?", "Who was Rome defeated by?"),
    ("number", "Who won in 2014?", "Who won in 2015?"),
    ("number", "Are two gates enough?", "Are three gates enough?"),
    ("negation", "Is it possible?", "Is it not possible?"),
    ("negation", "Can I enter with a key?", "Can I enter without a key?"),
    ("degree", "Which is the largest city?", "Which is the smallest city?"),
    ("degree", "Which is the larger city?", "Which is the largest city?"),
    ("content", "What is the population of Rome?", "What is the population density of Rome?"),
    ("content", "Is it 5 kilometres long?", "Is it 5 miles long?"),
    ("content", "What time does it open?", "What day does it open?"),
    ("question", "When did it start?", "Where did it start?"),
    ("question", "What year did it start?", "What date did it start?"),
    ("tense", "Who is the king?", "Who was the king?"),
    ("person", "Where is his ship?", "Where is her ship?"),
    ("content", "Which process manager is there?", "Which processor manager is there?"),
    ("content", "Who paid for the building?", "Who paid for the build?"),
    ("content", "What does training cost?", "What does a train cost?"),
    ("direction", "How can I convert my script to perl?", "How can I convert perl to my script?"),
    ("direction", "What flows into reservoirs from rivers?", "What flows into rivers from reservoirs?"),
    ("symbol", "What is C++?", "What is C#?"),
    ("name", "Where does Ada live?", "Where does Grace live?"),
    ("language", "Wann beginnt das Spiel?", "Wann endet das Spiel?"),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=[one for one, _ in SAME])
def test_another_wording_passes(one: str, other: str) -> None:
    assert objection(one, other) is None
    assert objection(other, one) is None


@pytest.mark.parametrize(("guard", "one", "other"), OTHERS, ids=[other for _, _, other in OTHERS])
def test_another_question_does_not(guard: str, one: str, other: str) -> None:
    assert objection(one, other) == guard
    assert objection(other, one) is not None
    assert guard in GUARDS


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_can_be_read_and_order_does_not_matter(one: str, other: str) -> None:
    assert (objection(one, other) is None) == (objection(other, one) is None)
    assert objection(one, one) is None
