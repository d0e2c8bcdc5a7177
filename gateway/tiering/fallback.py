"""By which causes another tier answers in a tier's place, and how that is told. Pure."""

from __future__ import annotations

from gateway.errors import (
    CircuitOpen,
    EngineFull,
    Evicted,
    Rejected,
    TidegateError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)

# Cause -> how a receipt tells it, after the tier's name.
CAUSES = {
    "circuit_open": "has failed too often just now",
    "overloaded": "has no room",
    "unavailable": "is not available",
    "timeout": "did not answer in time",
    "malformed": "gave a malformed answer",
    "refused": "refused the request",
}
_OWN_LIMIT = "request_timeout"  # the request's time is over: no other tier could use it


def cause_of(error: TidegateError, *, is_extra: bool = False) -> str | None:
    """None = the error is the caller's to know: its own fault, its own limits, or the end of its time.

    is_extra: the tier was more than was chosen at first, so whatever keeps it from taking this one is a want of room.
    """
    match error:
        case CircuitOpen():
            return "circuit_open"
        case UpstreamOverloaded() | EngineFull():
            return "overloaded"
        case Rejected(code="capacity"):
            return "overloaded"
        case Rejected() | Evicted() if is_extra:
            return "overloaded"
        case UpstreamUnavailable():
            return "unavailable"
        case UpstreamTimeout():
            return None if error.code == _OWN_LIMIT else "timeout"
        case UpstreamProtocolError():
            return "malformed"
        case UpstreamError():
            return "refused"
    return None


def told(failed: str, cause: str, instead: str) -> str:
    """For the receipt's tier_reason."""
    return f"{failed} {CAUSES[cause]} ({cause}), so {instead} answers"
