"""What a tenant may ask for: its tiers, and how far its answers may be taken down under load."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from gateway.errors import NotFound
from gateway.storage.match import equals
from gateway.storage.schema import tenant_rights, tenants
from gateway.types import Tenant


class Rights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """tiers: empty = all. floor: the ladder's last step for this tenant; empty = any, `none` = no step."""

    tiers: list[str] = []
    floor: str = ""


def get_rights(conn: sa.Connection, tenant: str) -> Rights:
    """By the tenant's name. Raises: NotFound."""
    return _of(conn, _tenant_id(conn, tenant))


def set_rights(conn: sa.Connection, tenant: str, *, tiers: Sequence[str], floor: str) -> None:
    """Replace them, by the tenant's name; gateways learn it as they learn of keys. Raises: NotFound."""
    tenant_id = _tenant_id(conn, tenant)
    conn.execute(sa.delete(tenant_rights).where(tenant_rights.c.tenant_id == tenant_id))
    if tiers or floor:
        row = {"tenant_id": tenant_id, "tiers": list(tiers), "floor": floor}
        conn.execute(sa.insert(tenant_rights), row)


def with_rights(conn: sa.Connection, tenant: Tenant) -> Tenant:
    """A tenant that was found by its key, with what it may ask for."""
    rights = _of(conn, tenant.tenant_id)
    return msgspec.structs.replace(tenant, tiers=tuple(rights.tiers), floor=rights.floor)


def _of(conn: sa.Connection, tenant_id: str) -> Rights:
    query = sa.select(tenant_rights.c.tiers, tenant_rights.c.floor).where(
        tenant_rights.c.tenant_id == tenant_id
    )
    row = conn.execute(query).first()
    return Rights(*row) if row else Rights()


def _tenant_id(conn: sa.Connection, tenant: str) -> str:
    found = conn.execute(sa.select(tenants.c.id).where(equals(tenants.c.name, tenant))).scalar()
    if found is None:
        raise NotFound(f"No such tenant: {tenant[:100]}.", code="tenant_not_found", param="tenant")
    return str(found)
