"""PDFs as their usual producers make them: headings, pages, tables, code, broken words, running heads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from reportlab.pdfgen.canvas import Canvas

from gateway.errors import Unprocessable
from gateway.ingest.page_layout import Laid
from gateway.ingest.pdf import pdf_to_markdown
from tests.fakes.documents import (
    body,
    code,
    drawn_pdf,
    heading,
    many_pages_pdf,
    page_break,
    pdf,
    scanned_pdf,
    table,
    title,
)

SENTENCE = "The gate opens at dawn when the keeper turns the old brass wheel twice. "

WORDS = ["Nobody came.", "Never seen.", "Somebody came.", "They left."]


def _read(data: bytes, max_pages: int = 100, max_chars: int = 10**7) -> Laid:
    return pdf_to_markdown(data, max_pages=max_pages, max_chars=max_chars)


def _refusal(data: bytes, max_pages: int = 100, max_chars: int = 10**7) -> Unprocessable:
    with pytest.raises(Unprocessable) as caught:
        _read(data, max_pages, max_chars)
    assert caught.value.message.endswith(".")
    return caught.value


def test_headings_paragraphs_tables_and_code_are_kept() -> None:
    found = _read(
        pdf(
            title("Guide to gates"),
            heading("Opening"),
            body(SENTENCE * 7),
            body("A second paragraph."),
            heading("Prices", 2),
            table([["item", "price", "colour"], ["nut", "1", "red"], ["bolt", "2", "blue"]]),
            code("def open():\n    return 1"),
        )
    )
    assert found.text == (
        f"# Guide to gates\n\n# Opening\n\n{(SENTENCE * 7).strip()}\n\nA second paragraph.\n\n## Prices\n\n"
        "item | price | colour\nnut | 1 | red\nbolt | 2 | blue\n\n```\ndef open():\n    return 1\n```\n"
    )


def test_each_page_begins_where_it_says() -> None:
    found = _read(
        pdf(heading("One"), body("First."), page_break(), body("Second."), page_break(), body("Third."))
    )
    assert [found.text[start:].split()[0] for start in found.page_starts] == ["#", "Second.", "Third."]


def test_a_page_without_text_begins_where_the_next_one_does() -> None:
    def draw(canvas: Canvas, page: int) -> None:
        if page != 1:
            canvas.drawString(100, 700, WORDS[page])

    found = _read(drawn_pdf(4, draw))
    starts = [found.text[start:].split("\n")[0] for start in found.page_starts]
    assert starts == [WORDS[page] for page in (0, 2, 2, 3)]


def test_running_feet_are_left_out_and_sentences_go_on_over_pages() -> None:
    found = _read(pdf(body(SENTENCE * 200), foot="Manual of gates, page {page}"))
    assert len(found.page_starts) > 1
    assert found.text == (SENTENCE * 200).strip() + "\n"


def test_pages_that_are_all_alike_are_no_running_heads() -> None:
    found = _read(many_pages_pdf(5))
    assert found.text == "\n\n".join(["The same words on every page."] * 5) + "\n"
    assert len(set(found.page_starts)) == 5


def _lines_pdf(num_pages: int, lines: Callable[[int], list[tuple[int, str]]]) -> bytes:
    """lines(page) -> (height, text) of each; pages from 0."""

    def draw(canvas: Canvas, page: int) -> None:
        for height, text in lines(page):
            canvas.drawString(100, height, text)

    return drawn_pdf(num_pages, draw)


def test_first_and_last_lines_that_differ_in_their_numbers_are_text() -> None:
    def lines(page: int) -> list[tuple[int, str]]:
        return [
            (780, f"In {1990 + page} the yard sold {3 + 17 * page} gates."),
            (766, f"Its keeper was {WORDS[page]}."),
            (752, f"They brought in {100 * page + 5} crowns."),
        ]

    text = _read(_lines_pdf(4, lines)).text
    for page in range(4):
        assert all(line in text for _, line in lines(page))


def test_numbers_in_the_head_that_do_not_count_the_pages_are_text() -> None:
    def lines(page: int) -> list[tuple[int, str]]:
        return [
            (800, f"Invoice {2041 + page}"),
            (700, f"Sold to {WORDS[page]}"),
            (686, "One gate."),
            (600, f"Total: {31 * page + 7} crowns"),
        ]

    text = _read(_lines_pdf(4, lines)).text
    assert [f"Invoice {2041 + page}" in text for page in range(4)] == [True] * 4
    assert [f"Total: {31 * page + 7} crowns" in text for page in range(4)] == [True] * 4


@pytest.mark.parametrize("foot", ["Page {} of 5", "{}", "- {} -", "Chapter 3, Gates 1.2 | {}"])
def test_a_foot_that_counts_the_pages_is_left_out(foot: str) -> None:
    def lines(page: int) -> list[tuple[int, str]]:
        body = [(700 - 14 * row, f"The keeper of {'abcde'[page]}.") for row in range(3)]
        return [(810, "Manual of gates, 2nd edition"), *body, (40, foot.format(page + 17))]

    text = _read(_lines_pdf(5, lines)).text
    assert "Manual" not in text
    assert not any(char.isdigit() for char in text)


def test_a_word_broken_at_the_end_of_a_line_is_one_word() -> None:
    def draw(canvas: Canvas, _page: int) -> None:
        lines = [
            "The inter-",
            "national guild of well-",
            "known keepers meets; the well-known",
            "ones come first.",
        ]
        for number, line in enumerate(lines):
            canvas.drawString(100, 700 - 14 * number, line)

    words = " ".join(_read(drawn_pdf(1, draw)).text.split())
    assert "The international guild of well-known keepers" in words


def test_the_outline_of_a_document_names_its_headings() -> None:
    def draw(canvas: Canvas, page: int) -> None:
        for level, words in enumerate(["Chapter on gates", "On wheels"]):
            canvas.bookmarkPage(f"{page}-{level}")
            canvas.addOutlineEntry(words, f"{page}-{level}", level=level)
            canvas.drawString(100, 700 - 100 * level, words)
            canvas.drawString(
                100, 670 - 100 * level, "It is told here at some length, in words of the same size."
            )

    assert _read(drawn_pdf(1, draw)).text == (
        "# Chapter on gates\n\nIt is told here at some length, in words of the same size.\n\n"
        "## On wheels\n\nIt is told here at some length, in words of the same size.\n"
    )


def test_hashes_and_fences_in_the_text_are_no_markup() -> None:
    found = _read(pdf(body("# not a heading"), body("``` no fence")))
    assert found.text == "    # not a heading\n    ``` no fence\n"


def test_an_encrypted_pdf_says_so() -> None:
    error = _refusal(pdf(body("Words."), password="secret"))
    assert (error.code, "password" in error.message) == ("encrypted_file", True)


def test_a_pdf_that_only_forbids_printing_is_read() -> None:
    assert _read(pdf(body("Words."), password="")).text == "Words.\n"


def test_a_scan_says_that_it_has_no_text_layer() -> None:
    error = _refusal(scanned_pdf())
    assert (error.code, "no text layer" in error.message) == ("no_text_layer", True)


def test_more_pages_than_allowed_are_refused_before_any_is_read() -> None:
    data = drawn_pdf(12, lambda canvas, page: canvas.drawString(100, 700, f"Page {page}."))
    error = _refusal(data, max_pages=10)
    assert (error.code, error.message) == (
        "file_too_complex",
        "The PDF has 12 pages; at most 10 are read. Split it.",
    )


def test_more_text_than_allowed_is_refused() -> None:
    error = _refusal(pdf(body(SENTENCE * 50)), max_chars=1000)
    assert error.code == "file_too_complex"


@pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"%PDF-1.7\n" + b"junk " * 500], ids=["head", "junk"])
def test_a_damaged_pdf_says_so(data: bytes) -> None:
    assert _refusal(data).code == "damaged_file"


def test_a_bold_line_with_room_around_it_is_a_heading_and_a_bold_word_is_none() -> None:
    found = _read(
        pdf(
            body("<b>Opening hours</b>"),
            body(SENTENCE * 4),
            body("<b>Never</b> open it by hand. " + SENTENCE * 4),
            body("<b>Warning</b> of the keeper. " * 3 + SENTENCE * 3),
        )
    )
    assert found.text.startswith("# Opening hours\n\nThe gate opens")
    assert found.text.count("#") == 1


def test_bullets_become_list_items() -> None:
    def draw(canvas: Canvas, _page: int) -> None:
        for number, words in enumerate(["• First of them", "• Second of them"]):
            canvas.drawString(100, 700 - 14 * number, words)

    assert _read(drawn_pdf(1, draw)).text == "- First of them\n- Second of them\n"


def test_two_columns_are_read_one_after_the_other() -> None:
    def draw(canvas: Canvas, _page: int) -> None:
        for column, words in enumerate(["left", "right"]):
            text = canvas.beginText(60 + 260 * column, 700)
            for number in range(6):
                text.textLine(f"This is line {number} of the {words} column here")
            canvas.drawText(text)

    words = _read(drawn_pdf(1, draw)).text.split()
    assert [word for word in words if word in ("left", "right")] == ["left"] * 6 + ["right"] * 6
