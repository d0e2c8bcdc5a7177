"""What ingest puts into the corpus: the chunks of a file, searchable in one transaction or not at all.

The queue in front of it (`queue`) and the changes behind it (`changes`) are used under this module's name too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from gateway.storage.changes import ChunkRow, FileRow, RemovalRow, Tail, tail
from gateway.storage.epochs import current_epoch, lock_clock, next_epoch, remove_chunks, stamp_collection
from gateway.storage.queue import (
    MAX_ATTEMPTS,
    WorkItem,
    change,
    claim,
    fail,
    has_work,
    is_item,
    release,
    renew,
)
from gateway.storage.replacement import remove_replaced
from gateway.storage.schema import chunks, collection_files, collections, files
from gateway.types import DEFAULT_EMBEDDER

__all__ = [
    "MAX_ATTEMPTS",
    "ChunkRow",
    "EqualFile",
    "FileRow",
    "NewChunk",
    "RemovalRow",
    "Tail",
    "WorkItem",
    "claim",
    "current_epoch",
    "equal_file",
    "fail",
    "has_work",
    "known_vectors",
    "next_epoch",
    "publish",
    "publish_copy",
    "release",
    "renew",
    "tail",
]

INSERT_ROWS = 1000  # of one statement: a large file's rows are never all in memory
MAX_KNOWN_VECTORS = 50_000  # bounds the memory of one re-ingest (75 MB of vectors)


class NewChunk(msgspec.Struct, frozen=True):
    """start and end: characters into the stored text, text == stored[start:end]. page: 1-based; 0 = no pages."""

    start: int
    end: int
    text: str
    heading: str = ""
    page: int = 0


class EqualFile(msgspec.Struct, frozen=True):
    """A file in a collection whose chunks are those that another one would get."""

    collection_id: str
    file_id: str
    num_chunks: int
    usage_bytes: int


def publish(
    conn: sa.Connection,
    item: WorkItem,
    new: Sequence[NewChunk],
    vectors: npt.NDArray[np.float32],
    recipe: str | None = None,
) -> int | None:
    """Make the file searchable: in this one transaction its new chunks come, those of the file that it replaces go.

    Shapes: vectors [len(new), D], unit length, of item.embedder. recipe: how the chunks were cut, see `equal_file`.
    Returns: the epoch, or None when the file left the collection, the lease was lost, or the collection has changed
    its embedder (the item is claimable again then); the corpus is as it was.
    """
    if vectors.shape[:1] != (len(new),):
        raise ValueError(f"{len(new)} chunks but vectors of shape {vectors.shape}")
    usage_bytes = sum(len(chunk.text.encode()) for chunk in new) + vectors.nbytes
    epoch = _begin(conn, item, len(new), usage_bytes, recipe)
    if epoch is not None:
        for start in range(0, len(new), INSERT_ROWS):
            rows = _rows(item, new[start : start + INSERT_ROWS], vectors, start, epoch)
            conn.execute(sa.insert(chunks), rows)
    return epoch


def equal_file(conn: sa.Connection, item: WorkItem, recipe: str) -> EqualFile | None:
    """A searchable file of the tenant with the item's bytes, cut by the same recipe and with vectors of its embedder.

    recipe: stands for everything beside the bytes that decides the chunks.
    """
    table = collection_files.c
    query = (
        sa.select(table.collection_id, table.file_id, table.num_chunks, table.usage_bytes)
        .join(files, files.c.id == table.file_id)
        .join(collections, collections.c.id == table.collection_id)
        .where(
            files.c.sha256 == item.sha256,
            files.c.tenant_id == item.tenant_id,
            table.tenant_id == item.tenant_id,
            table.status == "completed",
            table.recipe == recipe,
            collections.c.embedder == item.embedder,
        )
        .limit(1)
    )
    row = conn.execute(query).first()
    return EqualFile(*row) if row else None


def publish_copy(conn: sa.Connection, item: WorkItem, source: EqualFile, recipe: str) -> int | None:
    """`publish` with copies of another file's chunks. None also when they are not all there any more."""
    lock_clock(conn)  # from here on nobody else changes chunks
    if equal_file(conn, item, recipe) is None or _num_chunks(conn, item, source) != source.num_chunks:
        return None
    epoch = _begin(conn, item, source.num_chunks, source.usage_bytes, recipe)
    if epoch is None:
        return None
    fresh = {"collection_id": item.collection_id, "file_id": item.file_id, "epoch": epoch}
    kept = [column for column in chunks.c if column.name not in {"id", *fresh}]
    names = [*fresh, *(column.name for column in kept)]
    values = [*(sa.literal(value) for value in fresh.values()), *kept]
    copied = sa.select(*values).where(_is_source(item, source)).order_by(chunks.c.ordinal)
    conn.execute(sa.insert(chunks).from_select(names, copied))
    return epoch


def known_vectors(
    conn: sa.Connection, tenant_id: str, *, sha256: str, filename: str, embedder: str = DEFAULT_EMBEDDER
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
            chunks.c.embedder == embedder,
            (files.c.sha256 == sha256) | (files.c.filename == filename),
        )
        .limit(MAX_KNOWN_VECTORS)
    )
    return {(heading, text): vector for heading, text, vector in conn.execute(query)}


def _begin(
    conn: sa.Connection, item: WorkItem, num_chunks: int, usage_bytes: int, recipe: str | None
) -> int | None:
    """Everything of publishing but the new chunks. None, and nothing has changed but perhaps the lease."""
    lock_clock(conn)  # always before any other row: who changes the corpus waits here and nowhere else
    if _embedder_now(conn, item) not in {item.embedder, None}:
        release(conn, item)
        return None
    done = {
        "status": "completed",
        "num_chunks": num_chunks,
        "chunks_done": num_chunks,
        "usage_bytes": usage_bytes,
        "recipe": recipe,
        "error_code": None,
        "error_message": None,
        "lease_until": 0.0,
    }
    if not change(conn, item, **done):
        return None
    epoch = next_epoch(conn)
    conn.execute(sa.update(collection_files).where(is_item(item)).values(epoch=epoch))
    remove_chunks(conn, item.tenant_id, item.collection_id, item.file_id, epoch)
    remove_replaced(conn, item.tenant_id, item.collection_id, item.file_id, epoch)
    stamp_collection(conn, item.collection_id, epoch)
    return epoch


def _embedder_now(conn: sa.Connection, item: WorkItem) -> str | None:
    query = sa.select(collections.c.embedder).where(
        collections.c.id == item.collection_id, collections.c.tenant_id == item.tenant_id
    )
    return conn.execute(query).scalar()


def _is_source(item: WorkItem, source: EqualFile) -> sa.ColumnElement[bool]:
    return sa.and_(
        chunks.c.collection_id == source.collection_id,
        chunks.c.file_id == source.file_id,
        chunks.c.tenant_id == item.tenant_id,
        chunks.c.embedder == item.embedder,
    )


def _num_chunks(conn: sa.Connection, item: WorkItem, source: EqualFile) -> int:
    query = sa.select(sa.func.count()).select_from(chunks).where(_is_source(item, source))
    return int(conn.execute(query).scalar_one())


def _rows(
    item: WorkItem, new: Sequence[NewChunk], vectors: npt.NDArray[np.float32], first: int, epoch: int
) -> list[dict[str, Any]]:
    """Rows of the chunks from ordinal `first` on; vectors are those of the whole file."""
    stored = np.ascontiguousarray(vectors[first : first + len(new)], dtype="<f4")
    return [
        {
            "tenant_id": item.tenant_id,
            "collection_id": item.collection_id,
            "file_id": item.file_id,
            "ordinal": first + number,
            "text": chunk.text,
            "start_char": chunk.start,
            "end_char": chunk.end,
            "heading": chunk.heading,
            "vector": stored[number].tobytes(),
            "epoch": epoch,
            "page": chunk.page,
            "embedder": item.embedder,
        }
        for number, chunk in enumerate(new)
    ]
