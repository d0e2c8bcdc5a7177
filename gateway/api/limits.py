"""The limits' parts put together for a worker, and what the doors tell of them."""

from __future__ import annotations

import asyncio

from gateway.admission.quota import Limiter
from gateway.admission.redis_leases import RedisLeases
from gateway.admission.standing import rate_headers
from gateway.api.services import Services
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.storage import limits
from gateway.storage.database import Database
from gateway.storage.redis_client import connect_redis
from gateway.types import Limits, Tenant


def shared_limits(settings: Settings, database: Database, metrics: Metrics) -> Limiter:
    """Limits over Redis, with connections of their own: a Redis that is away must not use up everybody's."""

    def read(tenant_id: str, key_id: str, since: int) -> int:
        with database.read() as conn:
            return limits.tokens_since(conn, tenant_id, since, key_id=key_id)

    async def spent(tenant_id: str, key_id: str, since: int) -> int:
        return await asyncio.to_thread(read, tenant_id, key_id, since)

    return Limiter(
        RedisLeases(connect_redis(settings)),
        defaults=Limits(
            requests_per_minute=settings.tenant_requests_per_minute,
            tokens_per_minute=settings.tenant_tokens_per_minute,
            concurrent_streams=settings.tenant_concurrent_streams,
            monthly_tokens=settings.tenant_monthly_tokens,
        ),
        num_workers=settings.num_workers,
        spent=spent,
        metrics=metrics,
    )


def headers_for(services: Services, tenant: Tenant) -> dict[str, str]:
    """x-ratelimit-…; empty for a tenant without limits."""
    standing = services.limits.standing(tenant)
    return rate_headers(standing) if standing else {}
