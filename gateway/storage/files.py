"""Uploaded files (their rows; the bytes are in `blobs`). Every function sees one tenant only."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from gateway.storage.epochs import lock_clock, next_epoch, remove_chunks, stamp_collection
from gateway.storage.match import among, equals
from gateway.storage.paging import AnySelect, page
from gateway.storage.replacement import pass_on_replaced
from gateway.storage.schema import collection_files, files


class FileRow(msgspec.Struct, frozen=True):
    """A row of `files`, field by column. sha256: of the bytes, hex; created_at: unix seconds."""

    id: str
    tenant_id: str
    filename: str
    purpose: str
    num_bytes: int
    sha256: str
    created_at: int


def create_file(
    conn: sa.Connection,
    *,
    tenant_id: str,
    file_id: str,
    filename: str,
    purpose: str,
    num_bytes: int,
    sha256: str,
) -> FileRow:
    """Call it after the blob's commit: a row promises that the bytes are there."""
    row = FileRow(file_id, tenant_id, filename, purpose, num_bytes, sha256, int(time.time()))
    conn.execute(sa.insert(files), msgspec.structs.asdict(row))
    return row


def get_file(conn: sa.Connection, tenant_id: str, file_id: str) -> FileRow | None:
    row = conn.execute(_of(tenant_id).where(equals(files.c.id, file_id))).first()
    return FileRow(*row) if row else None


def known_files(conn: sa.Connection, tenant_id: str, file_ids: Sequence[str]) -> set[str]:
    """Those of the ids that are this tenant's files."""
    query = sa.select(files.c.id).where(files.c.tenant_id == tenant_id, among(files.c.id, list(file_ids)))
    return set(conn.execute(query).scalars())


def list_files(
    conn: sa.Connection,
    tenant_id: str,
    *,
    purpose: str | None = None,
    limit: int,
    order: str = "desc",
    after: str | None = None,
) -> tuple[list[FileRow], bool]:
    """One page and whether more follow. Raises: InvalidRequest for an unknown cursor."""
    query = _of(tenant_id) if purpose is None else _of(tenant_id).where(equals(files.c.purpose, purpose))
    rows, more = page(
        conn,
        query,
        created_at=files.c.created_at,
        key=files.c.id,
        limit=limit,
        order=order,
        after=after,
    )
    return [FileRow(*row) for row in rows], more


def delete_file(conn: sa.Connection, tenant_id: str, file_id: str) -> bool:
    """Its chunks leave every collection in the same transaction. The blob is the caller's to delete."""
    lock_clock(conn)
    if get_file(conn, tenant_id, file_id) is None:
        return False
    table = collection_files.c
    attached = sa.select(table.collection_id).where(table.file_id == file_id, table.tenant_id == tenant_id)
    holders = list(conn.execute(attached).scalars())
    if holders:
        epoch = next_epoch(conn)
        for collection_id in holders:
            pass_on_replaced(conn, tenant_id, collection_id, file_id)
            if remove_chunks(conn, tenant_id, collection_id, file_id, epoch):
                stamp_collection(conn, collection_id, epoch)
    conn.execute(sa.delete(files).where(files.c.id == file_id, files.c.tenant_id == tenant_id))
    return True


def _of(tenant_id: str) -> AnySelect:
    return sa.select(files).where(files.c.tenant_id == tenant_id)
