from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.generation.citing import CitationStream, last_sentence
from gateway.types import Citation, Passage
from tests.fakes.engines import passage

PASSAGES = [
    passage(1, "A tide gate lets water through one way. It holds back the surge. It was built in 1843."),
    passage(2, "Envoy balances gRPC over the replicas."),
]


def run(*deltas: str, passages: list[Passage] | None = None) -> tuple[str, list[Citation]]:
    stream = CitationStream(PASSAGES if passages is None else passages)
    out = [cited for delta in deltas for cited in stream.feed(delta)] + stream.finish()
    return "".join(cited.text for cited in out), [each for cited in out for each in cited.citations]


def test_a_mark_points_at_the_sentence_that_bears_it_out() -> None:
    text, citations = run("The gate held the surge back [1]. Replicas are balanced by Envoy [2].")
    assert text == "The gate held the surge back [1]. Replicas are balanced by Envoy [2]."
    assert [(each.passage, each.text) for each in citations] == [
        (1, "It holds back the surge."),
        (2, "Envoy balances gRPC over the replicas."),
    ]


def test_offsets_count_in_the_stored_text() -> None:
    shifted = [
        Passage(
            chunk_id=1, collection_id="c", file_id="f", filename="f.md", ordinal=0, heading="",
            start=100, end=150, text="Copper conducts heat. It was found in 1843.", score=0.5,
        )
    ]  # fmt: skip
    _, citations = run("Found in 1843 [1].", passages=shifted)
    assert (citations[0].start, citations[0].end) == (122, 143)


@pytest.mark.parametrize("mark", ["[3]", "[0]", "[999]"])
def test_a_mark_that_leads_nowhere_is_taken_out(mark: str) -> None:
    assert run(f"The surge is held back {mark}. Yes.") == ("The surge is held back. Yes.", [])


def test_a_mark_whose_passage_says_nothing_of_it_is_taken_out() -> None:
    assert run("Bananas are yellow [1].") == ("Bananas are yellow.", [])


def test_one_bracket_with_several_numbers_becomes_several_marks() -> None:
    text, citations = run("The gate and the replicas hold back the surge [1, 2; 7].")
    assert text == "The gate and the replicas hold back the surge [1][2]."
    assert [each.passage for each in citations] == [1, 2]


def test_a_mark_after_the_full_stop_belongs_to_the_sentence_before_it() -> None:
    text, citations = run("It was built in 1843. [1]\nNext")
    assert text == "It was built in 1843. [1]\nNext"
    assert citations[0].text == "It was built in 1843."


@pytest.mark.parametrize(
    "text", ["a[b]c", "x[1:3]", "[", "list[0", "[12345]", "[1" + "," * 100, "array [] end [ 1"]
)
def test_other_brackets_are_text(text: str) -> None:
    assert run(text) == (text, [])


@pytest.mark.parametrize(
    "text",
    ["Use `rows[1]` or `rows[0][2]`.", "```py\nx = rows[1]\n\ny = f(x)[2]\n```\n", "``a`b[1]`` then"],
    ids=["inline", "fence", "two ticks"],
)
def test_an_index_in_code_is_text(text: str) -> None:
    assert run(text) == (text, [])
    assert run(*text) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        "The `gate` held the surge[1].",
        "A stray ` tick.\nThe surge[1].",
        "```\nx\n```\nThe surge [1].",
        "`the surge` [1]",
    ],
    ids=["after code", "next line", "after a fence", "behind it"],
)
def test_a_mark_beside_code_is_a_mark(text: str) -> None:
    for shown, citations in (run(text), run(*text)):
        assert (shown, [each.passage for each in citations]) == (text, [1])
    assert run(text.replace("[1]", "[9]"))[0] == re.sub(r" ?\[1\]", "", text)


def test_text_without_brackets_passes_at_once() -> None:
    stream = CitationStream(PASSAGES)
    assert [cited.text for cited in stream.feed("The surge")] == ["The surge"]


def test_a_mark_is_never_shown_before_it_is_whole() -> None:
    stream = CitationStream(PASSAGES)
    shown = [
        cited.text for delta in ("It holds the surge", " [", "1", "]", ".") for cited in stream.feed(delta)
    ]
    assert shown == ["It holds the surge", " [1]", "."]


@pytest.mark.parametrize(
    ("text", "why_kept"),
    [
        ("The gate was built in 1850 [1].", ""),
        ("The gate was built in 1843 [1].", "it stands there"),
        ("1. The gate was built in 1850 [1].", ""),
        ("2. The gate holds back the surge [1].", "a list's number"),
        ("The gate was built in 1850 [1] by Envoy.", ""),
        ("The gate holds back 3 kinds of surge [1].", "a count of what it lists"),
        ("The gate was built around 1850 [1].", "about right"),
        ("The UTF-8 gate lets water through [1].", "a name"),
        ("By passage 12 the gate lets water through [1].", "a passage's number"),
        ("The gate was built in the 1840s [1].", "a decade"),
    ],
    ids=lambda text: text,
)
def test_a_number_of_the_claim_must_stand_in_the_passage(text: str, why_kept: str) -> None:
    stream = CitationStream(PASSAGES)
    shown = "".join(cited.text for cited in stream.feed(text) + stream.finish())
    assert shown == (text if why_kept else text.replace(" [1]", ""))
    assert stream.num_unsupported == (not why_kept)


@pytest.mark.parametrize(
    ("claimed", "held"),
    [
        ("1000 visitors", "It had 1,000 visitors."),
        ("1.000 visitors", "It had 1 000 visitors."),
        ("1,200,000 visitors", "It had 1.2 million visitors."),
        ("19.90 euro", "It costs 19,90 euro."),
        ("4 euro", "It costs four euro."),
        ("12 May 1843", "Since 12.05.1843."),
    ],
)
def test_a_number_may_be_written_otherwise_and_points_at_its_sentence(claimed: str, held: str) -> None:
    found = [passage(1, f"A gate with a past. {held} The rest is silence.")]
    text, citations = run(f"That makes {claimed} [1].", passages=found)
    assert (text, [each.text for each in citations]) == (f"That makes {claimed} [1].", [held])
    assert run("That makes 7301 visitors in euro since May [1].", passages=found)[1] == []


def test_a_number_that_heading_or_file_name_holds_is_borne_out() -> None:
    assert run("In 2031 the gate held [1].", passages=[passage(1, "The gate held.")])[1] == []
    headed = replace(passage(1, "The gate held."), heading="Report 2031")
    assert len(run("In 2031 the gate held [1].", passages=[headed])[1]) == 1
    named = replace(passage(1, "The gate held."), filename="report-2031.md")
    assert len(run("In 2031 the gate held [1].", passages=[named])[1]) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The gate of 1843 has replicas [1][2].", "The gate of 1843 has replicas [1][2]."),
        ("The gate of 1843 has replicas [2, 1].", "The gate of 1843 has replicas [2][1]."),
        ("The gate of 1850 has replicas [1, 2].", "The gate of 1850 has replicas."),
        ("The gate of 1850 has replicas [1] [2].", "The gate of 1850 has replicas."),
        ("Built in 1843 [1], replicas by Envoy [2].", "Built in 1843 [1], replicas by Envoy [2]."),
        ("Built in 1850 [1], it holds the surge [1].", "Built in 1850, it holds the surge [1]."),
        ("Built in 1850 [9] [1].", "Built in 1850."),
    ],
    ids=lambda text: text,
)
def test_of_marks_at_one_place_one_passage_with_the_number_is_enough(text: str, shown: str) -> None:
    assert run(text)[0] == run(*text)[0] == shown


@given(st.lists(st.integers(1, 12), max_size=12))
def test_the_cuts_between_deltas_change_nothing(cuts: list[int]) -> None:
    text = (
        "The gate held back the surge [1]. `a[1]` [2]. ```\nb[2]\n``` Envoy balances gRPC  [2] and [1,2] [x] [9] "
        "It was built in 1,850 [1] [2], or in 1 843 [2] [1]. ["
    )
    deltas, at = [], 0
    for cut in cuts:
        deltas.append(text[at : at + cut])
        at += cut
    assert run(*deltas, text[at:]) == run(text)


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("One. Two is here", "Two is here"),
        ("One. Two is here.", "Two is here"),
        ("One! “Two” is here.”", "“Two” is here"),
        ("line\nnext", "next"),
        ("", ""),
        ("Version 1.5 came", "Version 1.5 came"),
    ],
    ids=repr,
)
def test_the_marked_sentence_is_the_last_one(text: str, claim: str) -> None:
    assert last_sentence(text) == claim


def test_hostile_text_takes_time_in_proportion() -> None:
    stream = CitationStream(PASSAGES)
    for delta in (" " * 200_000, "[" * 200_000, "[1" * 50_000, " [1,1,1]" * 500):
        stream.feed(delta)
    stream.finish()


def test_marks_that_were_taken_out_are_counted_each() -> None:
    stream = CitationStream(PASSAGES)
    text = "The gate holds back the surge [1] [2] [9]. The gate and replicas [1, 2; 7]. Bananas [1][2]."
    for delta in (text[:40], text[40:]):
        stream.feed(delta)
    stream.finish()
    assert stream.num_unsupported == 5
