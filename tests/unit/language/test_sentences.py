from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.language.sentences import MAX_SPAN_CHARS, Kind, split


def texts(text: str, *kinds: Kind) -> list[str]:
    return [text[s.start : s.end] for s in split(text) if not kinds or s.kind in kinds]


PIECES = st.sampled_from(
    [
        *"aZ9.!?…。！？\"'”)(-*|#`~>\t\n \u00a0\u2028",
        "Mr. ", "e.g. ", "3.14", "U.S. ", "\n\n", "\n- ", "\n1. ", "\n```\n", "\n# T\n", "| a | b |\n", " . . . ",
        "The end. ", "你好。", "🙂", "e\u0301", "\x00", "[12]", "\r\n", "---\n", "===\n", "    ",
    ]
)  # fmt: skip


@given(st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=60).map("".join)))
def test_spans_are_trimmed_in_order_and_hold_all_that_is_not_space(text: str) -> None:
    at = 0
    for span in split(text):
        assert at <= span.start < span.end <= len(text)
        assert not text[at : span.start].strip()
        quoted = text[span.start : span.end]
        assert quoted == quoted.strip()
        assert len(quoted) <= MAX_SPAN_CHARS
        at = span.end
    assert not text[at:].strip()


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith met Mr. J. R. Jones.", "They talked."],
        ["It costs 3.50 dollars.", "See e.g. Fig. 3 or No. 7."],
        ["He moved to the U.S. in 1990.", "The U.S. Army is there."],
        ["It opens at 9 a.m.", "The doors close at 5 p.m. Eastern time."],
        ['He said "Stop."', "Then he left."],
        ["Why?", "Because it rains!", "Really…", "Yes."],
        ['She asked "why?" and left.', "Nobody knew."],
        ["The list (see above.) is long.", "It ends."],
        ["It grew.[12]", "It fell.[citation needed]", "It rose."],
        ["Version 2.0.1 is out.", "Use it."],
        ["Wait . . . and see.", "Done."],
        ["今天下雨。", "你好吗？", "好！"],
        ["彼は「はい。」", "と言った。"],
    ],
    ids=lambda case: case[0][:24],
)
def test_sentences_end_where_a_reader_ends_them(sentences: list[str]) -> None:
    joined = ("" if "。" in sentences[0] else " ").join(sentences)
    assert texts(joined) == sentences


def test_a_paragraph_may_wrap_over_lines() -> None:
    text = "The first sentence wraps\nover two lines. The second\ndoes too.\n"
    assert texts(text) == ["The first sentence wraps\nover two lines.", "The second\ndoes too."]


def test_markdown_structure_keeps_its_kind() -> None:
    text = (
        "# Title\n\nA paragraph. It has two.\n\n- first item\n  goes on\n2) second item\n\n"
        "| name | port |\n|---|---|\n| edge | 8080 |\n\n```sh\nmake run. Now!\n```\n\nMore\n====\n"
    )
    assert texts(text, Kind.HEADING) == ["# Title", "More"]
    assert texts(text, Kind.SENTENCE) == ["A paragraph.", "It has two."]
    assert texts(text, Kind.ITEM) == ["first item\n  goes on", "second item"]
    assert texts(text, Kind.ROW) == ["| name | port |", "| edge | 8080 |"]
    assert texts(text, Kind.CODE) == ["make run. Now!"]
    assert texts(text, Kind.MARKUP) == ["-", "2)", "|---|---|", "```sh", "```", "===="]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (
            "Prices of it.\nname | price\nnut | 1 euro\nbolt | 2 euro\n\nEnd.",
            ["name | price", "nut | 1 euro", "bolt | 2 euro"],
        ),
        ("name|price\n---|---\nnut|1 euro\nbolt|2 euro\n", ["name|price", "nut|1 euro", "bolt|2 euro"]),
        ("A pipe, `a | b`, stands in a sentence.\nThe next one has none.", []),
        ("- name: heat; kind: a | b\n- name: cold; kind: b | c\n", []),
        ("a|b\nc|d\n", []),
    ],
    ids=["two columns", "without spaces", "a sentence", "items", "no table"],
)
def test_rows_of_two_columns_stand_each_for_itself(text: str, rows: list[str]) -> None:
    assert texts(text, Kind.ROW) == rows


def test_a_short_line_above_a_paragraph_is_a_heading() -> None:
    assert texts("Opening Hours\n\nWe open at nine every day.", Kind.HEADING) == ["Opening Hours"]


def test_a_lone_line_is_no_heading() -> None:
    assert texts("The door code is 4711", Kind.SENTENCE) == ["The door code is 4711"]


def test_text_without_full_stops_is_cut_at_spaces() -> None:
    pieces = texts("word " * 1000)
    assert all(len(piece) <= MAX_SPAN_CHARS and piece.startswith("word") for piece in pieces)


@pytest.mark.parametrize(
    "text",
    ["a. " * 100_000, "." * 300_000, "x" * 300_000, "\n" * 300_000, "> " * 150_000, "- " * 150_000, "|-" * 150_000,
     "*-_=" * 75_000, "-" * 300_000, "[" * 300_000, ".[" * 150_000, '."' * 150_000, " " * 300_000 + "x",
     "-" + " " * 300_000 + "x", "# " + " " * 300_000, "|" + " " * 300_000 + "x", "[" + "a" * 300_000,
     ".[a]" * 75_000, "`" * 300_000, "- - -\n" * 50_000, "a | b\n" * 50_000, "a|b\n|-\n" * 35_000],
    ids=lambda text: repr(text[:6]),
)  # fmt: skip
def test_time_is_linear_in_the_text(text: str) -> None:
    started = time.process_time()
    split(text)
    assert time.process_time() - started < 3.0
