"""Receipts and usage. A request id is written once, however often it is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from gateway.storage.database import insert_or_ignore
from gateway.storage.match import equals
from gateway.storage.schema import receipts, usage
from gateway.types import Outcome

RECEIPT_DAYS = 30  # for so long receipts are kept; usage is kept for ever


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """How one request ended. body_json: JSON of types.Receipt; tier empty = no tier was reached;
    created_at: unix seconds."""

    receipt_id: str
    tenant_id: str
    key_id: str
    tier: str
    outcome: str
    body_json: str
    prompt_tokens: int
    completion_tokens: int
    created_at: int


class UsageTotal(msgspec.Struct, frozen=True):
    tier: str
    num_requests: int
    prompt_tokens: int
    completion_tokens: int


def record(conn: sa.Connection, entries: Sequence[LedgerEntry]) -> None:
    """Write receipts and usage; entries that are there already stay as they are.

    Billed, and so counted as usage, is what was answered, and of what broke off what was sent: not what was refused,
    left or failed before its first token.
    """
    if not entries:
        return
    conn.execute(insert_or_ignore(conn, receipts), [_receipt(entry) for entry in entries])
    billed = [_usage(entry) for entry in entries if is_billed(entry)]
    if billed:
        conn.execute(insert_or_ignore(conn, usage), billed)


def get_receipt(conn: sa.Connection, tenant_id: str, receipt_id: str) -> str | None:
    """The receipt's JSON; None when it is unknown or another tenant's."""
    query = sa.select(receipts.c.body).where(
        equals(receipts.c.id, receipt_id), receipts.c.tenant_id == tenant_id
    )
    return conn.execute(query).scalar()


def prune(conn: sa.Connection, before: int, limit: int) -> int:
    """Delete the oldest receipts made before a time (unix seconds), at most `limit`. Returns how many."""
    oldest = (
        sa.select(receipts.c.id)
        .where(receipts.c.created_at < before)
        .order_by(receipts.c.created_at)
        .limit(limit)
    )
    return conn.execute(sa.delete(receipts).where(receipts.c.id.in_(oldest))).rowcount


def usage_totals(conn: sa.Connection, tenant_id: str) -> list[UsageTotal]:
    """Per tier, by name."""
    query = (
        sa.select(
            usage.c.tier,
            sa.func.count(),
            sa.func.sum(usage.c.prompt_tokens),
            sa.func.sum(usage.c.completion_tokens),
        )
        .where(usage.c.tenant_id == tenant_id)
        .group_by(usage.c.tier)
        .order_by(usage.c.tier)
    )
    return [
        UsageTotal(tier, count, int(prompt), int(done)) for tier, count, prompt, done in conn.execute(query)
    ]


def is_billed(entry: LedgerEntry) -> bool:
    """Whether it counts as usage."""
    was_answered = entry.outcome in {Outcome.COMPLETED, Outcome.CACHED}
    return bool(entry.tier) and (was_answered or entry.completion_tokens > 0)


def _receipt(entry: LedgerEntry) -> dict[str, object]:
    return {
        "id": entry.receipt_id,
        "tenant_id": entry.tenant_id,
        "outcome": entry.outcome,
        "body": entry.body_json,
        "created_at": entry.created_at,
    }


def _usage(entry: LedgerEntry) -> dict[str, object]:
    return {
        "request_id": entry.receipt_id,
        "tenant_id": entry.tenant_id,
        "key_id": entry.key_id,
        "tier": entry.tier,
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.completion_tokens,
        "created_at": entry.created_at,
    }
