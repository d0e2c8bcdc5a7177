"""/health/live, /health/ready, /metrics."""

from __future__ import annotations

import msgspec
from sanic import HTTPResponse, Request

from gateway import __version__
from gateway.api.auth import http_caller
from gateway.api.services import Services
from gateway.lifecycle import State


async def live(request: Request, services: Services) -> HTTPResponse:
    return HTTPResponse(b'{"status":"live"}', content_type="application/json")


async def ready(request: Request, services: Services) -> HTTPResponse:
    """200 while this worker takes requests. A part that is away shows in `parts`; its routes answer for themselves.

    Short of memory it stays ready, or all workers could leave at once; Envoy prefers those that are not degraded.
    """
    state = services.lifecycle.state
    body = {"status": state.value, "version": __version__, "parts": services.parts}
    status = 200 if state is State.READY else 503
    headers = {"x-envoy-degraded": "memory"} if services.memory.is_full() else None
    return HTTPResponse(
        msgspec.json.encode(body), status=status, headers=headers, content_type="application/json"
    )


async def metrics(request: Request, services: Services) -> HTTPResponse:
    """This worker's own metrics. With several workers scrape each one's port: the edge would pick one at random.

    Open to this machine, like the worker's port itself; from elsewhere it needs an admin key.
    """
    if not http_caller(request).is_local:
        await services.auth.admin(http_caller(request))
    return HTTPResponse(services.metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8")
