"""Keys and tenants; receipts and what is billed."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from gateway.errors import Conflict
from gateway.shown import SharedPassages
from gateway.storage import keys, ledger, schema


def test_a_new_key_finds_its_tenant_and_is_not_stored(conn: sa.Connection) -> None:
    row, key = keys.create_key(conn, tenant="acme", name="ci", is_admin=True)
    tenant = keys.find_key(conn, keys.hash_key(key))
    assert tenant is not None
    assert (tenant.tenant_id, tenant.key_id, tenant.is_admin) == (row.tenant_id, row.id, True)
    assert key not in str(conn.execute(sa.select(schema.api_keys)).all())
    assert row.hint == key[-4:]


def test_a_given_key_is_stored_once(conn: sa.Connection) -> None:
    first, _ = keys.create_key(conn, tenant="default", name="development", key="tg-given")
    second, key = keys.create_key(conn, tenant="default", name="again", key="tg-given")
    assert (first, key) == (second, "tg-given")


def test_a_key_of_another_tenant_is_a_conflict(conn: sa.Connection) -> None:
    keys.create_key(conn, tenant="default", name="a", key="tg-given")
    with pytest.raises(Conflict):
        keys.create_key(conn, tenant="other", name="b", key="tg-given")


def test_a_revoked_key_opens_nothing_and_stays_revoked(conn: sa.Connection) -> None:
    row, key = keys.create_key(conn, tenant="default", name="old")
    assert keys.revoke_key(conn, row.id)
    assert not keys.revoke_key(conn, row.id)
    assert keys.find_key(conn, keys.hash_key(key)) is None
    again, _ = keys.create_key(conn, tenant="default", name="old", key=key)
    assert again.revoked_at is not None


def test_keys_are_listed_per_tenant(conn: sa.Connection) -> None:
    mine, _ = keys.create_key(conn, tenant="default", name="mine")
    theirs, _ = keys.create_key(conn, tenant="other", name="theirs")
    assert keys.list_keys(conn, "other") == [theirs]
    assert keys.list_keys(conn) == [mine, theirs]


def test_tenants_are_made_once_and_the_default_has_a_fixed_id(conn: sa.Connection) -> None:
    assert keys.ensure_tenant(conn, "default") == "default"
    assert keys.ensure_tenant(conn, "acme") == keys.ensure_tenant(conn, "acme") != "acme"


def _entry(receipt_id: str, **values: Any) -> ledger.LedgerEntry:
    base = {
        "tenant_id": "default",
        "key_id": "key_1",
        "tier": "fast",
        "outcome": "completed",
        "body_json": '{"id":"x"}',
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "created_at": 1,
    }
    return ledger.LedgerEntry(receipt_id=receipt_id, **(base | values))


def test_a_request_is_billed_once(conn: sa.Connection) -> None:
    ledger.record(conn, [_entry("r1"), _entry("r2", tier="deep"), _entry("r3")])
    ledger.record(conn, [_entry("r1", prompt_tokens=99), _entry("r4", tier="", outcome="rejected")])
    ledger.record(conn, [])
    totals = [ledger.UsageTotal("deep", 1, 10, 3), ledger.UsageTotal("fast", 2, 20, 6)]
    assert ledger.usage_totals(conn, "default") == totals
    assert ledger.usage_totals(conn, "other") == []


def test_usage_is_what_a_tier_has_worked_on(conn: sa.Connection) -> None:
    refused = {"prompt_tokens": 0, "completion_tokens": 0}
    entries = [
        _entry("done"),
        _entry("done, nothing read", **refused),
        _entry("left midway", outcome="evicted", completion_tokens=1),
        _entry("refused", outcome="rejected", **refused),
        _entry("evicted in the queue", outcome="evicted", **refused),
        _entry("failed before the start", outcome="failed", **refused),
        _entry("no tier", tier="", outcome="rejected"),
    ]
    ledger.record(conn, entries)
    assert ledger.usage_totals(conn, "default") == [ledger.UsageTotal("fast", 3, 20, 4)]
    assert all(ledger.get_receipt(conn, "default", entry.receipt_id) for entry in entries)


def test_old_receipts_go_a_few_at_a_time_and_usage_stays(conn: sa.Connection) -> None:
    ledger.record(conn, [_entry(f"r{number}", created_at=number) for number in range(10)])
    assert ledger.prune(conn, 7, 5) == 5
    assert ledger.get_receipt(conn, "default", "r4") is None
    assert ledger.get_receipt(conn, "default", "r5") is not None
    assert [ledger.prune(conn, 7, 5) for _ in range(2)] == [2, 0]
    assert ledger.get_receipt(conn, "default", "r7") is not None
    assert ledger.usage_totals(conn, "default") == [ledger.UsageTotal("fast", 10, 100, 30)]


def test_passages_of_many_receipts_are_stored_once_a_day_and_go_with_the_last_receipt(
    conn: sa.Connection,
) -> None:
    day, told = 86_400, SharedPassages([{"n": 1, "text": "Tides turn twice."}])
    entries = [
        _entry("r1", body_json='{"id":"r1","passages":[]}', created_at=day, passages=told),
        _entry("r2", body_json='{"id":"r2","passages":[]}', created_at=2 * day - 1, passages=told),
        _entry("r3", body_json='{"id":"r3","passages":[]}', created_at=2 * day, passages=told),
        _entry("r4", tenant_id="other", body_json='{"passages":[]}', created_at=day, passages=told),
    ]
    ledger.record(conn, entries)
    count = sa.select(sa.func.count()).select_from(schema.receipt_passages)
    assert conn.execute(count).scalar() == 3
    whole = '{"id":"%s","passages":[{"n":1,"text":"Tides turn twice."}]}'
    for name in ("r1", "r2", "r3"):
        assert ledger.get_receipt(conn, "default", name) == whole % name
    assert ledger.prune(conn, 2 * day, 10) == 3
    assert conn.execute(count).scalar() == 1
    assert ledger.get_receipt(conn, "default", "r3") == whole % "r3"


def test_passages_that_are_known_to_be_stored_are_not_written_again(conn: sa.Connection) -> None:
    entry = _entry("r1", body_json='{"passages":[]}', passages=SharedPassages([{"n": 1}]))
    ledger.record(conn, [entry], {entry.place})
    assert (
        ledger.get_receipt(conn, "default", "r1") == '{"passages":[]}'
    )  # a store that lost them tells the rest


def test_receipts_are_seen_by_their_tenant_only(conn: sa.Connection) -> None:
    ledger.record(conn, [_entry("r1")])
    assert ledger.get_receipt(conn, "default", "r1") == '{"id":"x"}'
    assert ledger.get_receipt(conn, "other", "r1") is None
    assert ledger.get_receipt(conn, "default", "r2") is None
