"""A collection on its way from one embedder to another, while it is searched.

1. Building: `collections.next_embedder` is set, and the next vector of each chunk gathers in `next_vectors`.
2. `finish_building`, when none is lacking: the next embedder becomes the collection's own, for new files too.
3. Switching: `switch_some` moves the vectors into the chunks, a slice at a time, each with an epoch of its own. The
   index holds both embedders meanwhile, and a search asks for both.

Every step is one short transaction, may be repeated, and may be done by several workers at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from gateway.errors import Conflict
from gateway.storage.collections import CollectionRow, get_collection
from gateway.storage.database import insert_or_ignore
from gateway.storage.epochs import lock_clock, next_epoch, stamp_collection
from gateway.storage.match import among, equals
from gateway.storage.schema import chunks, collection_files, collections, next_vectors


class Progress(msgspec.Struct, frozen=True):
    """How many of the collection's chunks have their next vector."""

    num_done: int
    num_chunks: int


class Job(msgspec.Struct, frozen=True):
    """A collection to work on. embedder: the one that it changes to. is_built: only switching is left."""

    tenant_id: str
    collection_id: str
    embedder: str
    is_built: bool


class LackingChunk(msgspec.Struct, frozen=True):
    """A chunk without its next vector."""

    id: int
    heading: str
    text: str


def start_reembedding(
    conn: sa.Connection, tenant_id: str, collection_id: str, embedder: str
) -> CollectionRow | None:
    """Change the collection to another embedder, in the background; the answer is how it stands now.

    Its present embedder calls off a change that is being built; another one than before begins anew.
    Returns: None when there is no such collection. Raises: Conflict while an earlier change is switching.
    """
    row = get_collection(conn, tenant_id, collection_id)
    if row is None or row.next_embedder == embedder:
        return row
    if embedder == row.embedder:
        cancel_reembedding(conn, tenant_id, collection_id)
        return get_collection(conn, tenant_id, collection_id)
    if _is_switching(conn, row):
        raise Conflict(
            "The vector store is just changing to another embedder; try again in some seconds.",
            code="reembedding_switching",
        )
    _set_next(conn, tenant_id, collection_id, embedder)
    return get_collection(conn, tenant_id, collection_id)


def cancel_reembedding(conn: sa.Connection, tenant_id: str, collection_id: str) -> bool:
    """Call off a change that is being built. False when there is none; one that is switching is not called off."""
    row = get_collection(conn, tenant_id, collection_id)
    if row is None or row.next_embedder is None:
        return False
    _set_next(conn, tenant_id, collection_id, None)
    return True


def reembedding_progress(
    conn: sa.Connection, tenant_id: str, collection_ids: Sequence[str]
) -> dict[str, Progress]:
    """Of those collections that are being changed; the others are left out."""
    changing = sa.select(collections.c.id).where(
        collections.c.tenant_id == tenant_id,
        among(collections.c.id, list(collection_ids)),
        collections.c.next_embedder.is_not(None),
    )
    ids = list(conn.execute(changing).scalars())
    total = _count(conn, chunks, ids)
    done = _count(conn, next_vectors, ids)
    return {each: Progress(done.get(each, 0), total.get(each, 0)) for each in ids}


def reembedding_jobs(conn: sa.Connection) -> list[Job]:
    """All collections, of all tenants, that are being built or switching."""
    building = sa.select(collections.c.tenant_id, collections.c.id, collections.c.next_embedder).where(
        collections.c.next_embedder.is_not(None)
    )
    # Vectors that wait in a collection without a next embedder are those of the one that it has already.
    switching = (
        sa.select(collections.c.tenant_id, collections.c.id, collections.c.embedder)
        .where(collections.c.next_embedder.is_(None), collections.c.id.in_(_waiting()))
        .order_by(collections.c.id)
    )
    return [
        Job(tenant_id, collection_id, embedder, is_built)
        for query, is_built in ((switching, True), (building.order_by(collections.c.id), False))
        for tenant_id, collection_id, embedder in conn.execute(query)
    ]


def last_chunk_id(conn: sa.Connection, job: Job) -> int:
    """0 when the collection has no chunks."""
    return int(conn.execute(sa.select(sa.func.max(chunks.c.id)).where(_of(job))).scalar() or 0)


def lacking_chunks(conn: sa.Connection, job: Job, *, after_id: int, limit: int) -> list[LackingChunk]:
    """Chunks that have no next vector yet, by id from after_id on."""
    query = (
        sa.select(chunks.c.id, chunks.c.heading, chunks.c.text)
        .outerjoin(next_vectors, next_vectors.c.chunk_id == chunks.c.id)
        .where(_of(job), chunks.c.id > after_id, next_vectors.c.chunk_id.is_(None))
        .order_by(chunks.c.id)
        .limit(limit)
    )
    return [LackingChunk(*row) for row in conn.execute(query)]


def store_next_vectors(
    conn: sa.Connection, job: Job, chunk_ids: Sequence[int], vectors: npt.NDArray[np.float32]
) -> bool:
    """Keep vectors until the switch. False, and nothing is kept, when the collection changes to something else now.

    Shapes: vectors [len(chunk_ids), D], unit length. Chunks that have gone meanwhile are left out.
    """
    if not _is_still_building(conn, job):
        return False
    stored = np.ascontiguousarray(vectors, dtype="<f4")
    rows = dict(zip(chunk_ids, stored, strict=True))
    # One that is being deleted is passed over: waiting for it would end in a vector without a chunk.
    there = sa.select(chunks.c.id).where(_of(job), chunks.c.id.in_(list(rows)))
    locked = there.with_for_update(read=True, key_share=True, skip_locked=True)
    kept = [
        {"chunk_id": chunk_id, "collection_id": job.collection_id, "vector": rows[chunk_id].tobytes()}
        for chunk_id in conn.execute(locked).scalars()
    ]
    if kept:
        conn.execute(insert_or_ignore(conn, next_vectors), kept)
    return True


def finish_building(conn: sa.Connection, job: Job) -> bool:
    """Make the next embedder the collection's own, unless a chunk still lacks its vector or the change was called off.

    False: neither this nor another worker has done it; look for lacking chunks again.
    """
    lock_clock(conn)  # no file is published from here on
    if not _is_still_building(conn, job) or lacking_chunks(conn, job, after_id=0, limit=1):
        return False
    grown = _grown_bytes(conn, job)
    conn.execute(
        sa.update(collections)
        .where(collections.c.id == job.collection_id, collections.c.tenant_id == job.tenant_id)
        .values(embedder=job.embedder, next_embedder=None)
    )
    table = collection_files.c
    conn.execute(
        sa.update(collection_files)
        .where(
            table.collection_id == job.collection_id,
            table.tenant_id == job.tenant_id,
            table.status == "completed",
        )
        .values(usage_bytes=table.usage_bytes + table.num_chunks * grown)
    )
    return True


def switch_some(conn: sa.Connection, job: Job, *, limit: int) -> int:
    """Put up to `limit` waiting vectors into their chunks, all in one epoch. Returns how many; 0 = nothing waits."""
    lock_clock(conn)
    row = get_collection(conn, job.tenant_id, job.collection_id)
    if row is None or row.next_embedder is not None:
        return 0
    waiting = (
        sa.select(next_vectors.c.chunk_id)
        .where(next_vectors.c.collection_id == job.collection_id)
        .order_by(next_vectors.c.chunk_id)
        .limit(limit)
    )
    ids = list(conn.execute(waiting).scalars())
    if not ids:
        return 0
    epoch = next_epoch(conn)
    vector = sa.select(next_vectors.c.vector).where(next_vectors.c.chunk_id == chunks.c.id).scalar_subquery()
    conn.execute(
        sa.update(chunks)
        .where(_of(job), chunks.c.id.in_(ids))
        .values(vector=vector, embedder=row.embedder, epoch=epoch)
    )
    conn.execute(sa.delete(next_vectors).where(next_vectors.c.chunk_id.in_(ids)))
    stamp_collection(conn, job.collection_id, epoch)
    return len(ids)


def _is_switching(conn: sa.Connection, row: CollectionRow) -> bool:
    waiting = sa.select(next_vectors.c.chunk_id).where(next_vectors.c.collection_id == row.id).limit(1)
    return row.next_embedder is None and conn.execute(waiting).first() is not None


def _is_still_building(conn: sa.Connection, job: Job) -> bool:
    """Also keeps it so until the transaction ends."""
    query = sa.select(collections.c.next_embedder).where(
        collections.c.id == job.collection_id, collections.c.tenant_id == job.tenant_id
    )
    return conn.execute(query.with_for_update(read=True)).scalar() == job.embedder


def _set_next(conn: sa.Connection, tenant_id: str, collection_id: str, embedder: str | None) -> None:
    mine = sa.and_(collections.c.tenant_id == tenant_id, equals(collections.c.id, collection_id))
    conn.execute(sa.update(collections).where(mine).values(next_embedder=embedder))
    conn.execute(sa.delete(next_vectors).where(next_vectors.c.collection_id == collection_id))


def _grown_bytes(conn: sa.Connection, job: Job) -> int:
    """How many bytes longer the next vectors are; negative when shorter."""
    query = (
        sa.select(sa.func.length(next_vectors.c.vector) - sa.func.length(chunks.c.vector))
        .join(chunks, chunks.c.id == next_vectors.c.chunk_id)
        .where(next_vectors.c.collection_id == job.collection_id)
        .limit(1)
    )
    return int(conn.execute(query).scalar() or 0)


def _count(conn: sa.Connection, table: sa.Table, collection_ids: list[str]) -> dict[str, int]:
    query = (
        sa.select(table.c.collection_id, sa.func.count())
        .where(table.c.collection_id.in_(collection_ids))
        .group_by(table.c.collection_id)
    )
    return {collection_id: int(number) for collection_id, number in conn.execute(query)}


def _waiting() -> sa.Select[str]:
    return sa.select(next_vectors.c.collection_id).distinct()


def _of(job: Job) -> sa.ColumnElement[bool]:
    return sa.and_(chunks.c.collection_id == job.collection_id, chunks.c.tenant_id == job.tenant_id)
