"""Files in collections: what is to be ingested, how far it is, how it ended. One tenant per call."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.errors import InvalidRequest, NotFound
from gateway.storage.collections import get_collection
from gateway.storage.epochs import next_epoch, remove_chunks, stamp_collection
from gateway.storage.files import get_file
from gateway.storage.paging import page
from gateway.storage.schema import collection_files

STATUSES = ("in_progress", "completed", "failed", "cancelled")


class AttachmentRow(msgspec.Struct, frozen=True):
    """A row of `collection_files`, field by column. lease_until and created_at: unix seconds."""

    collection_id: str
    file_id: str
    tenant_id: str
    status: str
    error_code: str | None
    error_message: str | None
    attributes: dict[str, Any]
    num_chunks: int
    chunks_done: int
    usage_bytes: int
    attempts: int
    lease_until: float
    created_at: int


def attach_file(
    conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str, attributes: dict[str, Any]
) -> AttachmentRow:
    """Queue the file for ingest into the collection. Attaching again changes nothing but the attributes
    (when some are given), unless it had failed or was cancelled: then it is queued anew.

    Raises: NotFound when either is missing or another tenant's.
    """
    if get_collection(conn, tenant_id, collection_id) is None:
        raise NotFound(f"There is no vector store `{collection_id}`.", code="collection_not_found")
    if get_file(conn, tenant_id, file_id) is None:
        raise NotFound(f"There is no file `{file_id}`.", code="file_not_found", param="file_id")
    found = get_attachment(conn, tenant_id, collection_id, file_id)
    if found is None:
        row = AttachmentRow(
            collection_id, file_id, tenant_id, "in_progress", None, None, attributes, 0, 0, 0, 0, 0.0, _now()
        )
        conn.execute(sa.insert(collection_files), msgspec.structs.asdict(row))
        return row
    values: dict[str, Any] = {"attributes": attributes} if attributes else {}
    if found.status in {"failed", "cancelled"}:
        values |= {"status": "in_progress", "error_code": None, "error_message": None}
        values |= {"attempts": 0, "lease_until": 0.0, "chunks_done": 0}
    if not values:
        return found
    return _update(conn, tenant_id, collection_id, file_id, values) or found


def get_attachment(
    conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str
) -> AttachmentRow | None:
    query = sa.select(collection_files).where(_is(tenant_id, collection_id, file_id))
    row = conn.execute(query).first()
    return AttachmentRow(*row) if row else None


def list_attachments(
    conn: sa.Connection,
    tenant_id: str,
    collection_id: str,
    *,
    status: str | None = None,
    limit: int,
    order: str = "desc",
    after: str | None = None,
    before: str | None = None,
) -> tuple[list[AttachmentRow], bool]:
    """One page and whether more follow; cursors are file ids.

    Raises: InvalidRequest for an unknown cursor or status.
    """
    table = collection_files.c
    query = sa.select(collection_files).where(
        table.tenant_id == tenant_id, table.collection_id == collection_id
    )
    if status is not None:
        if status not in STATUSES:
            raise InvalidRequest(f"filter must be one of: {', '.join(STATUSES)}.", param="filter")
        query = query.where(table.status == status)
    rows, more = page(
        conn,
        query,
        created_at=table.created_at,
        key=table.file_id,
        limit=limit,
        order=order,
        after=after,
        before=before,
    )
    return [AttachmentRow(*row) for row in rows], more


def update_attributes(
    conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str, attributes: dict[str, Any]
) -> AttachmentRow | None:
    """Replace the attributes. None when the file is not in the collection."""
    return _update(conn, tenant_id, collection_id, file_id, {"attributes": attributes})


def detach_file(conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str) -> bool:
    """Take the file and its chunks out of the collection, at whatever stage of ingest it is."""
    place = _is(tenant_id, collection_id, file_id)
    if conn.execute(sa.delete(collection_files).where(place)).rowcount == 0:
        return False
    epoch = next_epoch(conn)
    if remove_chunks(conn, tenant_id, collection_id, file_id, epoch):
        stamp_collection(conn, collection_id, epoch)
    return True


def _update(
    conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str, values: dict[str, Any]
) -> AttachmentRow | None:
    conn.execute(sa.update(collection_files).where(_is(tenant_id, collection_id, file_id)).values(values))
    return get_attachment(conn, tenant_id, collection_id, file_id)


def _is(tenant_id: str, collection_id: str, file_id: str) -> sa.ColumnElement[bool]:
    table = collection_files.c
    return sa.and_(
        table.tenant_id == tenant_id, table.collection_id == collection_id, table.file_id == file_id
    )


def _now() -> int:
    return int(time.time())
