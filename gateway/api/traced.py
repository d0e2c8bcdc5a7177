"""Requests of both doors as the first spans of their traces, or as parts of their clients', where traces are on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from google.rpc import code_pb2
from sanic import HTTPResponse, Request

from gateway.api.grpc_errors import status_code
from gateway.errors import ClientGone, InternalError, TidegateError
from gateway.tracing.spans import Attributes, Tracer, working_on

CONTEXT = ("traceparent", "tracestate")
OK = 200
_TYPED = re.compile(r"<(\w+):\w+>")  # a part of a path, as Sanic writes it

Route = Callable[..., Coroutine[Any, Any, Any]]
Method = Callable[[Any, float, str], Awaitable[None]]


def traced_route(route: Route, tracer: Tracer, method: str, path: str) -> Route:
    template = _TYPED.sub(r"{\1}", path)
    name = f"{method} {template}"
    constant: Attributes = {"http.request.method": method, "http.route": template, "url.scheme": "http"}

    async def traced(request: Request, **kwargs: str) -> Any:
        headers = _context((key, value) for key in CONTEXT for value in request.headers.getall(key, ()))
        span = tracer.request(name, {**constant, "url.path": request.path}, headers)
        if span is None:
            return await route(request, **kwargs)
        with working_on(span):
            try:
                response: HTTPResponse | None = await route(request, **kwargs)
            except TidegateError as error:
                span.set({"http.response.status_code": error.status})
                raise
            status = OK if response is None else response.status  # a stream has been written when it returns
            span.set({"http.response.status_code": status})
            if status >= InternalError.status:
                span.fail("")
            return response

    return traced


def traced_call(method: Method, tracer: Tracer, service: str, name: str) -> Method:
    full = f"{service}/{name}"
    attributes: Attributes = {"rpc.system.name": "grpc", "rpc.method": full}

    async def traced(context: Any, received: float, request_id: str) -> None:
        span = tracer.request(full, attributes, _context(context.invocation_metadata() or ()))
        if span is None:
            await method(context, received, request_id)
            return
        with working_on(span):
            try:
                await method(context, received, request_id)
                span.set({"rpc.response.status_code": "OK"})
            except TidegateError as error:
                span.set({"rpc.response.status_code": code_pb2.Code.Name(status_code(type(error)))})
                raise
            except asyncio.CancelledError:
                span.set({"rpc.response.status_code": code_pb2.Code.Name(status_code(ClientGone))})
                raise

    return traced


def _context(headers: Iterable[tuple[str, Any]]) -> Mapping[str, str]:
    """W3C's two headers; none of them where `traceparent` is there more than once, for which of them counts?"""
    found: dict[str, str] = {}
    for key, value in headers:
        if key not in CONTEXT or not isinstance(value, str):
            continue
        if key in found:
            if key == CONTEXT[0]:
                return {}
            value = f"{found[key]},{value}"  # a list may come in parts
        found[key] = value
    return found
