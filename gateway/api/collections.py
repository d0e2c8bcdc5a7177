"""Which collections a request means: names or ids to ids, tenant-checked, with a short-lived cache."""

from __future__ import annotations

import asyncio
import time

from gateway.api.services import Services
from gateway.storage import catalog
from gateway.types import Tenant

CACHE_TTL_S = 1.0  # a deleted collection finds nothing in any case; this only delays the 404
MAX_CACHED = 10_000


async def collection_ids(services: Services, tenant: Tenant, refs: list[str]) -> list[str]:
    """Ids of the collections that `refs` (ids or names) mean; empty for empty.

    Raises: NotFound naming the first one that this tenant does not have.
    """
    if not refs:
        return []
    key = (tenant.tenant_id, *refs)
    now = time.monotonic()
    cached = services.collection_ids.get(key)
    if cached is not None and cached[0] > now:
        return cached[1]

    def look_up() -> list[str]:
        with services.database.read() as conn:
            return [row.id for row in catalog.find_collections(conn, tenant.tenant_id, refs)]

    ids = await asyncio.to_thread(look_up)
    if len(services.collection_ids) >= MAX_CACHED:
        services.collection_ids.clear()
    services.collection_ids[key] = (now + CACHE_TTL_S, ids)
    return ids
