"""Word documents: their structure survives, and what is made to do harm is refused before it is unfolded."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import docx
import pytest

from gateway.errors import Unprocessable
from gateway.ingest.docx import docx_to_markdown
from tests.fakes.documents import entity_bomb, escaping_zip, simple_word, with_part, word, zip_bomb, zipped

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def _build(document: docx.document.Document) -> None:
    document.add_heading("Guide to gates", 0)
    document.add_heading("Opening", 1)
    document.add_paragraph("The gate opens at dawn.")
    document.add_heading("Prices", 2)
    cells = document.add_table(2, 2)
    for row, words in enumerate([("item", "price"), ("nut", "1")]):
        for column, word_ in enumerate(words):
            cells.cell(row, column).text = word_
    document.add_paragraph("First", style="List Bullet")
    document.add_paragraph("Second", style="List Number")


def test_headings_tables_and_lists_are_kept() -> None:
    assert docx_to_markdown(word(_build)) == (
        "# Guide to gates\n\n# Opening\n\nThe gate opens at dawn.\n\n## Prices\n\nitem | price\nnut | 1\n\n"
        "- First\n\n- Second\n"
    )


def test_a_picture_is_left_out(tmp_path: Path) -> None:
    picture = tmp_path / "dot.png"
    picture.write_bytes(PNG)

    def build(document: docx.document.Document) -> None:
        document.add_paragraph("Before.")
        document.add_picture(str(picture))
        document.add_paragraph("After.")

    assert docx_to_markdown(word(build)) == "Before.\n\nAfter.\n"


def _refusal(data: bytes) -> Unprocessable:
    with pytest.raises(Unprocessable) as caught:
        docx_to_markdown(data)
    assert caught.value.message.endswith(".")
    return caught.value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (entity_bomb(), "declares a document type"),
        (zip_bomb(), "unfolds to"),
        (escaping_zip(), "lie outside"),
        (with_part(simple_word(), "/etc/passwd.xml", b"<x/>"), "lie outside"),
        (with_part(simple_word(), "C:\\x.xml", b"<x/>"), "lie outside"),
        (zipped({f"word/{number}": b"" for number in range(6000)}), "6000 parts"),
    ],
    ids=["entities", "ratio", "dots", "absolute", "drive", "parts"],
)
def test_what_is_made_to_do_harm_is_refused_at_once(data: bytes, words: str) -> None:
    began = time.process_time()
    error = _refusal(data)
    assert error.code == "file_too_complex"
    assert words in error.message
    assert time.process_time() - began < 2


def test_a_document_type_is_seen_in_any_encoding() -> None:
    part = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE w><w/>'.encode("utf-16")
    assert "document type" in _refusal(with_part(simple_word(), "word/document.xml", part)).message


def test_an_encrypted_member_says_so() -> None:
    data = bytearray(simple_word())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            data[at + offset] |= 1
    assert _refusal(bytes(data)).code == "encrypted_file"


@pytest.mark.parametrize(
    "data",
    [
        simple_word()[:2000],
        zipped({"word/other.xml": b"<x/>"}),
        with_part(simple_word(), "word/document.xml", b"<w:document><unclosed"),
        with_part(simple_word(), "word/document.xml", b""),
    ],
    ids=["cut off", "no document", "broken part", "empty part"],
)
def test_a_damaged_document_says_so(data: bytes) -> None:
    assert _refusal(data).code == "damaged_file"
