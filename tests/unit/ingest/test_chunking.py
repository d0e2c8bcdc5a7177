from __future__ import annotations

import itertools
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ingest.chunking import Chunk, Style, chunk_text

MARKDOWN = """# Guide

Welcome to the guide.

## Install

Get the wheel. Then install it.

### Linux

Use the package of your distribution, which is old but works well.

## Run

Start the service and open the page in a browser of your choice.
"""


def _cut(
    text: str, max_chars: int = 100, overlap_chars: int = 0, style: Style = Style.MARKDOWN
) -> list[Chunk]:
    return chunk_text(text, max_chars=max_chars, overlap_chars=overlap_chars, style=style)


def _check(text: str, chunks: list[Chunk], max_chars: int, overlap_chars: int) -> None:
    """The promises of chunk_text, whatever the text."""
    covered = bytearray(len(text))
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip() != ""
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
        assert len(chunk.text) <= max(max_chars + overlap_chars, 2 * max_chars)
        is_one_line = "\n" not in chunk.text  # of a table or of code: whole
        if "```" not in text and "~~~" not in text and not is_one_line:
            assert len(chunk.text) <= max_chars + overlap_chars
        assert len(chunk.heading) <= 500
    missed = [index for index, char in enumerate(text) if not covered[index] and not char.isspace()]
    assert missed == []
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        assert not text[before.end : after.start].strip()


_pieces = st.sampled_from(
    [
        "word ",
        "Ends here. ",
        "\n",
        "\n\n",
        "# Title\n",
        "\n## Part\n",
        "```py\n",
        "\n```\n",
        "x" * 40,
        "。次の文",
        " ",
        "\t",
        "\u2028",
        "\x0b",
        "~~~\n",
        "\n   ### Deep ###\n",
        '."  ',
        "é",
        "🙂",
        "1, 2\n",
    ]
)
_texts = st.lists(_pieces | st.text(max_size=12), max_size=60).map("".join)


@settings(max_examples=400, deadline=None)
@given(_texts, st.integers(10, 120), st.integers(0, 60), st.sampled_from(Style))
def test_offsets_are_exact_lengths_bounded_and_nothing_is_lost(
    text: str, max_chars: int, overlap_chars: int, style: Style
) -> None:
    overlap_chars = min(overlap_chars, max_chars - 1)
    _check(text, _cut(text, max_chars, overlap_chars, style), max_chars, overlap_chars)


@pytest.mark.parametrize("text", ["", " \n\t\n "], ids=["empty", "space"])
def test_no_text_gives_no_chunks(text: str) -> None:
    assert _cut(text) == []


def test_headings_are_paths() -> None:
    chunks = _cut(MARKDOWN, 80)
    assert [chunk.heading for chunk in chunks] == [
        "Guide",
        "Guide > Install",
        "Guide > Install > Linux",
        "Guide > Run",
    ]
    assert chunks[2].text.startswith("### Linux")


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("## Run", "Run"),
        ("   ## Run ##  ", "Run"),
        ("##\tRun # fast ##", "Run # fast"),
        ("# C#", "C#"),
        ("# C# #", "C#"),
    ],
)
def test_closing_hashes_are_no_part_of_a_title(line: str, title: str) -> None:
    assert [chunk.heading for chunk in _cut(f"{line}\n\nWords.")] == [title]


@pytest.mark.parametrize("line", ["#", "##Run", "####### Run", "    # Run", "# ###", "#  \t"])
def test_other_lines_with_hashes_give_no_title(line: str) -> None:
    assert {chunk.heading for chunk in _cut(f"{line}\n\nWords.")} == {""}


def test_underlined_lines_are_headings_of_two_levels() -> None:
    text = "Guide\n=====\nWords of the guide.\n\nInstall\n-------\nWords of the installing.\n"
    chunks = _cut(text, 40, 0)
    assert [(chunk.heading, chunk.text.split("\n")[0]) for chunk in chunks] == [
        ("Guide", "Guide"),
        ("Guide > Install", "Install"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "---\ntitle: Guide\n---",
        "Two lines\nof words\n---",
        "- item\n---",
        "> said\n===",
        "    code\n----",
        "a\n\n---\nb",
        "a\n=",
    ],
)
def test_other_lines_of_dashes_give_no_title(text: str) -> None:
    assert {chunk.heading for chunk in _cut(f"{text}\n\nWords.")} == {""}


def test_a_heading_stands_with_what_follows_it() -> None:
    text = "First words here.\n\n# Title\n\n" + "Body of it. " * 7
    assert [chunk.text[:7] for chunk in _cut(text, 90, 10)] == ["First w", "# Title"]


def test_headings_in_plain_text_are_plain_text() -> None:
    assert {chunk.heading for chunk in _cut(MARKDOWN, 80, style=Style.PROSE)} == {""}


def test_small_sections_share_a_chunk_under_their_common_heading() -> None:
    text = "# Top\n\n## A\n\nOne.\n\n## B\n\nTwo.\n"
    (chunk,) = _cut(text)
    assert chunk.heading == "Top"


def test_a_hash_inside_a_fence_is_no_heading() -> None:
    text = "# Real\n\n```sh\n# not a heading\nmake\n```\n\nAfter.\n"
    assert {chunk.heading for chunk in _cut(text, 60)} == {"Real"}


def test_a_fence_stays_whole_up_to_twice_the_length() -> None:
    fence = "```py\n" + "x = 1\n\n" * 20 + "```"
    text = f"Before.\n\n{fence}\n\nAfter."
    chunks = _cut(text, 100)
    assert [chunk.text for chunk in chunks] == ["Before.", fence, "After."]


def test_a_longer_fence_is_cut_between_lines() -> None:
    text = "```py\n" + "value = compute(1)\n" * 30 + "```"
    for chunk in _cut(text, 100):
        assert chunk.text.startswith(("```py", "value"))
        assert chunk.text.endswith((")", "```"))


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = "The quick brown fox jumps over it. " * 20
    for chunk in _cut(text, 100):
        assert chunk.text.startswith("The quick")
        assert chunk.text.endswith("it.")


def test_hard_wrapped_text_is_cut_between_sentences_not_lines() -> None:
    text = textwrap.fill("The quick brown fox jumps over it and goes on. " * 20, 60)
    chunks = _cut(text, 150, 60)
    assert len(chunks) > 5
    for chunk in chunks:
        assert chunk.text.startswith("The quick")
        assert chunk.text.endswith("on.")


def test_a_long_list_is_cut_between_items() -> None:
    text = "\n".join(f"- item {number} without a full stop, and\n  its second line" for number in range(30))
    for chunk in _cut(text, 150, 60):
        assert chunk.text.startswith("- item")
        assert chunk.text.endswith("second line")


def test_text_without_sentences_is_cut_between_lines() -> None:
    text = "\n".join(f"line {number} of a poem without an end" for number in range(30))
    for chunk in _cut(text, 150):
        assert chunk.text.startswith("line")
        assert chunk.text.endswith("end")


def test_neighbours_of_one_section_share_whole_sentences() -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(20))
    chunks = _cut(text, 120, 40)
    for before, after in itertools.pairwise(chunks):
        assert after.text.startswith("Sentence number")
        shared = before.end - after.start
        assert 20 < shared <= 40


def test_sections_share_nothing() -> None:
    text = "# A\n\n" + "Words of the first. " * 4 + "\n\n# B\n\n" + "Words of the second. " * 4
    first, second = _cut(text, 100, 50)
    assert first.end <= second.start


def test_a_word_without_end_is_cut_anyway() -> None:
    assert [len(chunk.text) for chunk in _cut("x" * 250)] == [100, 100, 50]


def test_lines_are_not_cut_inside() -> None:
    text = "\n".join(f"{number},Some. Name,here" for number in range(50))
    for chunk in _cut(text, 100, 30, Style.LINES):
        assert chunk.text[0].isdigit()
        assert chunk.text.endswith("here")


def test_rows_of_a_table_stay_whole_and_keep_their_columns() -> None:
    rows = "".join(f"| part {number} | It is {number}. No more. |\n" for number in range(40))
    text = f"# Parts\n\nWhat we have. All of it.\n| name | note |\n| --- | --- |\n{rows}\nAfter."
    table = [chunk for chunk in _cut(text, 200, 50) if "| part" in chunk.text]
    assert len(table) > 3
    for chunk in table[:-1]:
        assert all(line.startswith("|") and line.endswith("|") for line in chunk.text.split("\n"))
    assert {chunk.heading for chunk in table[1:-1]} == {"Parts > name | note"}


def test_a_table_without_bars_at_its_ends_is_cut_between_rows_too() -> None:
    rows = "\n".join(f"part {number} | It is {number}. No more. | steel" for number in range(40))
    for chunk in _cut(rows, 100):
        assert chunk.text.startswith("part")
        assert chunk.text.endswith("steel")


@pytest.mark.parametrize("head", ["Name|Note\n---|:--:\n", "Name | Note\n---|---\n"], ids=["close", "spaced"])
def test_a_table_with_a_rule_needs_no_bars_at_its_ends_nor_spaces(head: str) -> None:
    rows = "".join(f"part {number}|It is {number}. No more.\n" for number in range(40))
    chunks = _cut(f"# Parts\n\nWhat we have:\n{head}{rows}\nAfter.", 200, 50)
    table = [chunk for chunk in chunks if "part " in chunk.text]
    assert len(table) > 3
    assert all(line.startswith("part") for chunk in table[1:-1] for line in chunk.text.split("\n"))
    assert all(chunk.text.endswith("more.") for chunk in table[:-1])
    assert {chunk.heading.replace(" | ", "|") for chunk in table[1:-1]} == {"Parts > Name|Note"}


@pytest.mark.parametrize("style", [Style.LINES, Style.CODE])
def test_a_line_longer_than_a_chunk_stays_whole_up_to_twice_its_length(style: Style) -> None:
    text = "short\n" + "word " * 35 + "end\nshort again\n" + "word " * 80
    chunks = _cut(text, 100, 20, style)
    assert [len(chunk.text) for chunk in chunks][:2] == [5, 178]
    assert max(len(chunk.text) for chunk in chunks) <= 200


def test_a_path_of_headings_is_capped() -> None:
    text = "".join(f"{'#' * level} {'Long title ' * 10}\n\n" for level in range(1, 7)) + "Words."
    assert max(len(chunk.heading) for chunk in _cut(text)) <= 500


def test_a_chunk_over_two_sections_stands_under_the_longer_one() -> None:
    text = "Short.\n\n# Title\n\nThe text of it is longer."
    assert [chunk.heading for chunk in _cut(text)] == ["Title"]


@pytest.mark.parametrize(
    "unit",
    ["word. ", "x", "# t\n", "```\n", " .\"'", "# " + " " * 500 + "\n", "\n", " \t", "a\n\n", "#"],
    ids=["words", "no space", "headings", "fences", "quotes", "wide", "newlines", "blank", "short", "hashes"],
)
def test_time_grows_with_length_only(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    began = time.perf_counter()
    _cut(text, 900, 150)
    assert time.perf_counter() - began < 20
