"""The ingest queue: the rows `in_progress` of `collection_files`.

A worker holds an item by its lease: `lease_until` is at once the time and the token, so a worker whose lease was
taken over can change nothing any more.

Whose fault a worker's death was cannot be told from here, so a death costs the file time before it costs more: each
one makes the next try wait longer, and only MAX_ATTEMPTS of them (half an hour at the worker's own lease) fail it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.storage.paging import AnySelect
from gateway.storage.schema import collection_files, collections, files

LEASE_S = 15.0
MAX_ATTEMPTS = 10
MAX_PAUSE_LEASES = 20.0
MAX_MESSAGE_CHARS = 1000  # of the error_message column


class WorkItem(msgspec.Struct):
    """A claimed file. lease_until changes with every renewal; attempts counts this one.

    embedder: what the collection is searched with, so what its vectors are to be made by.
    """

    collection_id: str
    file_id: str
    tenant_id: str
    filename: str
    num_bytes: int
    sha256: str
    attempts: int
    lease_until: float
    embedder: str


def has_work(conn: sa.Connection, *, now: float, lease_s: float = LEASE_S) -> bool:
    """Cheap enough to ask several times a second; needs no write lock."""
    query = sa.select(sa.literal(1)).where(_is_claimable(now, lease_s)).limit(1)
    return conn.execute(query).first() is not None


def claim(conn: sa.Connection, *, lease_s: float, now: float) -> WorkItem | None:
    """Lease the oldest file that nobody works on. One whose workers have died too often is failed instead.

    now: unix seconds. Needs a write transaction.
    """
    while row := conn.execute(_oldest(now, lease_s)).first():
        item = WorkItem(*row)
        if item.attempts >= MAX_ATTEMPTS:
            fail(conn, item, "server_error", "The file could not be processed, and was tried several times.")
            continue
        claimed = msgspec.structs.replace(item, attempts=item.attempts + 1, lease_until=now + lease_s)
        change(conn, item, attempts=claimed.attempts, lease_until=claimed.lease_until)
        return claimed
    return None


def renew(
    conn: sa.Connection, item: WorkItem, *, lease_s: float, now: float, chunks_done: int, num_chunks: int
) -> bool:
    """Prolong the lease and tell the progress. False: the item is not ours any more; stop working on it."""
    until = now + lease_s
    if not change(conn, item, lease_until=until, chunks_done=chunks_done, num_chunks=num_chunks):
        return False
    item.lease_until = until
    return True


def release(conn: sa.Connection, item: WorkItem) -> bool:
    """Hand the item back unfinished: claimable at once, the attempt not counted."""
    return change(conn, item, lease_until=0.0, attempts=max(0, item.attempts - 1))


def fail(conn: sa.Connection, item: WorkItem, code: str, message: str) -> bool:
    """End the item with a public code and message. False when it is not ours any more."""
    shown = message[:MAX_MESSAGE_CHARS]
    return change(conn, item, status="failed", error_code=code, error_message=shown, lease_until=0.0)


def change(conn: sa.Connection, item: WorkItem, **values: Any) -> bool:
    """Update the item's row if it is still in the state, and under the lease, that the item says."""
    table = collection_files.c
    update = (
        sa.update(collection_files)
        .where(
            is_item(item),
            table.status == "in_progress",
            table.attempts == item.attempts,
            table.lease_until == item.lease_until,
        )
        .values(values)
    )
    return conn.execute(update).rowcount > 0


def is_item(item: WorkItem) -> sa.ColumnElement[bool]:
    table = collection_files.c
    return sa.and_(
        table.collection_id == item.collection_id,
        table.file_id == item.file_id,
        table.tenant_id == item.tenant_id,
    )


def _oldest(now: float, lease_s: float) -> AnySelect:
    """One row with the columns of a WorkItem, locked; rows that another worker has locked are passed over."""
    table = collection_files.c
    return (
        sa.select(
            table.collection_id,
            table.file_id,
            table.tenant_id,
            files.c.filename,
            files.c.num_bytes,
            files.c.sha256,
            table.attempts,
            table.lease_until,
            collections.c.embedder,
        )
        .join(files, files.c.id == table.file_id)
        .join(collections, collections.c.id == table.collection_id)
        .where(_is_claimable(now, lease_s))
        .order_by(table.created_at, table.file_id)
        .limit(1)
        .with_for_update(skip_locked=True, of=collection_files)
    )


def _is_claimable(now: float, lease_s: float) -> sa.ColumnElement[bool]:
    table = collection_files.c
    return sa.and_(
        table.status == "in_progress",
        table.lease_until < now,  # what the next line asks, in a form that is cheap to refuse
        table.lease_until + _pause(lease_s) < now,
    )


def _pause(lease_s: float) -> sa.ColumnElement[float]:
    """Seconds from the end of a lease to the next try: none after the first death, then 1, 3, 7, … leases."""
    table = collection_files.c
    pauses = {number: min(2.0 ** (number - 1) - 1, MAX_PAUSE_LEASES) for number in range(2, MAX_ATTEMPTS + 1)}
    whens = {number: pause * lease_s for number, pause in pauses.items()}
    return sa.case(whens, value=table.attempts, else_=0.0)
