from __future__ import annotations

import pytest

from gateway.language.question import MAX_READ_CHARS, Wanted, evidence, read
from gateway.language.terms import stem, words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("When did it open?", Wanted.DATE),
        ("In what year did the war end?", Wanted.DATE),
        ("How many people live there?", Wanted.NUMBER),
        ("What percentage of voters stayed home?", Wanted.SHARE),
        ("How much did the tower cost?", Wanted.MONEY),
        ("Who designed it?", Wanted.PERSON),
        ("What year did Doctor Who begin?", Wanted.DATE),
        ("Where is the office?", Wanted.PLACE),
        ("Why was it closed?", Wanted.REASON),
        ("What is the project called?", Wanted.NAME),
        ("What is a tide gate?", Wanted.DEFINITION),
        ("How do I restart it?", Wanted.MANNER),
        ("What lies in the box by the door?", Wanted.ANY),
        ("How old was she when she left?", Wanted.NUMBER),
        ("When the tide turns, who opens the gate?", Wanted.PERSON),
        ("wann wurde die Brücke gebaut", Wanted.DATE),
        ("Wie viele Urlaubstage habe ich?", Wanted.NUMBER),
        ("Warum ist das Tor zu?", Wanted.REASON),
    ],
)
def test_the_cue_tells_what_is_wanted(text: str, wanted: Wanted) -> None:
    assert read(text).wanted is wanted


@pytest.mark.parametrize(
    ("question", "better", "worse"),
    [
        ("When did it open?", "It opened in 1901.", "It opened with a fair."),
        ("When did it open after 1890?", "It opened in 1901.", "It opened after 1890."),
        ("How many rooms are there?", "There are twelve rooms.", "There are large rooms in the 1st wing."),
        ("Who built it?", "It was built by Anna Berg.", "It was built by a miller."),
        ("Why is it shut?", "It is shut because of rain.", "It is shut."),
        ("Where is it?", "It stands in Bremen.", "It stands still."),
    ],
)
def test_evidence_prefers_what_is_wanted(question: str, better: str, worse: str) -> None:
    asked = read(question)
    assert evidence(asked, better, words(better)) > evidence(asked, worse, words(worse))


@pytest.mark.parametrize(
    "family",
    ["create created creates creating creation creator", "settle settled settler settlement", "city cities",
     "stop stopped stopping", "organize organised organization", "die died death", "write wrote written writing"],
)  # fmt: skip
def test_inflections_share_a_stem(family: str) -> None:
    assert len({stem(word) for word in family.split()}) == 1


@pytest.mark.parametrize("pair", ["nature national", "king kin", "need ned", "port portion", "mill million"])
def test_unrelated_words_keep_apart(pair: str) -> None:
    one, other = pair.split()
    assert stem(one) != stem(other)


@pytest.mark.parametrize("around", ["{question} {paste}", "{paste} {question}"], ids=["before", "after"])
def test_a_question_around_a_long_text_is_read_where_it_stands(around: str) -> None:
    asked = read(around.format(question="When was the lighthouse built?", paste="filler words " * 2000))
    assert asked.wanted is Wanted.DATE
    assert stem("lighthouse") in asked.terms
    assert len(asked.text) <= MAX_READ_CHARS + 10


def test_a_question_of_stop_words_alone_still_has_terms() -> None:
    assert read("What is it about?").terms


def test_german_words_that_say_nothing_are_no_terms() -> None:
    assert read("Wie viele Urlaubstage haben die Mitarbeiter?").terms == (
        stem("Urlaubstage"),
        stem("Mitarbeiter"),
    )
    assert stem("die") in read("Why did the war die out?").terms


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("Who designed the Eiffel Tower in 1889?", {"Eiffel", "Tower", "1889"}),
        ("When Did The Bridge Open?", set()),
        ("who designed the eiffel tower", set()),
    ],
    ids=["names", "title case", "lower case"],
)
def test_names_and_numbers_are_entities(text: str, entities: set[str]) -> None:
    assert read(text).entities == {stem(word) for word in entities}


@pytest.mark.parametrize(
    "asked",
    [
        "Hi, where is Bremen?",
        "Hello there! Could you please tell me: where is Bremen?",
        "Please tell me where is Bremen?",
        "I'd like to know: where is Bremen?",
        "Do you happen to know where is Bremen?",
    ],
)
def test_politeness_around_a_question_is_no_part_of_it(asked: str) -> None:
    assert read(asked) == read("where is Bremen?")


@pytest.mark.parametrize(
    "asked", ["Hello Kitty was made when?", "Well logging is what?", "Can you swim?", "Hi-fi is what?"]
)
def test_what_only_looks_like_politeness_stays(asked: str) -> None:
    assert read(asked).text == asked
