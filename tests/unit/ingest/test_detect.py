"""What a file is: bytes before text before name."""

from __future__ import annotations

import json

import pytest

from gateway.ingest.detect import Format, binary_format, delimiter_of, text_format, unreadable_kind
from tests.fakes.documents import JPEG, body, pdf, simple_word, zipped

PROSE = "The gate opens at dawn. Nobody, not even the keeper, closes it before night.\n" * 5
PYTHON = 'import os\n\n\ndef main() -> None:\n    """Start."""\n    print(os.getcwd())\n    return None\n' * 4
TABLE = "name,price,colour\nnut,1,red\nbolt,2,blue\nscrew,3,red\n"
LINES = '{"name": "nut"}\n{"name": "bolt"}\n{"name": "screw"}\n'


@pytest.mark.parametrize("filename", ["a.pdf", "a.txt", "a", "a.docx", "a.html"])
def test_a_pdf_is_a_pdf_under_every_name(filename: str) -> None:
    assert binary_format(pdf(body("Words."))[:4096], filename) is Format.PDF


@pytest.mark.parametrize("filename", ["a.docx", "a.zip", "a", "a.pdf"])
def test_a_word_document_is_one_under_every_name(filename: str) -> None:
    assert binary_format(simple_word()[:4096], filename) is Format.DOCX


def test_a_pdf_may_begin_late() -> None:
    assert binary_format(b"\r\n\n%PDF-1.4 ...", "mail.bin") is Format.PDF
    assert binary_format(b"HTTP/1.1 200 OK\r\n\r\n%PDF-1.4 ...", "a.pdf") is Format.PDF


def test_a_text_about_pdfs_is_none() -> None:
    assert binary_format(b"A PDF begins with %PDF-1.4 and a number.", "notes.txt") is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (JPEG, "a JPEG image"),
        (zipped({"xl/workbook.xml": b"x"}), "an Excel workbook (xlsx)"),
        (zipped({"a.txt": b"x"}), "a zip archive"),
        (b"PK\x05\x06" + b"\0" * 18, "a zip archive"),
    ],
    ids=["jpeg", "xlsx", "zip", "empty zip"],
)
def test_what_cannot_be_read_has_a_name(data: bytes, kind: str) -> None:
    assert binary_format(data, "a.bin") is None
    assert unreadable_kind(data, "a.bin") == kind


@pytest.mark.parametrize(
    ("text", "filename", "expected"),
    [
        ("<!DOCTYPE html><p>x", "a.txt", Format.HTML),
        ("\n <HTML lang=en>", "a", Format.HTML),
        ("words", "a.htm", Format.HTML),
        ("# Title", "a.md", Format.MARKDOWN),
        (PROSE, "a.txt", Format.PROSE),
        (PROSE, "a", Format.PROSE),
        ('{"a": 1}', "a.txt", Format.JSON),
        ('[{"a": 1}]', "dump", Format.JSON),
        (LINES, "a.txt", Format.JSON_LINES),
        (LINES, "a.json", Format.JSON_LINES),
        ('{"a": 1}\n{broken\n{"a": 2}', "a.txt", Format.JSON_LINES),
        ('{broken\n{"a": 1}\n', "a.jsonl", Format.JSON_LINES),
        ('{"a": 1}\n{"a": 2', "a.ndjson", Format.JSON_LINES),
        ("{broken\n{too\n", "a.jsonl", Format.LINES),
        ('{"a": 1}\nthen words', "a.txt", Format.PROSE),
        ("[note] see below", "a.txt", Format.PROSE),
        ("nothing of the kind", "a.json", Format.LINES),
        (TABLE, "a.txt", Format.TABLE),
        (TABLE, "a", Format.TABLE),
        ("name\nnut\n", "a.csv", Format.TABLE),
        (PYTHON, "a.py", Format.CODE),
        (PYTHON, "a.txt", Format.CODE),
        (PYTHON, "script", Format.CODE),
        ("#!/bin/sh\necho hi\n", "run", Format.CODE),
        ("#!/bin/sh\necho hi\n", "run.command", Format.CODE),
        ("key: value\n", "a.yaml", Format.LINES),
        ("12:00 start\n", "a.log", Format.LINES),
    ],
)
def test_text_is_known_by_its_content_and_then_by_its_name(
    text: str, filename: str, expected: Format
) -> None:
    assert text_format(text, filename) is expected


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "Dear Ann,\nthank you, as ever, for all.\nYours,\nBo\n",
        "one, two, three\nfour, five, six\nseven, eight, nine\nten, eleven, twelve\n",
        "a\nb\nc\nd\n",
    ],
    ids=["prose", "letter", "enumeration", "words"],
)
def test_prose_with_commas_is_no_table(text: str) -> None:
    assert text_format(text, "a.txt") is Format.PROSE


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_all_rows_have(delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in (["a", "b", "c"], ["1", "2,5", "3"], ["4", "5", '"x;y"']))
    assert delimiter_of(text, is_named=True) == delimiter


def test_json_nested_beyond_the_parser_is_still_json() -> None:
    assert text_format("[" * 100_000 + "]" * 100_000, "a.txt") is Format.JSON
    assert json.loads("[" * 50 + "]" * 50) is not None
