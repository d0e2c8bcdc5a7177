"""What changed after an epoch, in pages that never cut an epoch: the feed of the search index."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.storage.epochs import current_epoch
from gateway.storage.paging import AnySelect
from gateway.storage.schema import chunks, collection_files, files, removals
from gateway.types import DEFAULT_EMBEDDER


class ChunkRow(msgspec.Struct, frozen=True):
    """vector: float32 little-endian, unit length, as many numbers as the embedder gives."""

    id: int
    tenant_id: str
    collection_id: str
    file_id: str
    filename: str
    ordinal: int
    text: str
    start_char: int
    end_char: int
    heading: str
    vector: bytes
    epoch: int
    page: int = 0
    embedder: str = DEFAULT_EMBEDDER


class RemovalRow(msgspec.Struct, frozen=True):
    """file_id None = the whole collection."""

    epoch: int
    tenant_id: str
    collection_id: str
    file_id: str | None


class FileRow(msgspec.Struct, frozen=True):
    """What filters ask about a file of a collection. epoch: of the last change of its attributes."""

    tenant_id: str
    collection_id: str
    file_id: str
    attributes: dict[str, Any]
    epoch: int


class Tail(msgspec.Struct, frozen=True):
    """Changes up to `epoch`. Apply all removals first, then add the chunks: a chunk that some later removal
    meant is not in the table any more, so it is never among them. A chunk whose id is known already has another
    vector now, perhaps another embedder's, and takes the old one's place. files: those published, or whose attributes
    changed; their attributes hold for all of their chunks. more: ask again from `epoch` at once."""

    epoch: int
    chunks: list[ChunkRow]
    removals: list[RemovalRow]
    more: bool
    files: list[FileRow] = []


def tail(conn: sa.Connection, after_epoch: int, *, limit: int) -> Tail:
    """What changed after an epoch: about `limit` chunks and removals, never a part of an epoch.

    One epoch that alone holds more than `limit` comes whole. `conn` must see one snapshot, as `Database.read` gives.
    """
    current = current_epoch(conn)
    if current <= after_epoch:
        return Tail(after_epoch, [], [], False)
    columns = (chunks.c.epoch, removals.c.epoch, collection_files.c.epoch)
    bounds = (_last_whole_epoch(conn, column, after_epoch, limit) for column in columns)
    upto = min((bound for bound in bounds if bound is not None), default=current)
    return Tail(
        upto,
        _chunks_between(conn, after_epoch, upto),
        removals_between(conn, after_epoch, upto),
        more=upto < current,
        files=_files_between(conn, after_epoch, upto),
    )


def _last_whole_epoch(
    conn: sa.Connection, column: sa.ColumnElement[int], after: int, limit: int
) -> int | None:
    """The last epoch that still fits into `limit` rows; None when all of them fit."""
    first_left_out = sa.select(column).where(column > after).order_by(column).offset(limit).limit(1)
    cut = conn.execute(first_left_out).scalar()
    if cut is None:
        return None
    fits = conn.execute(sa.select(sa.func.max(column)).where(column > after, column < cut)).scalar()
    return int(fits) if fits is not None else int(cut)


def chunk_query() -> AnySelect:
    """Chunks with the names of their files, as `ChunkRow` takes them."""
    table = chunks.c
    return sa.select(
        table.id,
        table.tenant_id,
        table.collection_id,
        table.file_id,
        files.c.filename,
        table.ordinal,
        table.text,
        table.start_char,
        table.end_char,
        table.heading,
        table.vector,
        table.epoch,
        table.page,
        table.embedder,
    ).join(files, files.c.id == table.file_id)


def _chunks_between(conn: sa.Connection, after: int, upto: int) -> list[ChunkRow]:
    table = chunks.c
    query = chunk_query().where(table.epoch > after, table.epoch <= upto).order_by(table.epoch, table.id)
    return [ChunkRow(*row) for row in conn.execute(query)]


def removals_between(
    conn: sa.Connection, after: int, upto: int, *, limit: int | None = None
) -> list[RemovalRow]:
    """The removals of the epochs after < epoch <= upto, in order; never a part of the first epoch."""
    table = removals.c
    query = (
        sa.select(table.epoch, table.tenant_id, table.collection_id, table.file_id)
        .where(table.epoch > after, table.epoch <= upto)
        .order_by(table.epoch, table.id)
        .limit(limit)
    )
    found = [RemovalRow(*row) for row in conn.execute(query)]
    if limit is not None and len(found) == limit and found[0].epoch == found[-1].epoch:
        return removals_between(conn, after, found[0].epoch)
    return found


def _files_between(conn: sa.Connection, after: int, upto: int) -> list[FileRow]:
    table = collection_files.c
    query = (
        sa.select(table.tenant_id, table.collection_id, table.file_id, table.attributes, table.epoch)
        .where(table.epoch > after, table.epoch <= upto)
        .order_by(table.epoch)
    )
    return [FileRow(*row) for row in conn.execute(query)]
