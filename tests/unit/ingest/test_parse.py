"""From bytes to stored text: which reader a file gets, and what is said when there is none."""

from __future__ import annotations

import random

import pytest

from gateway.errors import Unprocessable
from gateway.ingest.chunking import Style
from gateway.ingest.parse import Document, parse_file
from tests.fakes.documents import JPEG, body, heading, pdf, simple_word, zipped

OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500


def _refusal(data: bytes, filename: str = "upload.bin") -> Unprocessable:
    with pytest.raises(Unprocessable) as caught:
        parse_file(data, filename)
    return caught.value


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "Grüße, 世界 🙂"),
        ("utf-8-sig", "Grüße"),
        ("utf-16", "Grüße, 世界"),
        ("utf-16-le", "plain enough without a mark"),
        ("utf-16-be", "plain enough without a mark"),
        ("utf-32", "Grüße"),
        ("cp1252", "It costs 5 €, “said” Grüße"),
        ("ascii", "plain"),
    ],
)
def test_text_is_read_in_its_encoding(encoding: str, text: str) -> None:
    assert parse_file(text.encode(encoding), "a.txt").text == text


def test_newlines_become_one_kind() -> None:
    assert parse_file(b"a\r\nb\rc\nd", "a.txt").text == "a\nb\nc\nd"


@pytest.mark.parametrize(
    ("filename", "data"),
    [
        ("a.json", rb'{"na\u0000me": "x\u0000y \ud800z \ud83d\ude42"}'),
        ("a.jsonl", rb'{"na\u0000me": "x\u0000y \ud800z \ud83d\ude42"}' + b'\n{"b": 1}\n'),
        ("a.html", "<p>na&#0;me: x&#0;y &#xD800;z 🙂</p>".encode()),
    ],
)
def test_what_no_database_can_hold_is_replaced_in_the_text(filename: str, data: bytes) -> None:
    found = parse_file(data, filename).text
    assert "na\ufffdme: x\ufffdy \ufffdz 🙂" in found
    assert found.encode().find(b"\0") == -1


def test_one_broken_character_does_not_garble_the_rest() -> None:
    data = "äöü ".encode() * 50 + b"\xc3"
    assert parse_file(data, "a.log").text == "äöü " * 50 + "\ufffd"


@pytest.mark.parametrize(
    ("filename", "data", "style"),
    [
        ("README.md", b"word", Style.MARKDOWN),
        ("page.HTML", b"word", Style.MARKDOWN),
        ("notes.txt", b"word", Style.PROSE),
        ("LICENSE", b"word", Style.PROSE),
        ("main.py", b"word", Style.CODE),
        ("data.json", b"[1]", Style.MARKDOWN),
        ("data.csv", b"a,b\n1,2\n", Style.LINES),
        ("server.log", b"word", Style.LINES),
        ("a.pdf", pdf(body("word")), Style.MARKDOWN),
        ("a.docx", simple_word(), Style.MARKDOWN),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_format_is_cut_in_its_own_way(filename: str, data: bytes, style: Style) -> None:
    assert parse_file(data, filename).style is style


def test_a_table_names_the_values_of_each_row() -> None:
    document = parse_file(b"name,price\nnut,1\n", "parts.csv")
    assert document == Document("- name: nut; price: 1\n", Style.LINES)


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx", "a.html", "a.json"])
@pytest.mark.parametrize("data", [b"", b" \n\t", b"\xef\xbb\xbf"], ids=["zero bytes", "space", "mark"])
def test_a_file_without_text_is_refused(data: bytes, name: str) -> None:
    assert _refusal(data, name).code == "empty_file"


def test_a_page_without_text_is_refused() -> None:
    assert _refusal(b"<html><script>x</script></html>", "a.txt").code == "empty_file"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG image"),
        (JPEG, "a JPEG image"),
        (zipped({"xl/workbook.xml": b"x"}), "an Excel workbook"),
        (zipped({"a.txt": b"x"}), "a zip archive"),
        (OLD_OFFICE, "an old Office document"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"text with a \0 inside", "binary data"),
        (b"\x80\x81\x01\x02 no encoding", "binary data"),
        (b"\xff\xfe\x00\xd8", "binary data"),
    ],
)
def test_other_formats_are_refused_by_name(data: bytes, name: str) -> None:
    error = _refusal(data)
    assert error.code == "unsupported_file"
    assert name in error.message


def test_a_picture_named_pdf_is_called_a_picture() -> None:
    error = _refusal(JPEG, "holiday.PDF")
    assert error.code == "unsupported_file"
    assert error.message.startswith(
        "This file is a JPEG image, whatever the .pdf of its name says, which cannot be read. Readable are text, "
    )


def test_an_encrypted_office_document_is_called_encrypted() -> None:
    error = _refusal(OLD_OFFICE + "EncryptedPackage".encode("utf-16-le"), "secret.docx")
    assert error.code == "encrypted_file"
    assert "password" in error.message


def test_a_file_is_judged_by_its_bytes_not_its_name() -> None:
    assert parse_file(pdf(heading("Gate"), body("It opens.")), "harmless.txt").text == "# Gate\n\nIt opens.\n"
    assert parse_file(simple_word("It opens."), "old.pdf").text == "It opens.\n"
    assert parse_file(b"just words", "image.png").text == "just words"
    assert parse_file(b"just words", "a.pdf").text == "just words"


def test_text_that_unfolds_beyond_the_cap_is_refused() -> None:
    rows = b"a rather long name of a column,b\n" + b"1,2\n" * 1000
    most = 8 * len(rows)
    with pytest.raises(
        Unprocessable, match=f"unfolds to .* characters of text; at most {most} are read"
    ) as caught:
        parse_file(rows, "a.csv", max_chars=5000)
    assert caught.value.code == "file_too_complex"


def test_a_long_text_may_be_as_long_as_its_file() -> None:
    assert len(parse_file(b"word " * 2000, "a.txt", max_chars=5000).text) == 10_000
    assert len(parse_file(b"name,price\n" + b"nut,10\n" * 2000, "a.csv", max_chars=5000).text) > 40_000


def test_random_bytes_are_read_or_refused_and_nothing_else() -> None:
    rng = random.Random(3)
    codes = {_code_of(rng.randbytes(rng.randrange(200)), rng.choice(["a.txt", "a.html"])) for _ in range(500)}
    assert codes <= {"", "empty_file", "unsupported_file"}


@pytest.mark.parametrize("whole", [pdf(body("Words. " * 50)), simple_word()], ids=["pdf", "docx"])
def test_a_damaged_document_is_read_or_refused_with_a_sentence(whole: bytes) -> None:
    rng = random.Random(7)
    codes = set()
    for _ in range(30):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 10, 200])):
            data[rng.randrange(8, len(data))] = rng.randrange(256)
        codes.add(_code_of(bytes(data[: rng.randrange(100, len(data))] if rng.random() < 0.3 else data), "a"))
    known = {"", "damaged_file", "empty_file", "no_text_layer", "encrypted_file", "file_too_complex"}
    assert codes <= known | {"unsupported_file"}
    assert len(codes) > 1


def _code_of(data: bytes, filename: str) -> str:
    """The error's code, or empty when the file could be read."""
    try:
        parse_file(data, filename)
    except Unprocessable as error:
        return error.code if error.message.endswith(".") else f"no sentence: {error.message}"
    return ""
