"""The choice of `auto` in plain numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tiering.complexity import Complexity, complexity_of, is_thin
from gateway.tiering.policy import PATIENCE_S, Offer, Situation, better, choose
from tests.fakes.engines import passage

FAST, DEEP, LARGE = Offer("fast"), Offer("deep"), Offer("large", is_generative=True)
SIMPLE, COMPLEX, ESSAY = Complexity(0.0, "short"), Complexity(0.5, "two facts"), Complexity(0.8, "an essay")


def wait(offer: Offer, eta_s: float = 0.0, work_s: float = 0.0) -> Offer:
    return offer._replace(eta_s=eta_s, work_s=work_s)


@pytest.mark.parametrize(
    ("question", "share"),
    [
        ("What is a tide gate?", 0.0),
        ("When was it built?", 0.0),
        ("Who wrote it?", 0.0),
        ("Why does Triton not notice a dead stub?", 0.5),
        ("Compare Envoy and Redis", 0.5),
        ("Who wrote it and when was it published?", 0.5),
        ("Where is it? How deep?", 0.5),
        ("word " * 30, 0.5),
        ("Why is it so? " + "word " * 30, 0.7),
        ("Summarise the manual", 0.8),
        ("Please write a letter to the harbour", 0.8),
        ("", 0.0),
    ],
    ids=lambda value: str(value)[:24],
)
def test_complexity_adds_up_from_the_cues_of_a_question(question: str, share: float) -> None:
    assert complexity_of(question).share == pytest.approx(share)
    assert complexity_of(question).why


@given(st.text(max_size=300))
def test_complexity_is_a_share(question: str) -> None:
    assert 0.0 <= complexity_of(question).share <= 1.0


@pytest.mark.parametrize(
    ("offers", "now", "name", "code"),
    [
        ([FAST, DEEP, LARGE], Situation(SIMPLE), "fast", "simple"),
        ([FAST, DEEP, LARGE], Situation(COMPLEX), "deep", "complex"),
        ([FAST, DEEP, LARGE], Situation(ESSAY), "large", "complex"),
        ([FAST, DEEP], Situation(ESSAY), "deep", "complex"),
        ([FAST], Situation(ESSAY), "fast", "complex"),
        ([LARGE], Situation(SIMPLE), "large", "simple"),
        ([FAST, DEEP], Situation(COMPLEX, budget_left=0.05), "fast", "budget"),
        ([FAST, DEEP], Situation(SIMPLE, budget_left=0.0), "fast", "simple"),
        ([FAST, wait(DEEP, 2.5)], Situation(COMPLEX), "fast", "load"),
        ([FAST, wait(DEEP, 2.5)], Situation(COMPLEX, "standard"), "deep", "complex"),
        ([FAST, wait(DEEP, 40.0)], Situation(COMPLEX, "batch"), "deep", "complex"),
        ([wait(FAST, 9.0), DEEP], Situation(SIMPLE), "fast", "simple"),
        ([wait(FAST, 9.0), wait(DEEP, 9.0)], Situation(COMPLEX), "fast", "load"),
        ([wait(FAST, 9.0), wait(DEEP, 7.0)], Situation(COMPLEX), "deep", "complex"),
        ([wait(FAST, 0, 0.1), wait(DEEP, 0, 0.8)], Situation(COMPLEX, left_s=0.5), "fast", "deadline"),
        ([wait(FAST, 0, 0.6), wait(DEEP, 0, 0.8)], Situation(COMPLEX, left_s=0.5), "deep", "complex"),
        ([wait(FAST, 0, 0.1), wait(DEEP, 0, 0.8)], Situation(COMPLEX, left_s=3.0), "deep", "complex"),
    ],
    ids=[
        "simple", "complex", "essay", "best-of-two", "only-one", "only-one-that-writes", "budget",
        "budget-cheap-anyway", "wait", "wait-standard", "wait-batch", "never-dearer", "all-full-alike",
        "all-full", "deadline", "no-tier-in-time", "deadline-far",
    ],
)  # fmt: skip
def test_the_choice_and_the_reason_that_decided(
    offers: list[Offer], now: Situation, name: str, code: str
) -> None:
    choice = choose(offers, now)
    assert (choice.name, choice.code) == (name, code)


def test_every_reason_that_counted_is_told() -> None:
    choice = choose([FAST, wait(DEEP, 2.5)], Situation(COMPLEX))
    assert choice.in_words() == "auto: two facts; deep has a wait of 2.5 s"


@pytest.mark.parametrize(
    ("offers", "now", "name"),
    [
        ([FAST, DEEP, LARGE], Situation(SIMPLE), "deep"),
        ([FAST, wait(DEEP, 2.5), LARGE], Situation(SIMPLE), "large"),
        ([FAST, wait(DEEP, 2.5)], Situation(SIMPLE), None),
        ([FAST, wait(DEEP, 0, 0.8)], Situation(SIMPLE, left_s=0.5), None),
        ([FAST, DEEP], Situation(SIMPLE, budget_left=0.05), None),
        ([DEEP, LARGE], Situation(SIMPLE), None),
    ],
    ids=["next", "next-is-full", "all-full", "no-time", "no-budget", "not-on-offer"],
)
def test_thin_evidence_goes_on_to_the_next_better_tier_that_can_be_had(
    offers: list[Offer], now: Situation, name: str | None
) -> None:
    assert better(offers, "fast", now) == name


WAITS = st.floats(0, 100)
OFFERS = st.lists(st.builds(Offer, st.uuids().map(str), st.booleans(), WAITS, WAITS), min_size=1, max_size=4)


@given(
    OFFERS,
    st.sampled_from([SIMPLE, COMPLEX, ESSAY]),
    st.sampled_from([*PATIENCE_S]),
    st.floats(0, 100),
    st.floats(0, 1),
)
def test_the_choice_is_always_an_offer_and_has_a_reason(
    offers: list[Offer], complexity: Complexity, priority: str, left_s: float, budget: float
) -> None:
    choice = choose(offers, Situation(complexity, priority, left_s, budget))
    assert choice.name in {offer.name for offer in offers}
    assert choice.reasons


def test_evidence_is_thin_where_the_reader_would_find_no_answer() -> None:
    tide = "A tide gate lets water through one way. It holds back the surge."
    assert is_thin("What is a tide gate?", [])
    assert not is_thin("What is a tide gate?", [passage(1, tide)])
    assert not is_thin("What is a tide gate?", [passage(1, tide, score=0.45)])  # it holds every word
    assert is_thin("Who conquered Peru?", [passage(1, tide, score=0.2)])
    assert is_thin("?", [passage(1, tide, score=0.2)])
