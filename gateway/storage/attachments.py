"""Files in collections: what is to be ingested, how far it is, how it ended. One tenant per call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.errors import InvalidRequest, NotFound
from gateway.storage.collections import get_collection
from gateway.storage.database import insert_or_ignore
from gateway.storage.epochs import lock_clock, next_epoch, remove_chunks, stamp_collection
from gateway.storage.files import known_files
from gateway.storage.match import equals
from gateway.storage.paging import page
from gateway.storage.replacement import (
    MAX_SHOWN_CHARS,
    check_replaces,
    pass_on_replaced,
    remove_replaced,
)
from gateway.storage.schema import collection_files

STATUSES = ("in_progress", "completed", "failed", "cancelled")


class AttachmentRow(msgspec.Struct, frozen=True):
    """A row of `collection_files`, field by column. lease_until and created_at: unix seconds.

    replaces: the file that leaves the collection when this one becomes searchable; it may be gone already.
    """

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
    replaces: str | None = None
    epoch: int = 0  # of the last change of its attributes
    recipe: str | None = None  # how its chunks were cut
    batch_id: str | None = None  # of the files that were attached in one call, the last time


def attach_file(
    conn: sa.Connection,
    tenant_id: str,
    collection_id: str,
    file_id: str,
    attributes: dict[str, Any],
    *,
    replaces: str | None = None,
) -> AttachmentRow:
    """`attach_files` for one."""
    return attach_files(conn, tenant_id, collection_id, [file_id], attributes, replaces=replaces)[0]


def attach_files(
    conn: sa.Connection,
    tenant_id: str,
    collection_id: str,
    file_ids: Sequence[str],
    attributes: dict[str, Any],
    *,
    replaces: str | None = None,
    batch_id: str | None = None,
) -> list[AttachmentRow]:
    """Queue files for ingest into the collection; one row each, in order, doubles once. A few statements in all.

    Attaching again changes nothing but the attributes and what is replaced (when given), unless the file had failed
    or was cancelled: then it is queued anew.
    replaces: a file of the collection; it stays until the one file of `file_ids` is searchable, and leaves with that.
    batch_id: noted on every one of them.
    Raises: NotFound `collection_not_found`, or `file_not_found` naming the first file that is missing or another
    tenant's; InvalidRequest for a `replaces` that cannot be. Nothing is attached then.
    """
    wanted = list(dict.fromkeys(file_ids))
    _check_known(conn, tenant_id, collection_id, wanted)
    if replaces is not None:
        check_replaces(conn, tenant_id, collection_id, wanted, replaces)
    lasting = {"replaces": replaces, "batch_id": batch_id}
    given = {name: value for name, value in lasting.items() if value is not None}
    if attributes or given:
        lock_clock(conn)  # before the rows: these changes may take an epoch
    there = _attached(conn, tenant_id, collection_id, wanted)
    row = AttachmentRow(
        collection_id, "", tenant_id, "in_progress", None, None, attributes, 0, 0, 0, 0, 0.0, _now(),
        replaces=replaces, batch_id=batch_id,
    )  # fmt: skip
    new = {each: msgspec.structs.replace(row, file_id=each) for each in wanted if each not in there}
    if new:  # another call may attach the same file right now
        statement = insert_or_ignore(conn, collection_files)
        conn.execute(statement, [msgspec.structs.asdict(row) for row in new.values()])
    if _refresh(conn, tenant_id, collection_id, there, attributes, given=given):
        there |= _attached(conn, tenant_id, collection_id, list(there))
    rows = there | new
    return [rows[file_id] for file_id in wanted]


def _check_known(conn: sa.Connection, tenant_id: str, collection_id: str, file_ids: list[str]) -> None:
    """Raises: NotFound for the collection, or for the first file that is missing."""
    if get_collection(conn, tenant_id, collection_id) is None:
        raise NotFound(
            f"There is no vector store `{collection_id[:MAX_SHOWN_CHARS]}`.", code="collection_not_found"
        )
    known = known_files(conn, tenant_id, file_ids)
    missing = next((file_id for file_id in file_ids if file_id not in known), None)
    if missing is not None:
        raise NotFound(
            f"There is no file `{missing[:MAX_SHOWN_CHARS]}`.", code="file_not_found", param="file_id"
        )


def _refresh(
    conn: sa.Connection,
    tenant_id: str,
    collection_id: str,
    there: dict[str, AttachmentRow],
    attributes: dict[str, Any],
    *,
    given: dict[str, str],
) -> bool:
    """New values and a new try for what is attached already. False when there is nothing to change."""
    if not there:
        return False
    again = [row.file_id for row in there.values() if row.status in {"failed", "cancelled"}]
    changes: list[tuple[list[str], dict[str, Any]]] = []
    if attributes:
        changes.append((list(there), {"attributes": attributes, "epoch": next_epoch(conn)}))
    if given:
        changes.append((list(there), given))
    if again:
        values = {"status": "in_progress", "error_code": None, "error_message": None}
        changes.append((again, values | {"attempts": 0, "lease_until": 0.0, "chunks_done": 0}))
    for file_ids, values in changes:
        place = _in_collection(tenant_id, collection_id)
        among_these = collection_files.c.file_id.in_(file_ids)
        conn.execute(sa.update(collection_files).where(place, among_these).values(values))
    if "replaces" in given:
        _replace_now(conn, tenant_id, collection_id, there)
    return bool(changes)


def _replace_now(
    conn: sa.Connection, tenant_id: str, collection_id: str, there: dict[str, AttachmentRow]
) -> None:
    """A file that is searchable already takes the older one's place at once."""
    for row in there.values():
        if row.status == "completed":
            epoch = next_epoch(conn)
            remove_replaced(conn, tenant_id, collection_id, row.file_id, epoch)
            stamp_collection(conn, collection_id, epoch)


def _attached(
    conn: sa.Connection, tenant_id: str, collection_id: str, file_ids: list[str]
) -> dict[str, AttachmentRow]:
    """Those of the files that are in the collection already, by id."""
    place = _in_collection(tenant_id, collection_id)
    query = sa.select(collection_files).where(place, collection_files.c.file_id.in_(file_ids))
    return {row.file_id: row for row in (AttachmentRow(*found) for found in conn.execute(query))}


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
    batch_id: str | None = None,
    limit: int,
    order: str = "desc",
    after: str | None = None,
    before: str | None = None,
) -> tuple[list[AttachmentRow], bool]:
    """One page and whether more follow; cursors are file ids.

    Raises: InvalidRequest for an unknown cursor or status.
    """
    table = collection_files.c
    query = sa.select(collection_files).where(_in_collection(tenant_id, collection_id))
    if status is not None:
        if status not in STATUSES:
            raise InvalidRequest(f"filter must be one of: {', '.join(STATUSES)}.", param="filter")
        query = query.where(table.status == status)
    if batch_id is not None:
        query = query.where(equals(table.batch_id, batch_id))
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
    """Replace the attributes; searches see them from the next epoch. None when the file is not in the collection."""
    lock_clock(conn)
    if get_attachment(conn, tenant_id, collection_id, file_id) is None:
        return None
    changed = {"attributes": attributes, "epoch": next_epoch(conn)}
    return _update(conn, tenant_id, collection_id, file_id, changed)


def detach_file(conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str) -> bool:
    """Take the file and its chunks out of the collection, at whatever stage of ingest it is."""
    lock_clock(conn)
    place = _is(tenant_id, collection_id, file_id)
    if get_attachment(conn, tenant_id, collection_id, file_id) is not None:
        pass_on_replaced(conn, tenant_id, collection_id, file_id)
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
    return sa.and_(_in_collection(tenant_id, collection_id), equals(collection_files.c.file_id, file_id))


def _in_collection(tenant_id: str, collection_id: str) -> sa.ColumnElement[bool]:
    table = collection_files.c
    return sa.and_(table.tenant_id == tenant_id, equals(table.collection_id, collection_id))


def _now() -> int:
    return int(time.time())
