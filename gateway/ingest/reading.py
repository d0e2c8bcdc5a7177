"""From the bytes of a file to its stored text and its chunks. Pure; trusts its input with time and memory."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.ingest.chunking import chunk_text
from gateway.ingest.html_text import html_to_markdown
from gateway.ingest.parse import parse_file


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """Where a chunk lies: text[start:end]. heading: what it stands under, or empty."""

    start: int
    end: int
    heading: str


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """text: what is stored, and what the cuts point into."""

    text: str
    cuts: list[Cut]


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """Aimed-at length of a chunk and what neighbours share, in characters."""

    chunk_chars: int
    overlap_chars: int


def read_document(
    data: bytes, filename: str, limits: Limits, *, read_html: Callable[[str], str] = html_to_markdown
) -> Reading:
    """Raises: Unprocessable, see `parse_file`."""
    document = parse_file(data, filename, read_html=read_html)
    found = chunk_text(
        document.text,
        max_chars=limits.chunk_chars,
        overlap_chars=limits.overlap_chars,
        style=document.style,
    )
    return Reading(
        document.text, [Cut(each.start, each.end, each.heading or document.title) for each in found]
    )
