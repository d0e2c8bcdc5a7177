"""The id of the request that the current task works for: in its log lines, and in its calls of Triton."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HEADER = "x-request-id"  # of answers, and of calls to Triton

_current: ContextVar[str] = ContextVar("tidegate_request_id", default="")


def current() -> str:
    """Empty outside of a request."""
    return _current.get()


@contextmanager
def working_for(request_id: str) -> Iterator[None]:
    token = _current.set(request_id)
    try:
        yield
    finally:
        _current.reset(token)
