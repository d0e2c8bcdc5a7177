"""What Triton says when it fails, as errors of ours: every gRPC status, and messages within a stream."""

from __future__ import annotations

import grpc

from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.tensors import split_stream_error

_UNAVAILABLE = (UpstreamUnavailable, "upstream_unavailable", "The model server is not available right now.")
_TIMEOUT = (UpstreamTimeout, "upstream_timeout", "The model server did not answer in time.")
_PROTOCOL = (
    UpstreamProtocolError,
    "upstream_protocol_error",
    "The model server refused a request as malformed.",
)
_FAILED = (UpstreamError, "upstream_error", "The model server failed to process the request.")
_DEAD = (UpstreamUnavailable, "replica_dead", "A model process has died and is being replaced.")
_STORE_AWAY = (
    UpstreamUnavailable,
    "vector_store_unavailable",
    "The vector store is not available right now; try again shortly.",
)
_ABSENT = (UpstreamUnavailable, "model_not_ready", "The model is not loaded yet.")

STATUS_ERRORS: dict[grpc.StatusCode, tuple[type[UpstreamError], str, str]] = {
    grpc.StatusCode.OK: _PROTOCOL,  # an error that says OK
    grpc.StatusCode.CANCELLED: _UNAVAILABLE,  # by the server or the balancer: our own cancel never comes here
    grpc.StatusCode.UNKNOWN: _FAILED,
    grpc.StatusCode.INVALID_ARGUMENT: _PROTOCOL,
    grpc.StatusCode.DEADLINE_EXCEEDED: _TIMEOUT,
    grpc.StatusCode.NOT_FOUND: _ABSENT,
    grpc.StatusCode.ALREADY_EXISTS: _PROTOCOL,
    grpc.StatusCode.PERMISSION_DENIED: _PROTOCOL,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _UNAVAILABLE,
    grpc.StatusCode.FAILED_PRECONDITION: _PROTOCOL,
    grpc.StatusCode.ABORTED: _UNAVAILABLE,
    grpc.StatusCode.OUT_OF_RANGE: _PROTOCOL,
    grpc.StatusCode.UNIMPLEMENTED: _PROTOCOL,
    grpc.StatusCode.INTERNAL: _FAILED,
    grpc.StatusCode.UNAVAILABLE: _UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS: _FAILED,
    grpc.StatusCode.UNAUTHENTICATED: _PROTOCOL,
}

_DEAD_STUB_MARKS = ("Stub process", "is not healthy")
_ABSENT_MARKS = (
    "unknown model",
    "has no available versions",
    "is not ready",
)  # Triton's words, without a status
_STORE_MARK = "vector_store_"  # the codes by which the model `search` says that its store does not answer
_CUT_OFF_MARK = "RST_STREAM"  # how the balancer passes on that a replica's connection broke in mid-stream


def map_status(code: grpc.StatusCode, details: str, model: str) -> UpstreamError:
    """Our error for a gRPC status. The server's own words go to `detail`, never to the caller."""
    kind, word, message = STATUS_ERRORS.get(code, _FAILED)
    if code is grpc.StatusCode.INTERNAL and any(mark in details for mark in _DEAD_STUB_MARKS):
        kind, word, message = _DEAD
    elif code is grpc.StatusCode.INTERNAL and _CUT_OFF_MARK in details:
        kind, word, message = _UNAVAILABLE
    elif code is grpc.StatusCode.UNAVAILABLE and _STORE_MARK in details:
        kind, word, message = _STORE_AWAY
    return kind(message, code=word, detail=f"{model}: {code.name}: {details}")


def map_message(message: str, model: str) -> UpstreamError:
    """Our error for an error message within a stream."""
    status, text = split_stream_error(message)
    code = grpc.StatusCode.__members__.get(status, grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL and any(mark in text for mark in _ABSENT_MARKS):
        code = grpc.StatusCode.NOT_FOUND
    return map_status(code, text, model)


def protocol_error(what: str) -> UpstreamProtocolError:
    return UpstreamProtocolError("The model server gave a malformed answer.", detail=what)
