"""Limits through the command line: of tenants, of keys, refused where they make no sense."""

from __future__ import annotations

import pytest

from tests.integration.cli.conftest import Run


def test_a_key_is_made_with_its_limits(bare: Run) -> None:
    made = bare(
        "keys", "create", "--tenant", "acme", "--name", "batch", "--requests-per-minute", "60", "--json"
    ).json()
    assert made["limits"] == {"requests_per_minute": 60}
    (listed,) = bare("keys", "list", "--json").json()
    assert listed["limits"]["requests_per_minute"] == 60
    assert listed["limits"]["monthly_tokens"] is None


def test_a_keys_limits_can_be_changed_and_reset(bare: Run) -> None:
    made = bare("keys", "create", "--tenant", "acme", "--name", "ci", "--json").json()
    assert bare("keys", "limit", made["id"], "--concurrent-streams", "4").code == 0
    assert bare("keys", "limit", made["id"], "--monthly-tokens", "5").code == 0
    limits = bare("keys", "list", "--json").json()[0]["limits"]
    assert (limits["concurrent_streams"], limits["monthly_tokens"]) == (4, 5)
    assert "- - 4 5" in bare("keys", "list").out
    assert bare("keys", "limit", made["id"], "--reset", "--concurrent-streams", "0").code == 0
    limits = bare("keys", "list", "--json").json()[0]["limits"]
    assert (limits["concurrent_streams"], limits["monthly_tokens"]) == (0, None)


def test_a_tenant_is_limited_by_its_name_and_made_when_missing(bare: Run) -> None:
    assert bare("tenants", "limit", "acme", "--tokens-per-minute", "90000").out == "Set the limits of acme.\n"
    (row,) = bare("tenants", "list", "--json").json()
    assert (row["name"], row["limits"]["tokens_per_minute"]) == ("acme", 90000)
    assert bare("tenants", "limit", "acme", "--requests-per-minute", "0").code == 0
    listed = bare("tenants", "list").out
    assert "90,000" in listed
    assert "unlimited" in listed


def test_tenants_of_a_folder_without_a_database_are_an_error(bare: Run) -> None:
    assert bare("tenants", "list").code == 1


@pytest.mark.parametrize(
    "args",
    [
        ("tenants", "limit", "acme"),
        ("tenants", "limit", " ", "--monthly-tokens", "1"),
        ("tenants", "limit", "acme", "--requests-per-minute", "-1"),
        ("tenants", "limit", "acme", "--requests-per-minute", "3000000000"),
        ("keys", "limit", "key_1"),
        ("keys", "create", "--tenant", "a", "--name", "b", "--concurrent-streams", "3000000000"),
    ],
    ids=["nothing named", "no name", "negative", "too large", "a key's nothing", "a key's too large"],
)
def test_wrong_usage_is_told(bare: Run, args: tuple[str, ...]) -> None:
    assert bare(*args).code == 2


def test_a_key_that_is_unknown_is_told(bare: Run) -> None:
    bare("keys", "create", "--tenant", "acme", "--name", "ci")
    result = bare("keys", "limit", "key_none", "--monthly-tokens", "1")
    assert (result.code, "key_none" in result.err) == (1, True)
