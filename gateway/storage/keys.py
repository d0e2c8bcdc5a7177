"""Tenants and API keys. A key is shown once, when it is made; only its hash is stored."""

from __future__ import annotations

import hashlib
import secrets
import time

import msgspec
import sqlalchemy as sa

from gateway.errors import Conflict
from gateway.storage.database import insert_or_ignore
from gateway.storage.ids import new_id
from gateway.storage.limits import columns, limits_of
from gateway.storage.schema import api_keys, tenants
from gateway.types import Tenant

DEFAULT_TENANT = "default"


class KeyRow(msgspec.Struct, frozen=True):
    """A key as it may be shown. tenant: the tenant's name; hint: the key's last 4 characters."""

    id: str
    tenant_id: str
    tenant: str
    name: str
    hint: str
    is_admin: bool
    created_at: int
    revoked_at: int | None


_KEY_ROWS = sa.select(
    api_keys.c.id,
    api_keys.c.tenant_id,
    tenants.c.name,
    api_keys.c.name,
    api_keys.c.hint,
    api_keys.c.is_admin,
    api_keys.c.created_at,
    api_keys.c.revoked_at,
).join(tenants, tenants.c.id == api_keys.c.tenant_id)


def new_key() -> str:
    return "tg-" + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    # Plain SHA-256 on purpose: the key has 256 random bits, so there is nothing for a slow hash to slow down.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def find_key(conn: sa.Connection, key_hash: str) -> Tenant | None:
    """Whose key this is; None for unknown and revoked ones."""
    of_tenant, of_key = columns(tenants), columns(api_keys)
    query = (
        sa.select(api_keys.c.tenant_id, api_keys.c.id, api_keys.c.is_admin, *of_tenant, *of_key)
        .join(tenants, tenants.c.id == api_keys.c.tenant_id)
        .where(api_keys.c.hash == key_hash, api_keys.c.revoked_at.is_(None))
    )
    row = conn.execute(query).first()
    if row is None:
        return None
    tenant_id, key_id, is_admin, *limits = row
    return Tenant(
        tenant_id=tenant_id,
        key_id=key_id,
        is_admin=is_admin,
        limits=limits_of(limits[: len(of_tenant)]),
        key_limits=limits_of(limits[len(of_tenant) :]),
    )


def ensure_tenant(conn: sa.Connection, name: str) -> str:
    """The id of the tenant with this name, made when missing. The default tenant's id is its name."""
    find = sa.select(tenants.c.id).where(tenants.c.name == name)
    found = conn.execute(find).scalar()
    if found is None:
        tenant_id = DEFAULT_TENANT if name == DEFAULT_TENANT else new_id("tn_")
        row = {"id": tenant_id, "name": name, "created_at": int(time.time())}
        conn.execute(insert_or_ignore(conn, tenants), row)
        found = conn.execute(find).scalar_one()  # another process may have been first
    return str(found)


def create_key(
    conn: sa.Connection, *, tenant: str, name: str, is_admin: bool = False, key: str | None = None
) -> tuple[KeyRow, str]:
    """A new key of the tenant with this name. The second value is the key itself, never to be had again.

    With `key` given that one is stored; if it is there already its row comes back as it is, a revoked one
    still revoked.
    Raises: Conflict when the given key belongs to another tenant.
    """
    tenant_id = ensure_tenant(conn, tenant)
    secret = key or new_key()
    row = {
        "id": new_id("key_"),
        "tenant_id": tenant_id,
        "name": name,
        "hash": hash_key(secret),
        "hint": secret[-4:],
        "is_admin": is_admin,
        "created_at": int(time.time()),
    }
    conn.execute(insert_or_ignore(conn, api_keys), row)
    stored = KeyRow(*conn.execute(_KEY_ROWS.where(api_keys.c.hash == row["hash"])).one())
    if stored.tenant_id != tenant_id:
        raise Conflict("This key already belongs to another tenant.")
    return stored, secret


def list_keys(conn: sa.Connection, tenant_id: str | None = None) -> list[KeyRow]:
    """Oldest first, revoked ones too; of every tenant when none is given."""
    query = _KEY_ROWS.order_by(api_keys.c.created_at, api_keys.c.id)
    if tenant_id is not None:
        query = query.where(api_keys.c.tenant_id == tenant_id)
    return [KeyRow(*row) for row in conn.execute(query)]


def revoke_key(conn: sa.Connection, key_id: str) -> bool:
    """False when there is no such key or it was revoked before."""
    change = (
        sa.update(api_keys)
        .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=int(time.time()))
    )
    return conn.execute(change).rowcount > 0
