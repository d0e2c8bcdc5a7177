"""The corpus clock and the removal log: every change of what may be searched takes the next epoch here."""

from __future__ import annotations

import sqlalchemy as sa

from gateway.storage.schema import chunks, collections, corpus_clock, removals


def current_epoch(conn: sa.Connection) -> int:
    return int(conn.execute(sa.select(corpus_clock.c.epoch).where(corpus_clock.c.id == 1)).scalar_one())


def lock_clock(conn: sa.Connection) -> None:
    """Wait until nobody else changes the corpus. Lock it before any other row, or two changes may wait for each other.

    SQLite has one writer at a time anyway.
    """
    if conn.dialect.name != "sqlite":
        conn.execute(sa.select(corpus_clock.c.epoch).where(corpus_clock.c.id == 1).with_for_update())


def next_epoch(conn: sa.Connection) -> int:
    """Advance the clock. Its row stays locked until the transaction ends, so commit order is epoch order."""
    tick = (
        sa.update(corpus_clock)
        .where(corpus_clock.c.id == 1)
        .values(epoch=corpus_clock.c.epoch + 1)
        .returning(corpus_clock.c.epoch)
    )
    return int(conn.execute(tick).scalar_one())


def stamp_collection(conn: sa.Connection, collection_id: str, epoch: int) -> None:
    conn.execute(sa.update(collections).where(collections.c.id == collection_id).values(epoch=epoch))


def remove_chunks(conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str, epoch: int) -> bool:
    """Delete one file's chunks from one collection and log it. False, and no log, when it had none."""
    gone = conn.execute(
        sa.delete(chunks).where(
            chunks.c.collection_id == collection_id,
            chunks.c.file_id == file_id,
            chunks.c.tenant_id == tenant_id,
        )
    )
    if gone.rowcount == 0:
        return False
    log_removal(conn, tenant_id, collection_id, file_id, epoch)
    return True


def log_removal(
    conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str | None, epoch: int
) -> None:
    """file_id None = the whole collection."""
    row = {"epoch": epoch, "tenant_id": tenant_id, "collection_id": collection_id, "file_id": file_id}
    conn.execute(sa.insert(removals), row)
