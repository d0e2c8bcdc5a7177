"""What a file is, by its first bytes; the name only tells one kind of text from another."""

from __future__ import annotations

from pathlib import PurePath

HEAD_BYTES = 4096

# (offset, magic bytes, what to call it). Text never begins like any of these.
_MAGIC = (
    (0, b"%PDF-", "a PDF document"),
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
# Zip containers, by the name of a member near the front.
_ZIP_MEMBERS = (
    (b"word/", "a Word document (docx)"),
    (b"xl/", "an Excel workbook (xlsx)"),
    (b"ppt/", "a PowerPoint presentation (pptx)"),
    (b"application/epub+zip", "an EPUB book"),
    (b"application/vnd.oasis.opendocument", "an OpenDocument file"),
    (b"META-INF/", "a Java archive"),
)
_ENDINGS = {
    "docx": "a Word document (docx)",
    "xlsx": "an Excel workbook (xlsx)",
    "pptx": "a PowerPoint presentation (pptx)",
}
_MARKDOWN = {"md", "markdown", "mdown", "mkd", "mdx", "qmd", "rmd"}
_HTML = {"html", "htm", "xhtml"}
_PROSE = {"", "txt", "text", "rst", "adoc", "asciidoc", "org", "tex", "eml"}


def binary_kind(head: bytes, filename: str) -> str | None:
    """What the file is, with its article, when it is a known format that is not text; else None.

    head: the first HEAD_BYTES of it, or all.
    """
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        for member, name in _ZIP_MEMBERS:
            if member in head:
                return name
        return _ENDINGS.get(_ending(filename), "a zip archive")
    return None


def text_kind(text: str, filename: str) -> str:
    """`markdown`, `html`, `csv`, `prose` or `lines` (source code, JSON, logs: anything that lives by lines)."""
    ending = _ending(filename)
    start = text[:HEAD_BYTES].lstrip().lower()
    if ending in _HTML or start.startswith(("<!doctype html", "<html")):
        return "html"
    if ending in _MARKDOWN:
        return "markdown"
    if ending in {"csv", "tsv"}:
        return "csv"
    return "prose" if ending in _PROSE else "lines"


def _ending(filename: str) -> str:
    return PurePath(filename).suffix.lower().lstrip(".")
