"""From the bytes of a file to its stored text: the one that chunk offsets and citations point into."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath

from gateway.errors import Unprocessable
from gateway.ingest.blocks import Style
from gateway.ingest.detect import HEAD_BYTES, Format, binary_format, text_format, unreadable_kind
from gateway.ingest.encoding import decode_text
from gateway.ingest.records import json_lines_to_markdown, json_to_markdown, table_to_text

SUPPORTED = "text, Markdown, HTML, PDF, Word (docx), CSV, JSON and source code"

_STYLES = {
    Format.PROSE: Style.PROSE,
    Format.CODE: Style.CODE,
    Format.LINES: Style.LINES,
    Format.TABLE: Style.LINES,
}  # all others are told as Markdown
# JSON can name both by their numbers; PostgreSQL has no place for the one, UTF-8 none for the others.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MAX_GROWTH = 8  # rows of a table repeat the names of its columns
_OFFICE_ENCRYPTED = "EncryptedPackage".encode(
    "utf-16-le"
)  # a stream in the old container that Office wraps around


@dataclass(frozen=True, slots=True)
class Source:
    """A file whose format is known. text: decoded, with `\\n` newlines only; empty for PDF and DOCX."""

    format: Format
    data: bytes
    text: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether its text is stored as it is: no parser is needed, and none can be tricked."""
        return self.format in {Format.PROSE, Format.MARKDOWN, Format.CODE, Format.LINES}


@dataclass(frozen=True, slots=True)
class Document:
    """text: with `\\n` newlines only. page_starts[n]: where page n + 1 begins in it; empty without pages."""

    text: str
    style: Style
    page_starts: list[int] = field(default_factory=list)


def parse_file(data: bytes, filename: str, *, max_pages: int = 2000, max_chars: int = 16_000_000) -> Document:
    """The file's text, structure and pages. Raises: Unprocessable, see `recognised` and `parsed`."""
    return parsed(recognised(data, filename), max_pages=max_pages, max_chars=max_chars)


def recognised(data: bytes, filename: str) -> Source:
    """The file's format, by its content; its name decides only where the content does not.

    Raises: Unprocessable with code `empty_file`, `encrypted_file` or `unsupported_file`, and a sentence for people.
    """
    if not data:
        raise Unprocessable("The file is empty.", code="empty_file")
    head = data[:HEAD_BYTES]
    binary = binary_format(head, filename)
    if binary is not None:
        return Source(binary, data)
    kind = unreadable_kind(head, filename)
    if kind is not None:
        raise _unreadable(kind, data, filename)
    text = decode_text(data).replace("\r\n", "\n").replace("\r", "\n")
    return Source(text_format(text, filename), data, text)


def parsed(source: Source, *, max_pages: int, max_chars: int) -> Document:
    """The text to store. Parsers trust their input with time and memory.

    max_chars: of the text; a large file may have _MAX_GROWTH characters for each of its bytes.
    Raises: Unprocessable with code `empty_file`, `encrypted_file`, `damaged_file`, `no_text_layer` or
    `file_too_complex`.
    """
    max_chars = max(max_chars, _MAX_GROWTH * len(source.data))
    text, page_starts = _read(source, max_pages, max_chars)
    if len(text) > max_chars:
        raise Unprocessable(
            f"The file unfolds to {len(text)} characters of text; at most {max_chars} are read.",
            code="file_too_complex",
        )
    if not text or text.isspace():
        raise Unprocessable("The file holds no text.", code="empty_file")
    text = _UNSTORABLE.sub("\ufffd", text)
    return Document(text, _STYLES.get(source.format, Style.MARKDOWN), page_starts)


def _read(source: Source, max_pages: int, max_chars: int) -> tuple[str, list[int]]:
    """Imports are inside: most processes that know this module never read such a file."""
    if source.format is Format.PDF:
        from gateway.ingest.pdf import pdf_to_markdown

        laid = pdf_to_markdown(source.data, max_pages=max_pages, max_chars=max_chars)
        return laid.text, laid.page_starts
    if source.format is Format.DOCX:
        from gateway.ingest.docx import docx_to_markdown

        return docx_to_markdown(source.data), []
    if source.format is Format.HTML:
        from gateway.ingest.html_text import html_to_markdown

        return html_to_markdown(source.text), []
    if source.format is Format.TABLE:
        return table_to_text(source.text), []
    if source.format is Format.JSON:
        return json_to_markdown(source.text), []
    if source.format is Format.JSON_LINES:
        return json_lines_to_markdown(source.text), []
    return source.text, []


def _unreadable(kind: str, data: bytes, filename: str) -> Unprocessable:
    if _OFFICE_ENCRYPTED in data:
        return Unprocessable(
            "The Office document is encrypted; upload it without a password.", code="encrypted_file"
        )
    ending = PurePath(filename).suffix.lower()
    claim = (
        f", whatever the .{ending[1:]} of its name says"
        if ending[1:] and ending[1:] not in kind.lower()
        else ""
    )
    return Unprocessable(
        f"This file is {kind}{claim}, which cannot be read. Readable are {SUPPORTED}.",
        code="unsupported_file",
    )
