"""The route table: every path of the HTTP API and the function that answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.response import BaseHTTPResponse

from gateway.api import (
    admin,
    alerts,
    cache_view,
    chat,
    completions,
    conversations,
    embeddings,
    file_batches,
    files,
    health,
    models,
    receipts,
    search,
    usage,
    vector_stores,
)
from gateway.api.auth import http_caller
from gateway.api.decode import discard_body, read_body
from gateway.api.errors import handle
from gateway.api.services import Services
from gateway.api.static import Pages
from gateway.api.traced import traced_route
from gateway.errors import TidegateError
from gateway.lifecycle import State

Handler = Callable[..., Awaitable[Any]]

_COMPLETION = "/v1/chat/completions/<completion_id:str>"
_CONVERSATION = "/v1/conversations/<conversation_id:str>"
_STORE = "/v1/vector_stores/<store_id:str>"
_BATCH = _STORE + "/file_batches/<batch_id:str>"
_ATTACHMENT = _STORE + "/files/<file_id:str>"

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/chat/completions", chat.completions),
    ("GET", "/v1/chat/completions", completions.list_all),
    ("GET", _COMPLETION, completions.get),
    ("POST", _COMPLETION, completions.update),
    ("DELETE", _COMPLETION, completions.delete),
    ("GET", _COMPLETION + "/messages", completions.list_messages),
    ("POST", "/v1/conversations", conversations.create),
    ("GET", "/v1/conversations", conversations.list_all),
    ("GET", _CONVERSATION, conversations.get),
    ("POST", _CONVERSATION, conversations.update),
    ("DELETE", _CONVERSATION, conversations.delete),
    ("GET", _CONVERSATION + "/items", conversations.list_items),
    ("POST", _CONVERSATION + "/items", conversations.add_items),
    ("GET", _CONVERSATION + "/items/<item_id:str>", conversations.get_item),
    ("DELETE", _CONVERSATION + "/items/<item_id:str>", conversations.delete_item),
    ("POST", "/v1/embeddings", embeddings.embeddings),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/<model:str>", models.get_model),
    ("GET", "/v1/files", files.list_files),
    ("GET", "/v1/files/<file_id:str>", files.get),
    ("GET", "/v1/files/<file_id:str>/content", files.content),
    ("DELETE", "/v1/files/<file_id:str>", files.delete),
    ("POST", "/v1/vector_stores", vector_stores.create),
    ("GET", "/v1/vector_stores", vector_stores.list_stores),
    ("GET", _STORE, vector_stores.get),
    ("POST", _STORE, vector_stores.update),
    ("DELETE", _STORE, vector_stores.delete),
    ("POST", _STORE + "/search", search.search),
    ("POST", _STORE + "/files", vector_stores.attach),
    ("GET", _STORE + "/files", vector_stores.list_attachments),
    ("POST", _STORE + "/file_batches", file_batches.create),
    ("GET", _BATCH, file_batches.get),
    ("POST", _BATCH + "/cancel", file_batches.cancel),
    ("GET", _BATCH + "/files", file_batches.list_files),
    ("GET", _ATTACHMENT, vector_stores.get_attachment),
    ("POST", _ATTACHMENT, vector_stores.update_attachment),
    ("DELETE", _ATTACHMENT, vector_stores.detach),
    ("GET", "/v1/receipts/<receipt_id:str>", receipts.get_receipt),
    ("GET", "/v1/usage", usage.get_usage),
    ("GET", "/admin/ladder", admin.get_ladder),
    ("PUT", "/admin/ladder", admin.put_ladder),
    ("GET", "/admin/tiers", admin.get_tiers),
    ("GET", "/admin/cache", cache_view.get_cache),
    ("POST", "/admin/alerts", alerts.receive),
    ("GET", "/admin/tenants/<tenant:str>", admin.get_tenant),
    ("PUT", "/admin/tenants/<tenant:str>", admin.put_tenant),
    ("GET", "/health/live", health.live),
    ("GET", "/health/ready", health.ready),
    ("GET", "/metrics", health.metrics),
)


def create_app(services: Services, name: str = "tidegate") -> Sanic[Any, Any]:
    """A Sanic app over these services. Nothing is global: several may live in one process."""
    settings = services.settings
    app: Sanic[Any, Any] = Sanic(name, configure_logging=False)
    app.config.REQUEST_MAX_SIZE = settings.max_body_bytes
    app.config.REQUEST_MAX_HEADER_SIZE = 16_384  # above Envoy's cap: there a larger one is a 431
    app.config.RESPONSE_TIMEOUT = settings.request_timeout_s + 60  # our deadlines come first
    app.config.REQUEST_TIMEOUT = 60
    app.config.KEEP_ALIVE_TIMEOUT = 120  # above Envoy's upstream idle timeout: Envoy closes first
    app.config.GRACEFUL_SHUTDOWN_TIMEOUT = settings.drain_s
    app.config.ACCESS_LOG = False  # Envoy keeps the access log
    app.error_handler.add(Exception, handle)
    pages = Pages()

    for method, path, handler in ROUTES:
        _add(app, services, method, path, handler)
    _add(app, services, "POST", "/v1/files", files.create)

    async def index(request: Request) -> HTTPResponse:
        return pages.serve(request, "index.html")

    async def static(request: Request, filename: str) -> HTTPResponse:
        return pages.serve(request, filename)

    app.add_route(index, "/", methods=["GET"], name="index")
    app.add_route(static, "/static/<filename:str>", methods=["GET"], name="static")

    async def told(request: Any, response: BaseHTTPResponse) -> None:
        """Counted; and while draining, each answer ends its connection: the client's next request goes elsewhere."""
        route = request.route.path if request.route is not None else "none"
        services.metrics.series.of(services.metrics.http, route, str(response.status)).inc()
        if services.lifecycle.state is not State.READY and request.stream is not None:
            request.stream.keep_alive = False

    app.register_middleware(told, "response")
    return app


def _unknot(request: Request) -> None:
    """Let a request whose client left end for good. Sanic leaves its objects holding one another then, some 10 KiB
    that only the garbage collector would find, and its full rounds are rare."""
    http, task = request.stream, asyncio.current_task()

    def cut(_: object) -> None:
        http.response_func = http.response = http.request = None  # type: ignore[union-attr]

    if http is not None and task is not None:
        task.add_done_callback(cut)


def _add(
    app: Sanic[Any, Any],
    services: Services,
    method: str,
    path: str,
    handler: Handler,
) -> None:
    """Every POST and PUT reads its body itself (Sanic's own limit would close the connection before the refusal is
    read), and only for a known caller. After a refusal the rest is read away, so that the client sees the answer."""
    has_body = method in {"POST", "PUT"}
    reads_itself = handler in (chat.completions, files.create)

    async def route(request: Request, **kwargs: str) -> Any:
        with services.lifecycle.arriving():
            try:
                if has_body and handler is not chat.completions:
                    services.memory.check()
                if has_body and not reads_itself:
                    await services.auth.tenant(http_caller(request))
                    await read_body(request, services.settings.max_body_bytes)
                if handler is chat.completions:  # counts itself, from where it is a request
                    return await handler(request, services, **kwargs)
                with services.lifecycle:
                    return await handler(request, services, **kwargs)
            except TidegateError:
                if has_body:
                    await discard_body(request)
                raise
            except asyncio.CancelledError:
                _unknot(request)
                raise

    name = f"{handler.__module__.rpartition('.')[2]}_{handler.__name__}"
    tracer = services.tracer if path.startswith("/v1/") else None
    served = route if tracer is None else traced_route(route, tracer, method, path)
    app.add_route(served, path, methods=[method], name=name, stream=has_body)
