"""How much the ingest queue holds: what gauges, alerts and autoscaling go by."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from gateway.storage.schema import collection_files


class Backlog(NamedTuple):
    """num_files: in work or waiting. num_working: under a lease. oldest_s: since the oldest was attached (seconds).

    most_attempts: of one file; each beyond the first is a worker that died over it.
    """

    num_files: int = 0
    num_working: int = 0
    oldest_s: float = 0.0
    most_attempts: int = 0


def ingest_backlog(conn: sa.Connection, now: float) -> Backlog:
    """Of all tenants. now: unix seconds. One look at an index, so cheap enough for every few seconds."""
    table = collection_files.c
    query = sa.select(
        sa.func.count(),
        sa.func.count(sa.case((table.lease_until > now, 1))),
        sa.func.min(table.created_at),
        sa.func.max(table.attempts),
    ).where(table.status == "in_progress")
    num_files, num_working, oldest, attempts = conn.execute(query).one()
    if not num_files:
        return Backlog()
    return Backlog(num_files, num_working, max(0.0, now - oldest), attempts)
