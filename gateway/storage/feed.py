"""What a follower that keeps no copy of the corpus to look things up in needs beside `corpus.tail`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from gateway.storage.changes import ChunkRow, chunk_query, removals_between
from gateway.storage.schema import chunks, collection_files

__all__ = ["attributes_of", "older_chunks", "published_ids", "removals_between"]

MAX_BOUND = 500  # values in one statement

Placed = tuple[str, str]  # collection, file


def attributes_of(conn: sa.Connection, places: Iterable[Placed]) -> dict[Placed, dict[str, Any]]:
    """Attributes as they are now, of those of the files that are still in their collections."""
    table, found = collection_files.c, {}
    wanted = list(dict.fromkeys(places))
    for start in range(0, len(wanted), MAX_BOUND):
        part = set(wanted[start : start + MAX_BOUND])
        query = sa.select(table.collection_id, table.file_id, table.attributes).where(
            table.file_id.in_({file_id for _, file_id in part})
        )
        for collection_id, file_id, attributes in conn.execute(query):
            if (collection_id, file_id) in part:
                found[collection_id, file_id] = attributes
    return found


def older_chunks(
    conn: sa.Connection, place: Placed, *, upto_epoch: int, after_id: int, limit: int
) -> list[ChunkRow]:
    """Chunks of a file that were published up to an epoch, in the order of their ids, a page at a time."""
    table = chunks.c
    query = (
        chunk_query()
        .where(
            table.collection_id == place[0],
            table.file_id == place[1],
            table.epoch <= upto_epoch,
            table.id > after_id,
        )
        .order_by(table.id)
        .limit(limit)
    )
    return [ChunkRow(*row) for row in conn.execute(query)]


def published_ids(
    conn: sa.Connection, after: int, upto: int, *, after_id: int, limit: int
) -> Sequence[tuple[int, str]]:
    """Id and embedder of the chunks of the epochs after < epoch <= upto, by id, a page at a time."""
    table = chunks.c
    query = (
        sa.select(table.id, table.embedder)
        .where(table.epoch > after, table.epoch <= upto, table.id > after_id)
        .order_by(table.id)
        .limit(limit)
    )
    return [(int(row[0]), str(row[1])) for row in conn.execute(query)]
