"""GET /v1/usage: this month's tokens and requests by model and day, from the ledger; limits and what is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from sanic import HTTPResponse, Request

from gateway.admission.standing import Standing, month_of
from gateway.api.auth import http_caller
from gateway.api.services import Services
from gateway.storage import limits
from gateway.storage.limits import DayUsage

# As the settings and the command line call them.
_NAMES = {
    "requests": "requests_per_minute",
    "tokens": "tokens_per_minute",
    "streams": "concurrent_streams",
    "budget": "monthly_tokens",
}


async def get_usage(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    month = month_of(time.time())

    def look_up() -> list[DayUsage]:
        with services.database.read() as conn:
            return limits.usage_by_day(conn, tenant.tenant_id, month.begins_at, month.ends_at)

    rows = await asyncio.to_thread(look_up)
    standing = await services.limits.fresh_standing(tenant)
    reply = {
        "object": "usage",
        "month": month.name,
        "data": _by_model(rows),
        "days": [_day(row) for row in rows],
        "limits": _limits(standing),
    }
    return HTTPResponse(msgspec.json.encode(reply), content_type="application/json")


def _by_model(rows: list[DayUsage]) -> list[dict[str, Any]]:
    """The month's sum for each model, by name."""
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        each = sums.setdefault(
            row.model, {"tier": row.model, "num_requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        )
        for name in ("num_requests", "prompt_tokens", "completion_tokens"):
            each[name] += getattr(row, name)
    return [sums[model] for model in sorted(sums)]


def _day(row: DayUsage) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime(row.day)),
        "model": row.model,
        "num_requests": row.num_requests,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
    }


def _limits(standing: Mapping[str, Standing]) -> dict[str, Any]:
    """Only those that are set; of tenant and key the one with less left."""
    return {
        _NAMES[kind]: {"limit": each.limit, "remaining": each.remaining, "reset_s": round(each.reset_s, 3)}
        for kind, each in standing.items()
    }
