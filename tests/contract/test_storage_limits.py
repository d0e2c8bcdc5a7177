"""Limits of tenants and keys; a month of the ledger."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from gateway.storage import keys, ledger, limits
from gateway.storage.limits import DAY_S, DayUsage
from gateway.types import Limits

MONTH = 1_795_996_800  # 2026-11-30 00:00 UTC


def test_nothing_is_limited_before_it_is_set(conn: sa.Connection) -> None:
    _, key = keys.create_key(conn, tenant="acme", name="ci")
    tenant = keys.find_key(conn, keys.hash_key(key))
    assert tenant is not None
    assert (tenant.limits, tenant.key_limits) == (Limits(), Limits())
    assert limits.key_limits(conn) == {}


def test_limits_of_tenant_and_key_come_with_the_key(conn: sa.Connection) -> None:
    row, key = keys.create_key(conn, tenant="acme", name="ci")
    assert limits.set_tenant_limits(conn, "acme", {"monthly_tokens": 10**12, "requests_per_minute": 0})
    assert limits.set_key_limits(conn, row.id, {"concurrent_streams": 3})
    tenant = keys.find_key(conn, keys.hash_key(key))
    assert tenant is not None
    assert tenant.limits == Limits(monthly_tokens=10**12, requests_per_minute=0)
    assert tenant.key_limits == Limits(concurrent_streams=3)
    assert limits.tenant_limits(conn, row.tenant_id) == tenant.limits
    assert limits.key_limits(conn) == {row.id: Limits(concurrent_streams=3)}


def test_only_what_is_named_changes(conn: sa.Connection) -> None:
    assert limits.set_tenant_limits(conn, "other", {"requests_per_minute": 5, "tokens_per_minute": 7})
    assert limits.set_tenant_limits(conn, "other", {"requests_per_minute": None})
    assert limits.set_tenant_limits(conn, "other", {})
    assert limits.tenant_limits(conn, "other") == Limits(tokens_per_minute=7)
    assert limits.tenant_limits(conn, "default") == Limits()
    assert [(row.name, row.limits.tokens_per_minute) for row in limits.list_tenants(conn)] == [
        ("default", None),
        ("other", 7),
    ]


def test_who_is_unknown_has_no_limits_to_set(conn: sa.Connection) -> None:
    assert not limits.set_tenant_limits(conn, "nobody", {"requests_per_minute": 5})
    assert not limits.set_key_limits(conn, "key_none", {"requests_per_minute": 5})
    assert not limits.set_key_limits(conn, "key_none", {})
    assert limits.tenant_limits(conn, "nobody") == Limits()


def _entry(receipt_id: str, **values: Any) -> ledger.LedgerEntry:
    base = {
        "tenant_id": "default",
        "key_id": "key_1",
        "tier": "fast",
        "outcome": "completed",
        "body_json": "{}",
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "created_at": MONTH,
    }
    return ledger.LedgerEntry(receipt_id=receipt_id, **(base | values))


def test_a_month_is_summed_by_tenant_and_by_key(conn: sa.Connection) -> None:
    entries = [
        _entry("r1"),
        _entry("r2", key_id="key_2"),
        _entry("r3", created_at=MONTH - 1),
        _entry("r4", tenant_id="other"),
    ]
    ledger.record(conn, entries)
    assert limits.tokens_since(conn, "default", MONTH) == 26
    assert limits.tokens_since(conn, "default", MONTH, key_id="key_2") == 13
    assert limits.tokens_since(conn, "nobody", MONTH) == 0


def test_usage_is_told_by_day_and_model(conn: sa.Connection) -> None:
    entries = [
        _entry("r1"),
        _entry("r2", created_at=MONTH + DAY_S - 1),
        _entry("r3", tier="deep", created_at=MONTH + 5),
        _entry("r4", created_at=MONTH + DAY_S),
        _entry("r5", created_at=MONTH + 2 * DAY_S),
        _entry("r6", tenant_id="other"),
    ]
    ledger.record(conn, entries)
    assert limits.usage_by_day(conn, "default", MONTH, MONTH + 2 * DAY_S) == [
        DayUsage(MONTH, "deep", 1, 10, 3),
        DayUsage(MONTH, "fast", 2, 20, 6),
        DayUsage(MONTH + DAY_S, "fast", 1, 10, 3),
    ]


def test_what_broke_off_is_billed_only_if_something_was_sent(conn: sa.Connection) -> None:
    entries = [
        _entry("left midway", outcome="evicted", prompt_tokens=50, completion_tokens=4),
        _entry("left before the first token", outcome="evicted", prompt_tokens=50, completion_tokens=0),
        _entry("failed before it", outcome="failed", prompt_tokens=50, completion_tokens=0),
    ]
    ledger.record(conn, entries)
    assert limits.tokens_since(conn, "default", MONTH) == 54
