"""From the bytes of a file to its stored text: the one that chunk offsets and citations point into."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import Unprocessable
from gateway.ingest.chunking import Style
from gateway.ingest.detect import HEAD_BYTES, binary_kind, text_kind
from gateway.ingest.html_text import html_to_markdown

_MAX_TITLE_CHARS = 200
_STYLES = {
    "markdown": Style.MARKDOWN,
    "html": Style.MARKDOWN,  # html_to_markdown keeps headings and code as Markdown
    "prose": Style.PROSE,
    "csv": Style.LINES,
    "lines": Style.LINES,
}
# UTF-32's mark begins with UTF-16's, so it is asked first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Bytes that no text in an 8-bit encoding has: control characters but tab, newlines, form feed and escape.
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\v\f\r\x1b")) + b"\x7f"
_MAX_BROKEN_SHARE = 0.05  # of the non-ASCII characters, before it cannot have been UTF-8


@dataclass(frozen=True, slots=True)
class Document:
    """text: with `\\n` newlines only. title: what a chunk without a heading stands under, or empty."""

    text: str
    style: Style
    title: str = ""


def parse_file(data: bytes, filename: str, *, read_html: Callable[[str], str] = html_to_markdown) -> Document:
    """The file's text. read_html: HTML to Markdown; the default trusts its input with time and memory.

    Raises: Unprocessable with code `empty_file` or `unsupported_file` and a sentence for the uploader.
    """
    kind = binary_kind(data[:HEAD_BYTES], filename)
    if kind is not None:
        raise Unprocessable(
            f"This file is {kind}, which is not supported yet; upload its text instead.",
            code="unsupported_file",
        )
    text = decode_text(data).replace("\r\n", "\n").replace("\r", "\n")
    form, title = text_kind(text, filename), ""
    if form == "html":
        text = read_html(text)
    elif form == "csv":
        title = text.lstrip().partition("\n")[0][:_MAX_TITLE_CHARS]  # the columns' names
    if not text or text.isspace():
        raise Unprocessable("The file holds no text.", code="empty_file")
    return Document(text, _STYLES[form], title)


def decode_text(data: bytes) -> str:
    """UTF-8, UTF-16 and UTF-32 (by mark; UTF-16 also by its zeros), else Windows-1252.

    Raises: Unprocessable `unsupported_file` when the bytes are not text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding)
    encoding = _utf16_by_zeros(data[:HEAD_BYTES])
    if encoding:
        return _strict(data, encoding)
    if b"\0" in data:
        raise _not_text("it holds zero bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _almost_utf8(data) or _windows_1252(data)


def _strict(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise _not_text(f"it begins like {encoding.upper()} but is not") from None
    if "\0" in text:
        raise _not_text("it holds zero characters")
    return text


def _utf16_by_zeros(head: bytes) -> str:
    """Mostly Latin text in UTF-16 has a zero in nearly every second byte, and none in the others."""
    even, odd = head[0::2], head[1::2]
    if len(head) >= 4 and odd.count(0) > 0.6 * len(odd) and 0 not in even:
        return "utf-16-le"
    if len(head) >= 4 and even.count(0) > 0.6 * len(even) and 0 not in odd:
        return "utf-16-be"
    return ""


def _almost_utf8(data: bytes) -> str:
    """UTF-8 with a few broken characters (a cut-off log, say), broken ones replaced; else empty."""
    text = data.decode(errors="replace")
    num_foreign = sum(char > "\x7f" for char in text)
    broken = text.count("\N{REPLACEMENT CHARACTER}")
    return text if broken <= max(1, num_foreign) * _MAX_BROKEN_SHARE else ""


def _windows_1252(data: bytes) -> str:
    if len(data.translate(None, _CONTROLS)) < len(data):
        raise _not_text("it holds control bytes")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:  # five bytes mean nothing there
        return data.decode("latin-1")


def _not_text(why: str) -> Unprocessable:
    return Unprocessable(f"This file is binary data, not text: {why}.", code="unsupported_file")
