"""What a tenant may ask for, on every database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from gateway.errors import NotFound
from gateway.storage import keys, rights
from gateway.types import Tenant


def test_a_tenant_has_every_right_until_some_are_set(conn: sa.Connection) -> None:
    keys.ensure_tenant(conn, "acme")
    assert rights.get_rights(conn, "acme") == rights.Rights()


def test_rights_are_replaced_as_a_whole_and_follow_the_key(conn: sa.Connection) -> None:
    row, secret = keys.create_key(conn, tenant="acme", name="k")
    keys.create_key(conn, tenant="rival", name="k")
    rights.set_rights(conn, "acme", tiers=["fast", "deep"], floor="no_rerank")
    rights.set_rights(conn, "acme", tiers=["fast"], floor="none")
    found = keys.find_key(conn, keys.hash_key(secret))
    assert found is not None
    tenant = rights.with_rights(conn, found)
    assert (tenant.tenant_id, tenant.tiers, tenant.floor) == (row.tenant_id, ("fast",), "none")
    assert rights.get_rights(conn, "rival") == rights.Rights()
    rights.set_rights(conn, "acme", tiers=[], floor="")
    assert rights.with_rights(conn, found) == found


@pytest.mark.parametrize("name", ["nobody", "", "\0", "\ud800", "x" * 300], ids=ascii)
def test_an_unknown_tenant_has_none(conn: sa.Connection, name: str) -> None:
    with pytest.raises(NotFound):
        rights.get_rights(conn, name)
    with pytest.raises(NotFound):
        rights.set_rights(conn, name, tiers=[], floor="")
    assert rights.with_rights(conn, Tenant("gone")) == Tenant("gone")
