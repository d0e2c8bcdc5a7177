"""The limits' parts put together for a worker, what the doors tell of them, and what they do where no tier answers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable

from sanic import HTTPResponse

from gateway.admission.quota import Limiter
from gateway.admission.redis_leases import RedisLeases
from gateway.admission.standing import rate_headers
from gateway.api.errors import to_response, to_tidegate
from gateway.api.services import Services
from gateway.api.validation import go_on_if_stopping, stopping
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.storage import limits
from gateway.storage.database import Database
from gateway.storage.redis_client import connect_redis
from gateway.types import Limits, Outcome, Receipt, Tenant, Usage

SEARCH = "search"  # what a search without an answer is called in the ledger


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


async def count_tokens(services: Services, texts: list[str]) -> int:
    """What embedding these texts is billed."""
    return sum(await asyncio.to_thread(services.tokens.count, texts))


@contextlib.asynccontextmanager
async def metered(
    services: Services, tenant: Tenant, num_tokens: int, *, name: str, id_prefix: str
) -> AsyncIterator[None]:
    """Around work that no tier does: a request and so many tokens of the caller's limits. They are billed under `name`
    when the work is done, and given back when it fails; the request counts either way.

    Raises: RateLimited, QuotaExceeded.
    """
    held, billed = await services.limits.reserve(tenant, num_tokens, is_stream=False), 0
    try:
        yield
        billed = num_tokens
    finally:
        held.settle(billed)
    receipt = Receipt(
        id=f"{id_prefix}-{secrets.token_hex(16)}",
        created=int(time.time()),
        outcome=Outcome.COMPLETED,
        stage="done",
        tier=name,
        usage=Usage(prompt_tokens=num_tokens),
    )
    services.recorder.record(tenant, receipt)


async def told_limits(services: Services, tenant: Tenant, answer: Awaitable[HTTPResponse]) -> HTTPResponse:
    """The answer to a request that counts, or its refusal, with how the caller's limits stand then."""
    try:
        response = await answer
    except asyncio.CancelledError:
        go_on_if_stopping(services)
        response = to_response(stopping())
    except Exception as error:  # noqa: BLE001  the edge: to_tidegate logs what is not ours
        response = to_response(to_tidegate(error))
    response.headers.update(headers_for(services, tenant))
    return response
