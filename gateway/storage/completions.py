"""Answers that their callers asked to keep (`store: true`). Every function sees one tenant only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.storage.match import could_hold, equals
from gateway.storage.paging import AnySelect, page
from gateway.storage.schema import completions


class CompletionRow(msgspec.Struct, frozen=True):
    """A row of `completions`, field by column. messages: JSON of what was asked; body: JSON of the completion."""

    id: str
    tenant_id: str
    model: str
    messages: str
    body: str
    metadata: dict[str, Any]
    created_at: int


def store_completion(conn: sa.Connection, row: CompletionRow) -> None:
    conn.execute(sa.insert(completions), msgspec.structs.asdict(row))


def get_completion(conn: sa.Connection, tenant_id: str, completion_id: str) -> CompletionRow | None:
    row = conn.execute(_of(tenant_id).where(equals(completions.c.id, completion_id))).first()
    return CompletionRow(*row) if row else None


def list_completions(
    conn: sa.Connection,
    tenant_id: str,
    *,
    limit: int,
    order: str = "asc",
    after: str | None = None,
    model: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> tuple[list[CompletionRow], bool]:
    """One page by time, and whether more follow. metadata: entries that each of them has.

    Raises: InvalidRequest for an unknown cursor.
    """
    query = _of(tenant_id)
    if model is not None:
        query = query.where(equals(completions.c.model, model))
    for key, value in (metadata or {}).items():
        query = query.where(_has_entry(conn, key, value))
    rows, more = page(
        conn,
        query,
        created_at=completions.c.created_at,
        key=completions.c.id,
        limit=limit,
        order=order,
        after=after,
    )
    return [CompletionRow(*row) for row in rows], more


def update_completion(
    conn: sa.Connection, tenant_id: str, completion_id: str, metadata: dict[str, Any]
) -> CompletionRow | None:
    """The row afterwards, or None when there is no such completion."""
    conn.execute(sa.update(completions).where(_is(tenant_id, completion_id)).values({"metadata": metadata}))
    return get_completion(conn, tenant_id, completion_id)


def delete_completion(conn: sa.Connection, tenant_id: str, completion_id: str) -> bool:
    return conn.execute(sa.delete(completions).where(_is(tenant_id, completion_id))).rowcount > 0


def _has_entry(conn: sa.Connection, key: str, value: str) -> sa.ColumnElement[bool]:
    column = completions.c.metadata
    if not (could_hold(completions.c.body, key) and could_hold(completions.c.body, value)):
        return sa.false()
    if conn.dialect.name != "sqlite":
        wanted: sa.ColumnElement[bool] = column[key].as_string() == value
        return wanted
    # A path into JSON has no form for some keys there, and misses those that stand escaped in the text.
    each = sa.func.json_each(column).table_valued("key", "value")
    found = sa.select(sa.literal(1)).select_from(each).where(each.c.key == key, each.c.value == value)
    return found.correlate(completions).exists()


def _of(tenant_id: str) -> AnySelect:
    return sa.select(completions).where(completions.c.tenant_id == tenant_id)


def _is(tenant_id: str, completion_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(completions.c.tenant_id == tenant_id, equals(completions.c.id, completion_id))
