"""A file that takes the place of an older one in its collection: the old one stays until the new one is searchable."""

from __future__ import annotations

import sqlalchemy as sa

from gateway.errors import InvalidRequest, NotFound
from gateway.storage.epochs import remove_chunks
from gateway.storage.match import equals
from gateway.storage.schema import collection_files

MAX_SHOWN_CHARS = 80  # of a caller's own text inside an error


def check_replaces(
    conn: sa.Connection, tenant_id: str, collection_id: str, file_ids: list[str], replaces: str
) -> None:
    """Raises: InvalidRequest for several files or the file itself; NotFound when the old one is not in there."""
    if file_ids != [file_ids[0]]:
        raise InvalidRequest("replaces goes with one file, not with several.", param="replaces")
    if file_ids[0] == replaces:
        raise InvalidRequest("A file cannot replace itself.", param="replaces")
    table = collection_files.c
    there = sa.select(table.file_id).where(
        table.tenant_id == tenant_id,
        equals(table.collection_id, collection_id),
        equals(table.file_id, replaces),
    )
    if conn.execute(there).first() is None:
        raise NotFound(
            f"There is no file `{replaces[:MAX_SHOWN_CHARS]}` in this vector store to replace.",
            code="file_not_found",
            param="replaces",
        )


def remove_replaced(
    conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str, epoch: int
) -> bool:
    """Take out what the file replaces, and what that one was still to replace, and so on. False: nothing left.

    Call it with the clock locked, in the transaction that makes the file itself searchable.
    """
    gone = {file_id}
    old = _replaces(conn, tenant_id, collection_id, file_id)
    while old is not None and old not in gone:
        gone.add(old)
        older = _replaces(conn, tenant_id, collection_id, old)
        remove_chunks(conn, tenant_id, collection_id, old, epoch)
        conn.execute(sa.delete(collection_files).where(_is(tenant_id, collection_id, old)))
        old = older
    return len(gone) > 1


def pass_on_replaced(conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str) -> None:
    """A file is about to leave: whoever was to replace it replaces what it was still to replace itself."""
    older = _replaces(conn, tenant_id, collection_id, file_id)
    table = collection_files.c
    heirs = sa.and_(
        table.tenant_id == tenant_id, table.collection_id == collection_id, table.replaces == file_id
    )
    conn.execute(sa.update(collection_files).where(heirs).values(replaces=older))


def _replaces(conn: sa.Connection, tenant_id: str, collection_id: str, file_id: str) -> str | None:
    query = sa.select(collection_files.c.replaces).where(_is(tenant_id, collection_id, file_id))
    return conn.execute(query).scalar()


def _is(tenant_id: str, collection_id: str, file_id: str) -> sa.ColumnElement[bool]:
    table = collection_files.c
    return sa.and_(
        table.tenant_id == tenant_id, table.collection_id == collection_id, table.file_id == file_id
    )
