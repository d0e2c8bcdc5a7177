"""Receipts and usage. A request id is written once, however often it is recorded."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from gateway.shown import SharedPassages
from gateway.storage.database import insert_many
from gateway.storage.match import equals
from gateway.storage.schema import receipt_passages, receipts, usage
from gateway.types import Outcome

RECEIPT_DAYS = 30  # for so long receipts are kept; usage is kept for ever
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class PassagesPlace(NamedTuple):
    tenant_id: str
    digest: str
    day: int


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """How one request ended. body_json: JSON of types.Receipt; tier empty = no tier was reached;
    created_at: unix seconds. passages: those of the receipt, where `body_json` has none and they are stored apart."""

    receipt_id: str
    tenant_id: str
    key_id: str
    tier: str
    outcome: str
    body_json: str
    prompt_tokens: int
    completion_tokens: int
    created_at: int
    passages: SharedPassages | None = None

    @property
    def place(self) -> PassagesPlace | None:
        """Where its passages are stored, for all receipts of the day that tell the same ones."""
        if self.passages is None:
            return None
        return PassagesPlace(self.tenant_id, self.passages.digest, _day(self.created_at))


class UsageTotal(msgspec.Struct, frozen=True):
    tier: str
    num_requests: int
    prompt_tokens: int
    completion_tokens: int


def record(
    conn: sa.Connection, entries: Sequence[LedgerEntry], stored: Container[PassagesPlace] = ()
) -> None:
    """Write receipts and usage; entries that are there already stay as they are. stored: passages that are known to be
    there.

    Billed, and so counted as usage, is what was answered, and of what broke off what was sent: not what was refused,
    left or failed before its first token.
    """
    if not entries:
        return
    places = [entry.place for entry in entries]
    apart = {
        place: each.passages.json.decode()
        for place, each in zip(places, entries, strict=True)
        if place is not None and each.passages is not None and place not in stored
    }
    insert_many(conn, receipt_passages, _PASSAGES, [(*place, body) for place, body in apart.items()])
    insert_many(conn, receipts, _RECEIPT, [_receipt(entry) for entry in entries])
    insert_many(conn, usage, _USAGE, [_usage(entry) for entry in entries if is_billed(entry)])


def get_receipt(conn: sa.Connection, tenant_id: str, receipt_id: str) -> str | None:
    """The receipt's JSON; None when it is unknown or another tenant's."""
    query = sa.select(receipts.c.body, receipts.c.passages, receipts.c.created_at).where(
        equals(receipts.c.id, receipt_id), receipts.c.tenant_id == tenant_id
    )
    row = conn.execute(query).one_or_none()
    if row is None or row.passages is None:
        return None if row is None else str(row.body)
    apart = sa.select(receipt_passages.c.body).where(
        receipt_passages.c.tenant_id == tenant_id,
        receipt_passages.c.digest == row.passages,
        receipt_passages.c.day == _day(row.created_at),
    )
    told: str = conn.execute(apart).scalar() or "[]"
    return with_passages(row.body.encode(), told.encode()).decode()


def with_passages(body: bytes, passages: bytes) -> bytes:
    """A receipt's JSON with those in the place of its own."""
    fields = _FIELDS.decode(body)
    fields["passages"] = msgspec.Raw(passages)
    return msgspec.json.encode(fields)


def prune(conn: sa.Connection, before: int, limit: int) -> int:
    """Delete the oldest receipts made before a time (unix seconds), at most `limit`. Returns how many."""
    oldest = (
        sa.select(receipts.c.id)
        .where(receipts.c.created_at < before)
        .order_by(receipts.c.created_at)
        .limit(limit)
    )
    conn.execute(sa.delete(receipt_passages).where(receipt_passages.c.day < _day(before)))
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


_PASSAGES = (*PassagesPlace._fields, "body")
_RECEIPT = ("id", "tenant_id", "outcome", "body", "created_at", "passages")
_USAGE = ("request_id", "tenant_id", "key_id", "tier", "prompt_tokens", "completion_tokens", "created_at")


def _receipt(entry: LedgerEntry) -> tuple[object, ...]:
    told = None if entry.passages is None else entry.passages.digest
    return entry.receipt_id, entry.tenant_id, entry.outcome, entry.body_json, entry.created_at, told


def _day(at: int) -> int:
    return at // 86_400


def _usage(entry: LedgerEntry) -> tuple[object, ...]:
    used = entry.prompt_tokens, entry.completion_tokens
    return entry.receipt_id, entry.tenant_id, entry.key_id, entry.tier, *used, entry.created_at
