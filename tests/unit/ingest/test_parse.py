from __future__ import annotations

import io
import random
import zipfile

import pytest

from gateway.errors import Unprocessable
from gateway.ingest.chunking import Style
from gateway.ingest.parse import Document, parse_file


def _refusal(data: bytes, filename: str = "upload.bin") -> Unprocessable:
    with pytest.raises(Unprocessable) as caught:
        parse_file(data, filename)
    return caught.value


def _zip(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return out.getvalue()


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


def test_one_broken_character_does_not_garble_the_rest() -> None:
    data = "äöü ".encode() * 50 + b"\xc3"
    assert parse_file(data, "a.log").text == "äöü " * 50 + "\ufffd"


@pytest.mark.parametrize(
    ("filename", "style"),
    [
        ("README.md", Style.MARKDOWN),
        ("page.HTML", Style.MARKDOWN),
        ("notes.txt", Style.PROSE),
        ("LICENSE", Style.PROSE),
        ("main.py", Style.LINES),
        ("data.json", Style.LINES),
    ],
)
def test_the_name_tells_the_kind_of_text(filename: str, style: Style) -> None:
    assert parse_file(b"word", filename).style is style


def test_a_table_is_titled_by_its_columns() -> None:
    document = parse_file(b"name,price\nnut,1\n", "parts.csv")
    assert document == Document("name,price\nnut,1\n", Style.LINES, "name,price")


@pytest.mark.parametrize("data", [b"", b" \n\t", b"\xef\xbb\xbf", b"<html><script>x</script></html>"])
def test_a_file_without_text_is_refused(data: bytes) -> None:
    assert _refusal(data, "a.txt").code == "empty_file"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7\n...", "a PDF document"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (_zip("[Content_Types].xml", "word/document.xml"), "a Word document"),
        (_zip("xl/workbook.xml"), "an Excel workbook"),
        (_zip("a.txt"), "a zip archive"),
        (_zip(), "a zip archive"),
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


def test_a_file_is_judged_by_its_bytes_not_its_name() -> None:
    assert "PDF" in _refusal(b"%PDF-1.4", "harmless.txt").message
    assert parse_file(b"just words", "image.png").text == "just words"


def test_random_bytes_are_read_or_refused_and_nothing_else() -> None:
    rng = random.Random(3)
    codes = {_code_of(rng.randbytes(rng.randrange(200)), rng.choice(["a.txt", "a.html"])) for _ in range(500)}
    assert codes <= {"", "empty_file", "unsupported_file"}


def _code_of(data: bytes, filename: str) -> str:
    """The error's code, or empty when the file could be read."""
    try:
        parse_file(data, filename)
    except Unprocessable as error:
        return error.code
    return ""


HTML = """<!doctype html><html><head><title>The  Guide</title><style>p {}</style></head>
<body><nav>Home</nav><h1>Guide</h1>
<p>First &amp; <b>bold</b>
words.</p><script>alert(1)</script>
<h2 id=x>Install</h2><pre><code>make run
  # not a heading</code></pre>
<ul><li>one</li><li>two</li></ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
</body></html>"""


def test_html_keeps_headings_lists_tables_and_code() -> None:
    text = parse_file(HTML.encode(), "guide.html").text
    assert text == (
        "# The Guide\n\nHome\n\n# Guide\n\nFirst & bold words.\n\n## Install\n\n"
        "```\nmake run\n  # not a heading\n```\n\n- one\n- two\n\na | b\n1 | 2\n"
    )


@pytest.mark.parametrize(
    "html", ["<p>a<script>b", "<pre>a", "<head><p>", "</p></pre></script>x", "<!--", "<"]
)
def test_broken_html_is_read_as_well_as_it_goes(html: str) -> None:
    assert _code_of(html.encode(), "a.html") in {"", "empty_file"}
