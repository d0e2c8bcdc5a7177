"""Cursor pages over (created_at, id): stable while rows come and go between two pages."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from gateway.errors import InvalidRequest
from gateway.storage.match import equals

# SQLAlchemy 2.1 counts columns in the type: sa.Select[Any] would be a query of exactly one.
AnySelect = sa.Select[*tuple[Any, ...]]
AnyRow = sa.Row[*tuple[Any, ...]]


def page(
    conn: sa.Connection,
    query: AnySelect,
    *,
    created_at: sa.ColumnElement[int],
    key: sa.Column[Any],
    limit: int,
    order: str,
    after: str | None = None,
    before: str | None = None,
) -> tuple[list[AnyRow], bool]:
    """One page of the query's rows and whether more follow in the direction of travel.

    `after` and `before` are keys of rows of the same query. With `before` the page holds the rows closest
    before it, still in the asked order.
    Raises: InvalidRequest for an unknown cursor or order.
    """
    if order not in {"asc", "desc"}:
        raise InvalidRequest("order must be `asc` or `desc`.", param="order")
    place = sa.tuple_(created_at, key)
    backwards = before is not None and after is None
    ascending = (order == "asc") != backwards
    bounded = query
    for name, cursor in (("after", after), ("before", before)):
        if cursor is not None:
            place_of_cursor = query.with_only_columns(created_at, key).where(equals(key, cursor))
            mark = _mark(conn, place_of_cursor, name)
            bounded = bounded.where(place > mark if (order == "asc") == (name == "after") else place < mark)
    directed = (created_at.asc(), key.asc()) if ascending else (created_at.desc(), key.desc())
    rows = list(conn.execute(bounded.order_by(*directed).limit(limit + 1)))
    found, more = rows[:limit], len(rows) > limit
    return (found[::-1] if backwards else found), more


def _mark(conn: sa.Connection, place_of_cursor: AnySelect, name: str) -> sa.Tuple:
    row = conn.execute(place_of_cursor).first()
    if row is None:
        raise InvalidRequest(f"{name} is not the id of an entry of this list.", param=name)
    return sa.tuple_(sa.literal(row[0]), sa.literal(row[1]))
