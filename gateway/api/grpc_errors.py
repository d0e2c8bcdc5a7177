"""Our errors as gRPC statuses: one table, and the google.rpc details that carry code, field and delay."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gateway import errors

DOMAIN = "tidegate"

# google.rpc.Code numbers are gRPC's own. The most specific class of an error's ancestry decides.
STATUS_CODES: dict[type[errors.TidegateError], int] = {
    errors.TidegateError: code_pb2.INTERNAL,
    errors.InvalidRequest: code_pb2.INVALID_ARGUMENT,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.Forbidden: code_pb2.PERMISSION_DENIED,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.MethodNotAllowed: code_pb2.UNIMPLEMENTED,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.Conflict: code_pb2.ABORTED,
    errors.PayloadTooLarge: code_pb2.RESOURCE_EXHAUSTED,
    errors.AdmissionError: code_pb2.UNAVAILABLE,
    errors.RateLimited: code_pb2.RESOURCE_EXHAUSTED,
    errors.UpstreamTimeout: code_pb2.DEADLINE_EXCEEDED,
    errors.UpstreamUnavailable: code_pb2.UNAVAILABLE,
    errors.ClientGone: code_pb2.CANCELLED,
}

# The fields of HTTP's `tidegate` object are fields of the message itself here, and the deadline is the call's.
_EXTENSION = "tidegate."
_FIELD_NAMES = {"deadline_ms": "deadline"}


def status_code(kind: type[errors.TidegateError]) -> int:
    return next(STATUS_CODES[each] for each in kind.__mro__ if each in STATUS_CODES)


def field_name(param: str | None) -> str | None:
    """An error's `param` as this protocol calls it."""
    if param is None or not param.startswith(_EXTENSION):
        return param
    name = param.removeprefix(_EXTENSION)
    return _FIELD_NAMES.get(name, name)


def too_large(max_bytes: int) -> errors.PayloadTooLarge:
    return errors.PayloadTooLarge(f"The message is larger than {max_bytes} bytes (TIDEGATE_MAX_BODY_BYTES).")


def to_status(error: errors.TidegateError) -> Any:
    """A google.rpc.Status: public text, ErrorInfo, and RetryInfo where trying again may help."""
    param = field_name(error.param)
    message = error.message
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN)
    if param is not None:
        info.metadata["param"] = param
        message = message.replace(str(error.param), param)
    if error.ticket:
        info.metadata["ticket"] = error.ticket
    if error.last_event_id:
        info.metadata["last_event_id"] = error.last_event_id
    status = status_pb2.Status(code=status_code(type(error)), message=message)
    status.details.add().Pack(info)
    delay_s = error.delay_s()
    if delay_s is not None:
        fraction_s, whole_s = math.modf(delay_s)
        delay = duration_pb2.Duration(seconds=int(whole_s), nanos=int(fraction_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status
