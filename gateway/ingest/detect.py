"""What a file is: by its bytes first, then by its text, and by its name only where neither tells."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from enum import StrEnum
from pathlib import PurePath

HEAD_BYTES = 4096

# (offset, magic bytes, what to call it). Text never begins like any of these.
_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF87a", "a GIF image"),
    (0, b"GIF89a", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (8, b"WAVE", "a WAV recording"),
    (4, b"ftyp", "a video or image (ISO media)"),
    (0, b"ID3", "an MP3 recording"),
    (0, b"OggS", "an Ogg recording"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (0, b"{\\rtf", "an RTF document"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "a program (ELF)"),
    (0, b"MZ\x90\0", "a program (Windows)"),
    (0, b"\xcf\xfa\xed\xfe", "a program (macOS)"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
)
# Zip containers that we cannot read, by the name of a member near the front.
_ZIP_MEMBERS = (
    (b"xl/", "an Excel workbook (xlsx)"),
    (b"ppt/", "a PowerPoint presentation (pptx)"),
    (b"application/epub+zip", "an EPUB book"),
    (b"application/vnd.oasis.opendocument", "an OpenDocument file"),
    (b"META-INF/", "a Java archive"),
)
_ZIP_ENDINGS = {"xlsx": "an Excel workbook (xlsx)", "pptx": "a PowerPoint presentation (pptx)"}
_PDF_REACH = 1024  # Acrobat takes a file whose header comes this late; some mailers put a line before it

_MARKDOWN = {"md", "markdown", "mdown", "mkd", "mdx", "qmd", "rmd"}
_HTML = {"html", "htm", "xhtml"}
_PROSE = {"", "txt", "text", "rst", "adoc", "asciidoc", "org", "tex", "eml"}
_TABLE = {"csv", "tsv", "tab"}
_JSON_LINES = {"jsonl", "ndjson"}
_JSON = {"json", "geojson", "ipynb"} | _JSON_LINES
_CODE = {
    *("py", "pyi", "js", "mjs", "cjs", "jsx", "ts", "tsx", "vue", "svelte", "css", "scss", "less", "dart"),
    *(
        "java",
        "kt",
        "kts",
        "scala",
        "groovy",
        "gradle",
        "go",
        "rs",
        "swift",
        "m",
        "mm",
        "zig",
        "nim",
        "v",
        "sv",
    ),
    *("c", "h", "cc", "cpp", "cxx", "hh", "hpp", "hxx", "cu", "cuh", "cs", "vb", "fs", "vhd", "cmake"),
    *(
        "rb",
        "php",
        "pl",
        "pm",
        "lua",
        "r",
        "jl",
        "ex",
        "exs",
        "erl",
        "hs",
        "ml",
        "mli",
        "clj",
        "cljs",
        "lisp",
        "el",
    ),
    *("sh", "bash", "zsh", "fish", "ps1", "sql", "proto", "graphql", "tf"),
}
_NUM_PROBED_LINES = 200
_NUM_PROBED_RECORDS = 5
_MIN_CODE_LINES = 8
_CODE_LINE = re.compile(
    r"[{};]\s*$|\)\s*:?\s*$|^\s*(?:#include|import|from|def|class|return|func|fn|const|let)\b"
)
_PROSE_LINE = re.compile(r"[.!?,]\s*$|^\s*(?:[A-Z]\S*\s+)?(?:[a-z']+\s+){4}")


class Format(StrEnum):
    """How a file is read."""

    PDF = "pdf"
    DOCX = "docx"
    HTML = "html"
    TABLE = "table"
    JSON = "json"
    JSON_LINES = "json_lines"
    MARKDOWN = "markdown"
    CODE = "code"
    LINES = "lines"
    PROSE = "prose"


def binary_format(head: bytes, filename: str) -> Format | None:
    """PDF or DOCX by the first HEAD_BYTES of a file (or all of it); None for everything else."""
    if b"%PDF-" in head[:_PDF_REACH] and not _is_text_about_pdf(head, filename):
        return Format.PDF
    if _is_zip(head) and (b"word/" in head or (_ending(filename) == "docx" and _zip_kind(head) is None)):
        return Format.DOCX
    return None


def unreadable_kind(head: bytes, filename: str) -> str | None:
    """What the file is, with its article, when it is a known format that cannot be read; else None."""
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    if _is_zip(head):
        return _zip_kind(head) or _ZIP_ENDINGS.get(_ending(filename), "a zip archive")
    return None


def text_format(text: str, filename: str) -> Format:
    """Of a decoded file. Costs one pass over the text at most, and where it begins like JSON a parse of it."""
    ending = _ending(filename)
    start = text[:HEAD_BYTES].lstrip().lower()
    if ending in _HTML or start.startswith(("<!doctype html", "<html")):
        return Format.HTML
    if ending in _MARKDOWN:
        return Format.MARKDOWN
    if ending in _CODE:
        return Format.CODE
    if start.startswith(("{", "[")) or ending in _JSON:
        found = _json_format(text, is_named=ending in _JSON_LINES)
        if found is not None:
            return found
    if ending in _TABLE:
        return Format.TABLE
    if ending not in _PROSE:
        return Format.CODE if start.startswith("#!") else Format.LINES
    if delimiter_of(text, is_named=False):
        return Format.TABLE
    return Format.CODE if start.startswith(("#!", "<?php")) or _is_code(text) else Format.PROSE


def delimiter_of(text: str, *, is_named: bool) -> str:
    """What separates the columns of a table, or empty when the text is none.

    is_named: its name says that it is a table, so two columns, or rows of unequal length, will do.
    """
    lines = text[: 64 * 1024].splitlines()[:_NUM_PROBED_LINES]
    found = [(_width(lines, delimiter, is_named=is_named), delimiter) for delimiter in "\t;,|"]
    width, delimiter = max(found, key=lambda pair: pair[0])
    return delimiter if width > 1 else ""


def _width(lines: list[str], delimiter: str, *, is_named: bool) -> int:
    """Columns that (nearly) all rows have; 0 = not a table with this delimiter."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return 0
    if not rows:
        return 0
    width, count = Counter(len(row) for row in rows).most_common(1)[0]
    if is_named:
        return width if count * 2 > len(rows) else 0
    num_spaced = sum(
        cell.startswith(" ") for row in rows for cell in row[1:]
    )  # as in a sentence, not in a table
    is_regular = len(rows) >= 4 and count == len(rows) and num_spaced * 4 < len(rows)
    return width if is_regular and width >= (3 if delimiter in ",|" else 2) else 0


def _json_format(text: str, *, is_named: bool) -> Format | None:
    """is_named: its name says that each line is a record, so one that is will do; else most of the first are."""
    try:
        json.loads(text)
    except RecursionError:
        return Format.JSON  # the reader says so
    except ValueError:
        lines = [line for line in text.split("\n", _NUM_PROBED_RECORDS)[:_NUM_PROBED_RECORDS] if line.strip()]
        num_records = sum(map(_is_record, lines))
        is_lines = num_records > 0 if is_named else num_records > 1 and 2 * num_records > len(lines)
        return Format.JSON_LINES if is_lines else None
    return Format.JSON


def _is_record(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _is_code(text: str) -> bool:
    """Most lines end or begin as in a program, and few read like prose."""
    lines = [line[:500] for line in text[: 64 * 1024].splitlines()[:_NUM_PROBED_LINES] if line.strip()]
    num_code = sum(_CODE_LINE.search(line) is not None for line in lines)
    num_prose = sum(_PROSE_LINE.search(line) is not None for line in lines)
    return len(lines) >= _MIN_CODE_LINES and num_code > 0.4 * len(lines) and num_prose < 0.3 * len(lines)


def _is_zip(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _zip_kind(head: bytes) -> str | None:
    return next((name for member, name in _ZIP_MEMBERS if member in head), None)


def _is_text_about_pdf(head: bytes, filename: str) -> bool:
    """A page that shows `%PDF-` in its text has it somewhere behind printable words, and another name."""
    before = head.partition(b"%PDF-")[0]
    return bool(before.strip()) and _ending(filename) != "pdf"


def _ending(filename: str) -> str:
    return PurePath(filename).suffix.lower().lstrip(".")
