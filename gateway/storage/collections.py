"""Collections: named sets of files that are searched together. Every function sees one tenant only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.errors import InvalidRequest, NotFound
from gateway.storage.epochs import lock_clock, log_removal, next_epoch
from gateway.storage.ids import new_id
from gateway.storage.match import among, equals
from gateway.storage.paging import AnySelect, page
from gateway.storage.schema import collection_files, collections
from gateway.types import DEFAULT_EMBEDDER

_MAX_SHOWN_CHARS = 80  # of a caller's own text inside an error


class CollectionRow(msgspec.Struct, frozen=True):
    """A row of `collections`, field by column. epoch: of its last change; created_at: unix seconds."""

    id: str
    tenant_id: str
    name: str
    metadata: dict[str, Any]
    epoch: int
    created_at: int
    embedder: str = DEFAULT_EMBEDDER
    next_embedder: str | None = None  # being changed to


class FileCounts(msgspec.Struct):
    """How many files of a collection are in which state. usage_bytes: of the texts and vectors in it."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0
    usage_bytes: int = 0


def create_collection(
    conn: sa.Connection,
    tenant_id: str,
    name: str,
    metadata: dict[str, Any],
    embedder: str = DEFAULT_EMBEDDER,
) -> CollectionRow:
    """embedder: a model that is known; it makes the vectors of all files to come."""
    row = CollectionRow(new_id("vs_"), tenant_id, name, metadata, 0, int(time.time()), embedder)
    conn.execute(sa.insert(collections), msgspec.structs.asdict(row))
    return row


def get_collection(conn: sa.Connection, tenant_id: str, collection_id: str) -> CollectionRow | None:
    row = conn.execute(_of(tenant_id).where(equals(collections.c.id, collection_id))).first()
    return CollectionRow(*row) if row else None


def find_collections(conn: sa.Connection, tenant_id: str, refs: Sequence[str]) -> list[CollectionRow]:
    """The collection of each ref, in order; a ref is an id or a name, and an id wins over an equal name.

    Raises: NotFound naming the first ref without one; InvalidRequest for a name that several carry.
    """
    wanted = list(set(refs))
    query = _of(tenant_id).where(among(collections.c.id, wanted) | among(collections.c.name, wanted))
    by_id: dict[str, CollectionRow] = {}
    by_name: dict[str, list[CollectionRow]] = {}
    for found in conn.execute(query):
        row = CollectionRow(*found)
        by_id[row.id] = row
        by_name.setdefault(row.name, []).append(row)
    return [by_id[ref] if ref in by_id else _by_name(ref, by_name.get(ref, [])) for ref in refs]


def _by_name(ref: str, rows: list[CollectionRow]) -> CollectionRow:
    shown = ref if len(ref) <= _MAX_SHOWN_CHARS else ref[:_MAX_SHOWN_CHARS] + "…"
    if not rows:
        raise NotFound(f"There is no collection `{shown}`.", code="collection_not_found", param="collections")
    if len(rows) > 1:
        raise InvalidRequest(
            f"{len(rows)} collections are named `{shown}`; use the id instead.",
            code="collection_ambiguous",
            param="collections",
        )
    return rows[0]


def list_collections(
    conn: sa.Connection,
    tenant_id: str,
    *,
    limit: int,
    order: str = "desc",
    after: str | None = None,
    before: str | None = None,
) -> tuple[list[CollectionRow], bool]:
    """One page and whether more follow. Raises: InvalidRequest for an unknown cursor."""
    rows, more = page(
        conn,
        _of(tenant_id),
        created_at=collections.c.created_at,
        key=collections.c.id,
        limit=limit,
        order=order,
        after=after,
        before=before,
    )
    return [CollectionRow(*row) for row in rows], more


def update_collection(
    conn: sa.Connection,
    tenant_id: str,
    collection_id: str,
    *,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> CollectionRow | None:
    """None = leave as it is. Returns the row afterwards, or None when there is no such collection."""
    values = {key: value for key, value in {"name": name, "metadata": metadata}.items() if value is not None}
    if values:
        conn.execute(sa.update(collections).where(_is(tenant_id, collection_id)).values(values))
    return get_collection(conn, tenant_id, collection_id)


def delete_collection(conn: sa.Connection, tenant_id: str, collection_id: str) -> bool:
    """Its attachments and chunks go with it; the files themselves stay."""
    lock_clock(conn)
    if conn.execute(sa.delete(collections).where(_is(tenant_id, collection_id))).rowcount == 0:
        return False
    log_removal(conn, tenant_id, collection_id, None, next_epoch(conn))
    return True


def count_files(conn: sa.Connection, collection_ids: Sequence[str]) -> dict[str, FileCounts]:
    """One entry per id. The ids must come from a read that was bound to the tenant."""
    counts = {collection_id: FileCounts() for collection_id in collection_ids}
    table = collection_files.c
    query = (
        sa.select(table.collection_id, table.status, sa.func.count(), sa.func.sum(table.usage_bytes))
        .where(table.collection_id.in_(list(counts)))
        .group_by(table.collection_id, table.status)
    )
    for collection_id, status, number, usage_bytes in conn.execute(query):
        entry = counts[collection_id]
        setattr(entry, status, number)
        entry.total += number
        entry.usage_bytes += int(usage_bytes or 0)
    return counts


def _of(tenant_id: str) -> AnySelect:
    return sa.select(collections).where(collections.c.tenant_id == tenant_id)


def _is(tenant_id: str, collection_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(collections.c.tenant_id == tenant_id, equals(collections.c.id, collection_id))
