"""Every error tidegate can answer with, in one tree.

    TidegateError
    ├── InvalidRequest            400   the caller's request is wrong; says what and where
    │   ├── PromptTooLong         400   more tokens than the tier takes
    │   ├── Unauthenticated       401
    │   ├── Forbidden             403
    │   ├── NotFound              404   unknown and foreign ids look the same
    │   ├── MethodNotAllowed      405
    │   ├── DeadlineExceeded      408   the caller's own deadline passed
    │   ├── Conflict              409
    │   ├── PayloadTooLarge       413
    │   ├── UnsupportedMediaType  415
    │   └── Unprocessable         422
    ├── AdmissionError
    │   ├── Rejected              503   refused before the queue: our capacity, or draining
    │   ├── RateLimited           429   refused before the queue: your limit
    │   │   └── QuotaExceeded     429   your budget for this month: waiting a little does not help
    │   └── Evicted               503   taken out of the queue: ttl, displaced
    ├── UpstreamError             502
    │   ├── UpstreamTimeout       504
    │   ├── UpstreamUnavailable   503
    │   │   ├── EngineFull        503
    │   │   ├── UpstreamOverloaded 503  a server of somebody else has no room
    │   │   └── CircuitOpen       503   it has failed too often just now and is left alone
    │   └── UpstreamProtocolError 502
    ├── ClientGone                499   never sent; recorded as the outcome's cause
    └── InternalError             500

`code` is the JSON `error.code`, the SSE error, the gRPC detail and the metric label. `message` is public;
`detail` is for the log only and never leaves the process.
"""

from __future__ import annotations


class TidegateError(Exception):
    """Base of all our errors. `message` may be shown to the caller; `detail` may not."""

    status: int = 500
    code: str = "internal_error"
    type: str = "server_error"  # the OpenAI error type

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        detail: str = "",
        ticket: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.retry_after_s = retry_after_s
        self.detail = detail
        self.ticket = ticket  # keeps a refused request's place in line for a while
        self.last_event_id = ""  # where the stream that it ends can be gone on with

    def delay_s(self) -> float | None:
        """When trying again may help (seconds); None = not by waiting."""
        if self.retry_after_s is not None:
            return self.retry_after_s
        return 1.0 if self.status in {429, 503} else None

    def body(self) -> dict[str, object]:
        """The OpenAI error object, the same over HTTP, SSE and (as details) gRPC.

        An open stream has no Retry-After any more, so the delay stands here too.
        """
        body: dict[str, object] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        delay_s = self.delay_s()
        if delay_s is not None:
            body["retry_after_s"] = round(delay_s, 3)
        if self.ticket:
            body["ticket"] = self.ticket
        if self.last_event_id:
            body["last_event_id"] = self.last_event_id
        return body


class InvalidRequest(TidegateError):
    status, code, type = 400, "invalid_request", "invalid_request_error"


class PromptTooLong(InvalidRequest):
    code = "prompt_too_long"


class Unauthenticated(InvalidRequest):
    status, code = 401, "invalid_api_key"


class Forbidden(InvalidRequest):
    status, code = 403, "forbidden"


class NotFound(InvalidRequest):
    status, code = 404, "not_found"


class MethodNotAllowed(InvalidRequest):
    status, code = 405, "method_not_allowed"


class DeadlineExceeded(InvalidRequest):
    status, code = 408, "deadline_exceeded"


class Conflict(InvalidRequest):
    status, code = 409, "conflict"


class PayloadTooLarge(InvalidRequest):
    status, code = 413, "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    status, code = 415, "unsupported_media_type"


class Unprocessable(InvalidRequest):
    status, code = 422, "unprocessable"


class AdmissionError(TidegateError):
    status, code, type = 503, "overloaded", "overloaded_error"


class Rejected(AdmissionError):
    code = "capacity"


class RateLimited(AdmissionError):
    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"


class QuotaExceeded(RateLimited):
    code, type = "insufficient_quota", "insufficient_quota"


class Evicted(AdmissionError):
    code = "queue_ttl"


class UpstreamError(TidegateError):
    status, code = 502, "upstream_error"


class UpstreamTimeout(UpstreamError):
    status, code = 504, "upstream_timeout"


class UpstreamUnavailable(UpstreamError):
    status, code = 503, "upstream_unavailable"


class EngineFull(UpstreamUnavailable):
    """All slots of this replica's engine are taken; another replica, or the same a moment later, has one."""

    code = "engine_full"


class UpstreamOverloaded(UpstreamUnavailable):
    """Another server says that it has no room; when it has again is its own word."""

    code = "upstream_overloaded"


class CircuitOpen(UpstreamUnavailable):
    """Another server has failed so often just now that it is left alone for a while."""

    code = "circuit_open"


class UpstreamProtocolError(UpstreamError):
    code = "upstream_protocol_error"


class ClientGone(TidegateError):
    status, code = 499, "client_gone"


class InternalError(TidegateError):
    """Something we did not foresee. The message says nothing; the log says all."""
