from __future__ import annotations

import pytest

from gateway.retrieval.second_hop import MAX_ADDED, MAX_PLANNED_CHARS, Plan, planned, with_found
from gateway.types import Passage

BRIDGE = "The iron bridge over the Lune was designed by the architect Anna Berg. It was opened in 1901."


def passage(text: str, number: int = 1) -> Passage:
    return Passage(
        chunk_id=number, collection_id="c", file_id="f", filename="f.md", ordinal=number, heading="",
        start=0, end=len(text), text=text, score=0.5, rank_score=0.5,
    )  # fmt: skip


def plan(question: str, *texts: str) -> Plan:
    return planned(question, [passage(text, number) for number, text in enumerate(texts)])


def test_two_questions_are_two_parts_and_the_second_stands_alone() -> None:
    found = plan("Who designed the iron bridge and when was it opened?", BRIDGE)
    assert found.parts == ["Who designed the iron bridge?", "when was the iron bridge opened?"]
    assert found.searches == []  # the first passages hold both


def test_only_the_part_that_is_missing_is_looked_for() -> None:
    found = plan("Who designed the iron bridge and how many ponds does the park have?", BRIDGE)
    assert found.searches == [found.parts[1]]
    assert "ponds" in found.searches[0]


@pytest.mark.parametrize(
    "question",
    [
        "What is the difference between alpha mode and beta mode?",
        "Compare alpha mode with beta mode",
        "alpha mode vs beta mode",
    ],
)
def test_both_sides_of_a_comparison_are_looked_for(question: str) -> None:
    assert plan(question, BRIDGE).searches == ["What is alpha mode?", "What is beta mode?"]


def test_what_is_named_through_another_thing_is_followed() -> None:
    found = plan("Where was the architect of the iron bridge born?", BRIDGE)
    assert len(found.searches) == 1
    assert "Anna Berg" in found.searches[0]
    assert "born" in found.searches[0]


@pytest.mark.parametrize(
    "question",
    [
        "When was the iron bridge opened?",
        "What is salt and pepper?",
        "Why?",
        "",
        "and what?",
        "Who tamed the whales of Mars?",
        "Who designed it and when was it opened? " * 40,
    ],
    ids=["held", "one thing", "short", "empty", "no first part", "nothing near", "too long"],
)
def test_a_question_of_one_part_needs_no_second_hop(question: str) -> None:
    assert plan(question, BRIDGE) == Plan()


def test_without_passages_there_is_nothing_to_follow() -> None:
    assert plan("Where was the architect of the iron bridge born?") == Plan()


def test_a_plan_is_bounded_on_hostile_text() -> None:
    assert plan("a and what " * (MAX_PLANNED_CHARS // 11), BRIDGE).searches.__len__() <= 2


def test_found_passages_are_added_once_and_few() -> None:
    first = [passage("one", 1), passage("two", 2)]
    more = [passage("two", 2), *(passage(str(number), number) for number in range(3, 10))]
    merged = with_found(first, [more, more])
    assert [each.chunk_id for each in merged[:2]] == [1, 2]
    assert len(merged) == len({each.chunk_id for each in merged})
    assert len(with_found(first, [more])) == 2 + MAX_ADDED


def test_a_merged_passage_holds_its_chunks() -> None:
    first = [
        Passage(**{f: getattr(passage("x", 1), f) for f in Passage.__struct_fields__} | {"chunk_ids": [1, 2]})
    ]
    assert with_found(first, [[passage("two", 2)]]) == first
