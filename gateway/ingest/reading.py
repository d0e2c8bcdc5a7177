"""From the bytes of a file to its stored text and its chunks. Pure; trusts its input with time and memory."""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from gateway.ingest.chunking import chunk_text
from gateway.ingest.parse import Source, parsed, recognised


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """Where a chunk lies: text[start:end]. heading: the path that it stands under, or empty. page: 1-based, of
    `start`; 0 = the format has no pages."""

    start: int
    end: int
    heading: str
    page: int = 0


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """text: what is stored, and what the cuts point into. page_starts: as in parse.Document."""

    text: str
    cuts: list[Cut]
    page_starts: list[int] = []


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """chunk_chars: aimed-at length of a chunk. overlap_chars: what neighbours share. max_text_chars: what a file may
    unfold to."""

    chunk_chars: int
    overlap_chars: int
    max_pages: int = 2000
    max_text_chars: int = 16_000_000


def read_document(data: bytes, filename: str, limits: Limits) -> Reading:
    """Raises: Unprocessable, see `recognised` and `parsed`."""
    return read_source(recognised(data, filename), limits)


def read_source(source: Source, limits: Limits) -> Reading:
    """Raises: Unprocessable, see `parsed`."""
    document = parsed(source, max_pages=limits.max_pages, max_chars=limits.max_text_chars)
    found = chunk_text(
        document.text,
        max_chars=limits.chunk_chars,
        overlap_chars=limits.overlap_chars,
        style=document.style,
    )
    pages = document.page_starts
    return Reading(
        document.text,
        [Cut(each.start, each.end, each.heading, bisect_right(pages, each.start)) for each in found],
        pages,
    )
