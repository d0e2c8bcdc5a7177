"""Limits of tenants and keys as they are stored, and what the ledger has of a month. Minutes are Redis's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.storage.match import equals
from gateway.storage.schema import api_keys, tenants, usage
from gateway.types import Limits

NAMES = Limits.__struct_fields__
MAX_LIMIT = 2**31 - 1  # of requests and streams; tokens may be more
MAX_TOKENS = 2**63 - 1
DAY_S = 86_400


class TenantRow(msgspec.Struct, frozen=True):
    id: str
    name: str
    created_at: int
    limits: Limits


class DayUsage(msgspec.Struct, frozen=True):
    """day: unix seconds of its beginning (UTC). model: the tier that answered, or the embedding model."""

    day: int
    model: str
    num_requests: int
    prompt_tokens: int
    completion_tokens: int


def columns(table: sa.Table) -> list[sa.Column[Any]]:
    """A table's limits, in the order of types.Limits."""
    return [table.c[name] for name in NAMES]


def limits_of(values: Any) -> Limits:
    """From a row of `columns`."""
    return Limits(**dict(zip(NAMES, values, strict=True)))


def tenant_limits(conn: sa.Connection, tenant_id: str) -> Limits:
    """Not set for a tenant that is unknown."""
    row = conn.execute(sa.select(*columns(tenants)).where(equals(tenants.c.id, tenant_id))).first()
    return limits_of(row) if row else Limits()


def list_tenants(conn: sa.Connection) -> list[TenantRow]:
    """By name."""
    query = sa.select(tenants.c.id, tenants.c.name, tenants.c.created_at, *columns(tenants)).order_by(
        tenants.c.name
    )
    return [TenantRow(row[0], row[1], row[2], limits_of(row[3:])) for row in conn.execute(query)]


def key_limits(conn: sa.Connection) -> dict[str, Limits]:
    """Of all keys that have one, by key id."""
    found = {row[0]: limits_of(row[1:]) for row in conn.execute(sa.select(api_keys.c.id, *columns(api_keys)))}
    return {key_id: limits for key_id, limits in found.items() if limits != Limits()}


def set_tenant_limits(conn: sa.Connection, name: str, values: Mapping[str, int | None]) -> bool:
    """Change the limits that are named, of the tenant with this name. False when there is none."""
    return _set(conn, tenants, tenants.c.name == name, values)


def set_key_limits(conn: sa.Connection, key_id: str, values: Mapping[str, int | None]) -> bool:
    """Change the limits that are named. False when there is no such key."""
    return _set(conn, api_keys, equals(api_keys.c.id, key_id), values)


def _set(
    conn: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool], values: Mapping[str, int | None]
) -> bool:
    unknown = set(values) - set(NAMES)
    if unknown:
        raise ValueError(f"no limits: {sorted(unknown)}")
    if not values:
        return conn.execute(sa.select(sa.literal(1)).select_from(table).where(where)).first() is not None
    return conn.execute(sa.update(table).where(where).values(**values)).rowcount > 0


def tokens_since(conn: sa.Connection, tenant_id: str, since: int, *, key_id: str = "") -> int:
    """What was billed since then (unix seconds), to the tenant or to one of its keys."""
    query = sa.select(
        sa.func.coalesce(sa.func.sum(usage.c.prompt_tokens + usage.c.completion_tokens), 0)
    ).where(usage.c.tenant_id == tenant_id, usage.c.created_at >= since)
    if key_id:
        query = query.where(usage.c.key_id == key_id)
    return int(conn.execute(query).scalar_one())


def usage_by_day(conn: sa.Connection, tenant_id: str, since: int, until: int) -> list[DayUsage]:
    """By day and model, oldest first; only days with usage. since, until: unix seconds, until is not part of it."""
    # Written out: a bound value would not be the same expression in GROUP BY.
    day = usage.c.created_at // sa.literal_column(str(DAY_S))
    query = (
        sa.select(
            day,
            usage.c.tier,
            sa.func.count(),
            sa.func.sum(usage.c.prompt_tokens),
            sa.func.sum(usage.c.completion_tokens),
        )
        .where(usage.c.tenant_id == tenant_id, usage.c.created_at >= since, usage.c.created_at < until)
        .group_by(day, usage.c.tier)
        .order_by(day, usage.c.tier)
    )
    return [
        DayUsage(int(row[0]) * DAY_S, row[1], row[2], int(row[3]), int(row[4])) for row in conn.execute(query)
    ]
