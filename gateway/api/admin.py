"""/admin: what the operator sees of the tiers and orders of the ladder. Every route needs an admin key."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.decode import json_body
from gateway.api.services import Services
from gateway.errors import InvalidRequest
from gateway.pipeline.pressure import newcomer_eta_s
from gateway.storage import rights
from gateway.storage.rights import Rights
from gateway.tiering.ladder import FLOORS, STEPS, Orders, in_force
from gateway.tiering.ladders import BANDS, Line

_RIGHTS = msgspec.json.Decoder(Rights)
_ORDERS = msgspec.json.Decoder(Orders)


async def get_ladder(request: Request, services: Services) -> HTTPResponse:
    """The steps, the orders, and how far down each line is: as this worker sees it."""
    await services.auth.admin(http_caller(request))
    return as_json(_ladder(services))


async def put_ladder(request: Request, services: Services) -> HTTPResponse:
    """Replace the orders, for all workers. They hold until the next PUT.

    Raises: InvalidRequest (no such step, or pinned and forbidden at once), UpstreamUnavailable (could not be shared).
    """
    await services.auth.admin(http_caller(request))
    orders = json_body(request, _ORDERS).checked()
    await services.ladder_orders.write(msgspec.json.encode(orders))
    return as_json(_ladder(services))


async def get_tiers(request: Request, services: Services) -> HTTPResponse:
    """Slots in use, who waits and how long, by tier: as this worker sees it."""
    await services.auth.admin(http_caller(request))
    return as_json({"object": "list", "data": [_tier(services, name) for name in services.pipeline.queues]})


async def get_tenant(request: Request, services: Services, tenant: str) -> HTTPResponse:
    """What a tenant may ask for, and its floor. Raises: NotFound."""
    await services.auth.admin(http_caller(request))
    return as_json(_tenant(tenant, await asyncio.to_thread(_read_rights, services, tenant)))


async def put_tenant(request: Request, services: Services, tenant: str) -> HTTPResponse:
    """Replace a tenant's rights. Workers go by them at once, and after the keys' time to live at the latest.

    Raises: InvalidRequest (no such tier or step), NotFound.
    """
    await services.auth.admin(http_caller(request))
    wanted = json_body(request, _RIGHTS)
    known = services.pipeline.tiers.tiers
    for index, name in enumerate(wanted.tiers):
        if name not in known:
            raise InvalidRequest(
                f"There is no tier {name[:100]!r}; there are: {', '.join(known)}.",
                code="invalid_value",
                param=f"tiers[{index}]",
            )
    if wanted.floor not in FLOORS:
        raise InvalidRequest(
            f"{wanted.floor[:100]!r} is no floor; choose one of: {', '.join(FLOORS[1:])}, or leave it empty.",
            code="invalid_value",
            param="floor",
        )
    await asyncio.to_thread(_write_rights, services, tenant, wanted)
    services.auth.forget_all()
    await services.tell_keys_changed()
    return as_json(_tenant(tenant, wanted))


def _read_rights(services: Services, tenant: str) -> Rights:
    with services.database.read() as conn:
        return rights.get_rights(conn, tenant)


def _write_rights(services: Services, tenant: str, wanted: Rights) -> None:
    with services.database.write() as conn:
        rights.set_rights(conn, tenant, tiers=wanted.tiers, floor=wanted.floor)


def _tenant(name: str, wanted: Rights) -> dict[str, Any]:
    return {"object": "tenant", "name": name, "tiers": wanted.tiers, "floor": wanted.floor}


def _ladder(services: Services) -> dict[str, Any]:
    ladders = services.pipeline.ladders
    lines = [
        {
            "tier": line.tier,
            "band": line.band,
            "pressure": round(ladder.pressure, 3),
            "level": ladder.level,
            "in_force": in_force(ladder.level, ladders.orders),
        }
        for line, ladder in ladders.lines().items()
    ]
    return {
        "object": "ladder",
        "steps": STEPS,
        "pinned": ladders.orders.pinned,
        "forbidden": ladders.orders.forbidden,
        "lines": lines,
    }


def _tier(services: Services, name: str) -> dict[str, Any]:
    pipeline = services.pipeline
    tier, queue = pipeline.tiers.tiers[name], pipeline.queues[name]
    levels = pipeline.ladders.lines()
    return {
        "id": name,
        "object": "tier",
        "is_generative": tier.is_generative,
        "is_auto": tier in pipeline.tiers.auto,
        "slots": queue.limit,
        "inflight": queue.inflight,
        "waiting": queue.num_waiting,
        "eta_s": {band: newcomer_eta_s(queue, band) for band in BANDS},
        "level": {band: levels[Line(name, band)].level for band in BANDS},
    }


def as_json(body: object) -> HTTPResponse:
    return HTTPResponse(
        msgspec.json.encode(body), content_type="application/json", headers={"cache-control": "no-store"}
    )
