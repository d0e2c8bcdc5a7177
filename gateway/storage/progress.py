"""How far ingest is, over many files: of collections and of batches of files. One tenant per call."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from gateway.storage.collections import FileCounts
from gateway.storage.match import equals
from gateway.storage.schema import collection_files

LIVING = ("in_progress", "completed")


class ChunkCounts(msgspec.Struct, frozen=True):
    """Chunks of files that are searchable or on the way. A file that is not read yet counts none."""

    num_done: int = 0
    num_chunks: int = 0


class Batch(msgspec.Struct, frozen=True):
    """Files that were attached in one call. created_at: unix seconds."""

    id: str
    collection_id: str
    created_at: int
    files: FileCounts
    chunks: ChunkCounts


def count_chunks(
    conn: sa.Connection, tenant_id: str, collection_ids: Sequence[str]
) -> dict[str, ChunkCounts]:
    """By collection; one without files is left out."""
    table = collection_files.c
    query = (
        sa.select(table.collection_id, sa.func.sum(table.chunks_done), sa.func.sum(table.num_chunks))
        .where(
            table.tenant_id == tenant_id,
            table.collection_id.in_(list(collection_ids)),
            table.status.in_(LIVING),
        )
        .group_by(table.collection_id)
    )
    return {each: ChunkCounts(int(done or 0), int(total or 0)) for each, done, total in conn.execute(query)}


def get_batch(conn: sa.Connection, tenant_id: str, collection_id: str, batch_id: str) -> Batch | None:
    """None when no file of the collection was attached in such a batch the last time."""
    table = collection_files.c
    query = (
        sa.select(
            table.status,
            sa.func.count(),
            sa.func.sum(table.usage_bytes),
            sa.func.sum(table.chunks_done),
            sa.func.sum(table.num_chunks),
            sa.func.min(table.created_at),
        )
        .where(_is(tenant_id, collection_id, batch_id))
        .group_by(table.status)
    )
    rows = conn.execute(query).all()
    if not rows:
        return None
    files, done, total = FileCounts(), 0, 0
    for status, number, usage_bytes, chunks_done, num_chunks, _ in rows:
        setattr(files, status, number)
        files.total += number
        files.usage_bytes += int(usage_bytes or 0)
        if status in LIVING:
            done, total = done + int(chunks_done or 0), total + int(num_chunks or 0)
    return Batch(batch_id, collection_id, min(row[5] for row in rows), files, ChunkCounts(done, total))


def cancel_batch(conn: sa.Connection, tenant_id: str, collection_id: str, batch_id: str) -> Batch | None:
    """Stop what is not searchable yet; a worker that is at it finds that out. None when there is no such batch."""
    table = collection_files.c
    conn.execute(
        sa.update(collection_files)
        .where(_is(tenant_id, collection_id, batch_id), table.status == "in_progress")
        .values(status="cancelled", lease_until=0.0)
    )
    return get_batch(conn, tenant_id, collection_id, batch_id)


def _is(tenant_id: str, collection_id: str, batch_id: str) -> sa.ColumnElement[bool]:
    table = collection_files.c
    return sa.and_(
        table.tenant_id == tenant_id,
        equals(table.collection_id, collection_id),
        equals(table.batch_id, batch_id),
    )
