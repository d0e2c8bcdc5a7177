"""Chunks and vectors: the ingest queue on one side, the feed of the search index on the other.

The queue is the table `collection_files`. A worker holds an item by its lease: `lease_until` is at once the
time and the token, so a worker whose lease was taken over can change nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from gateway.storage.epochs import current_epoch, next_epoch, remove_chunks, stamp_collection
from gateway.storage.paging import AnySelect
from gateway.storage.schema import chunks, collection_files, files, removals
from gateway.types import DEFAULT_EMBEDDER

__all__ = [
    "ChunkRow",
    "FileRow",
    "NewChunk",
    "RemovalRow",
    "Tail",
    "WorkItem",
    "claim",
    "current_epoch",
    "fail",
    "has_work",
    "known_vectors",
    "next_epoch",
    "publish",
    "release",
    "renew",
    "tail",
]

MAX_ATTEMPTS = 3
MAX_MESSAGE_CHARS = 1000  # of the error_message column
MAX_KNOWN_VECTORS = 50_000  # bounds the memory of one re-ingest (75 MB of vectors)


class WorkItem(msgspec.Struct):
    """A claimed file. lease_until changes with every renewal; attempts counts this one."""

    collection_id: str
    file_id: str
    tenant_id: str
    filename: str
    num_bytes: int
    sha256: str
    attempts: int
    lease_until: float


class NewChunk(msgspec.Struct, frozen=True):
    """start and end: characters into the stored text, text == stored[start:end]. page: 1-based; 0 = no pages."""

    start: int
    end: int
    text: str
    heading: str = ""
    page: int = 0


class ChunkRow(msgspec.Struct, frozen=True):
    """vector: float32 little-endian, unit length."""

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
    meant is not in the table any more, so it is never among them. files: those published, or whose attributes
    changed; their attributes hold for all of their chunks. more: ask again from `epoch` at once."""

    epoch: int
    chunks: list[ChunkRow]
    removals: list[RemovalRow]
    more: bool
    files: list[FileRow] = []


def has_work(conn: sa.Connection, *, now: float) -> bool:
    """Cheap enough to ask several times a second; needs no write lock."""
    return conn.execute(sa.select(sa.literal(1)).where(_is_claimable(now)).limit(1)).first() is not None


def claim(conn: sa.Connection, *, lease_s: float, now: float) -> WorkItem | None:
    """Lease the oldest file that nobody works on. One that has killed its worker too often is failed instead.

    now: unix seconds. Needs a write transaction.
    """
    table = collection_files.c
    oldest = (
        sa.select(
            table.collection_id,
            table.file_id,
            table.tenant_id,
            files.c.filename,
            files.c.num_bytes,
            files.c.sha256,
            table.attempts,
            table.lease_until,
        )
        .join(files, files.c.id == table.file_id)
        .where(_is_claimable(now))
        .order_by(table.created_at, table.file_id)
        .limit(1)
        .with_for_update(skip_locked=True, of=collection_files)
    )
    while row := conn.execute(oldest).first():
        item = WorkItem(*row)
        if item.attempts >= MAX_ATTEMPTS:
            fail(conn, item, "server_error", "The file could not be processed, and was tried several times.")
            continue
        claimed = msgspec.structs.replace(item, attempts=item.attempts + 1, lease_until=now + lease_s)
        _change(conn, item, attempts=claimed.attempts, lease_until=claimed.lease_until)
        return claimed
    return None


def renew(
    conn: sa.Connection, item: WorkItem, *, lease_s: float, now: float, chunks_done: int, num_chunks: int
) -> bool:
    """Prolong the lease and tell the progress. False: the item is not ours any more; stop working on it."""
    until = now + lease_s
    if not _change(conn, item, lease_until=until, chunks_done=chunks_done, num_chunks=num_chunks):
        return False
    item.lease_until = until
    return True


def release(conn: sa.Connection, item: WorkItem) -> bool:
    """Hand the item back unfinished: claimable at once, the attempt not counted."""
    return _change(conn, item, lease_until=0.0, attempts=max(0, item.attempts - 1))


def fail(conn: sa.Connection, item: WorkItem, code: str, message: str) -> bool:
    """End the item with a public code and message. False when it is not ours any more."""
    shown = message[:MAX_MESSAGE_CHARS]
    return _change(conn, item, status="failed", error_code=code, error_message=shown, lease_until=0.0)


def publish(
    conn: sa.Connection, item: WorkItem, new: Sequence[NewChunk], vectors: npt.NDArray[np.float32]
) -> int | None:
    """Make the file searchable: in this one transaction its old chunks go, the new ones come, and it is done.

    Shapes: vectors [len(new), D], unit length. Returns: the epoch, or None when the file left the
    collection or the lease was lost; then nothing has changed.
    """
    if vectors.shape[:1] != (len(new),):
        raise ValueError(f"{len(new)} chunks but vectors of shape {vectors.shape}")
    done = {
        "status": "completed",
        "num_chunks": len(new),
        "chunks_done": len(new),
        "usage_bytes": sum(len(chunk.text.encode()) for chunk in new) + vectors.nbytes,
        "error_code": None,
        "error_message": None,
        "lease_until": 0.0,
    }
    if not _change(conn, item, **done):
        return None
    epoch = next_epoch(conn)
    conn.execute(sa.update(collection_files).where(_is_item(item)).values(epoch=epoch))
    remove_chunks(conn, item.tenant_id, item.collection_id, item.file_id, epoch)
    if len(new):
        conn.execute(sa.insert(chunks), _rows(item, new, vectors, epoch))
    stamp_collection(conn, item.collection_id, epoch)
    return epoch


def known_vectors(
    conn: sa.Connection, tenant_id: str, *, sha256: str, filename: str
) -> dict[tuple[str, str], bytes]:
    """Vectors by (heading, text) that this tenant already has for equal bytes or an older file of this name.

    What is embedded is a function of heading and text alone, so equal pairs need no second embedding.
    """
    query = (
        sa.select(chunks.c.heading, chunks.c.text, chunks.c.vector)
        .join(files, files.c.id == chunks.c.file_id)
        .where(
            files.c.tenant_id == tenant_id,
            chunks.c.tenant_id == tenant_id,
            (files.c.sha256 == sha256) | (files.c.filename == filename),
        )
        .limit(MAX_KNOWN_VECTORS)
    )
    return {(heading, text): vector for heading, text, vector in conn.execute(query)}


def tail(conn: sa.Connection, after_epoch: int, *, limit: int) -> Tail:
    """What changed after an epoch: about `limit` chunks and removals, never a part of an epoch.

    One epoch that alone holds more than `limit` comes whole.
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
        _removals_between(conn, after_epoch, upto),
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


def _chunks_between(conn: sa.Connection, after: int, upto: int) -> list[ChunkRow]:
    table = chunks.c
    query: AnySelect = (
        sa.select(
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
        )
        .join(files, files.c.id == table.file_id)
        .where(table.epoch > after, table.epoch <= upto)
        .order_by(table.epoch, table.id)
    )
    return [ChunkRow(*row) for row in conn.execute(query)]


def _removals_between(conn: sa.Connection, after: int, upto: int) -> list[RemovalRow]:
    query = (
        sa.select(removals.c.epoch, removals.c.tenant_id, removals.c.collection_id, removals.c.file_id)
        .where(removals.c.epoch > after, removals.c.epoch <= upto)
        .order_by(removals.c.id)
    )
    return [RemovalRow(*row) for row in conn.execute(query)]


def _files_between(conn: sa.Connection, after: int, upto: int) -> list[FileRow]:
    table = collection_files.c
    query = (
        sa.select(table.tenant_id, table.collection_id, table.file_id, table.attributes, table.epoch)
        .where(table.epoch > after, table.epoch <= upto)
        .order_by(table.epoch)
    )
    return [FileRow(*row) for row in conn.execute(query)]


def _is_claimable(now: float) -> sa.ColumnElement[bool]:
    table = collection_files.c
    return sa.and_(table.status == "in_progress", table.lease_until < now)


def _is_item(item: WorkItem) -> sa.ColumnElement[bool]:
    table = collection_files.c
    return sa.and_(
        table.collection_id == item.collection_id,
        table.file_id == item.file_id,
        table.tenant_id == item.tenant_id,
    )


def _change(conn: sa.Connection, item: WorkItem, **values: Any) -> bool:
    """Update the item's row if it is still in the state, and under the lease, that the item says."""
    table = collection_files.c
    change = (
        sa.update(collection_files)
        .where(
            _is_item(item),
            table.status == "in_progress",
            table.attempts == item.attempts,
            table.lease_until == item.lease_until,
        )
        .values(values)
    )
    return conn.execute(change).rowcount > 0


def _rows(
    item: WorkItem, new: Sequence[NewChunk], vectors: npt.NDArray[np.float32], epoch: int
) -> list[dict[str, Any]]:
    stored = np.ascontiguousarray(vectors, dtype="<f4")
    return [
        {
            "tenant_id": item.tenant_id,
            "collection_id": item.collection_id,
            "file_id": item.file_id,
            "ordinal": ordinal,
            "text": chunk.text,
            "start_char": chunk.start,
            "end_char": chunk.end,
            "heading": chunk.heading,
            "vector": stored[ordinal].tobytes(),
            "epoch": epoch,
            "page": chunk.page,
        }
        for ordinal, chunk in enumerate(new)
    ]
