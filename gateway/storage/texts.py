"""The stored text of a file, read by characters: a part of it, and where in the document that part stands."""

from __future__ import annotations

import codecs
from pathlib import Path

import msgspec
import sqlalchemy as sa

from gateway.storage.match import equals
from gateway.storage.schema import chunks

BLOCK_BYTES = 1 << 20


class Slice(msgspec.Struct, frozen=True):
    """text: characters start..end of the whole, which has num_chars."""

    text: str
    num_chars: int


class Spot(msgspec.Struct, frozen=True):
    """page: 1-based; 0 = the format has no pages. heading: `Guide > Install`, or empty."""

    page: int = 0
    heading: str = ""


def read_slice(path: Path, start: int, end: int | None) -> Slice | None:
    """Characters start..end (None = to the end) of a UTF-8 file, in memory of that size; None when there is no file.

    What lies beyond the end is left out: the caller compares with num_chars.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    parts: list[str] = []
    at = 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                text = decoder.decode(block)
                upto = len(text) if end is None else max(0, end - at)
                parts.append(text[max(0, start - at) : upto])
                at += len(text)
    except FileNotFoundError:
        return None
    return Slice("".join(parts), at)


def spot_of(conn: sa.Connection, tenant_id: str, file_id: str, start: int) -> Spot:
    """Page and heading of the last chunk that begins at or before a character; empty when the file has no chunks."""
    query = (
        sa.select(chunks.c.page, chunks.c.heading)
        .where(
            chunks.c.tenant_id == tenant_id, equals(chunks.c.file_id, file_id), chunks.c.start_char <= start
        )
        .order_by(chunks.c.start_char.desc())
        .limit(1)
    )
    row = conn.execute(query).first()
    return Spot(row.page, row.heading) if row else Spot()
