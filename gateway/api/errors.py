"""Foreign errors to ours, ours to responses. The one place where an exception becomes bytes."""

from __future__ import annotations

import logging
import math

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import (
    BadRequest,
    RequestTimeout,
    SanicException,
)
from sanic.exceptions import (
    MethodNotAllowed as SanicMethodNotAllowed,
)
from sanic.exceptions import (
    NotFound as SanicNotFound,
)
from sanic.exceptions import (
    PayloadTooLarge as SanicPayloadTooLarge,
)

from gateway.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    TidegateError,
)

log = logging.getLogger("tidegate.api")


def to_tidegate(error: BaseException) -> TidegateError:
    """Our error for any exception, most specific first. Unknown ones become InternalError and are logged."""
    match error:
        case TidegateError():
            return error
        case SanicNotFound():
            return NotFound("There is no such path.", code="unknown_path")
        case SanicMethodNotAllowed():
            return MethodNotAllowed("The path exists, but not with this method.")
        case SanicPayloadTooLarge():
            return PayloadTooLarge("The body is larger than TIDEGATE_MAX_BODY_BYTES allows.")
        case RequestTimeout():
            return DeadlineExceeded("The request did not arrive in time.", code="request_timeout")
        case BadRequest():
            return InvalidRequest("The request is not valid HTTP.", code="bad_request")
        case SanicException() if error.status_code < 500:
            return InvalidRequest("The request was refused.", code="bad_request")
    log.error("unexpected error", exc_info=error)
    return InternalError("Something went wrong on our side.")


def headers_of(error: TidegateError) -> dict[str, str]:
    headers = {"cache-control": "no-store"}
    delay_s = error.delay_s()
    if delay_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(delay_s)))
    if isinstance(error, QuotaExceeded):
        headers["x-should-retry"] = "false"  # OpenAI's SDKs would try again at once
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def to_response(error: TidegateError) -> HTTPResponse:
    if error.detail:
        log.info("%s: %s", error.code, error.detail)
    return HTTPResponse(
        msgspec.json.encode({"error": error.body()}),
        status=error.status,
        headers=headers_of(error),
        content_type="application/json",
    )


async def handle(request: Request, error: Exception) -> HTTPResponse:
    """Sanic's error handler for everything."""
    return to_response(to_tidegate(error))
