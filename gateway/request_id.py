"""Ids of requests: making them, and the one that the current task works for, in its log lines and calls of Triton."""

from __future__ import annotations

import secrets
import time
from contextvars import ContextVar

HEADER = "x-request-id"  # of answers, and of calls to Triton

_current: ContextVar[str] = ContextVar("tidegate_request_id", default="")


def current() -> str:
    """Empty outside of a request."""
    return _current.get()


class working_for:  # noqa: N801  a context manager, named as one reads it; as a generator it would cost each stream 400 bytes
    __slots__ = ("_request_id", "_token")

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def __enter__(self) -> None:
        self._token = _current.set(self._request_id)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


class RequestIds:
    """`next` is new each time: 32 hex digits of which 12 are the milliseconds of unix time, so that ids grow and the
    ledger's index does so at its end, and 20 are random. Randomness is drawn for many at once: each call of the system
    lets the other threads in between."""

    NUM_RANDOM_BYTES = 10
    DRAWN_AT_ONCE = 256

    def __init__(self) -> None:
        self._drawn = b""
        self._at = 0

    def next(self) -> str:
        end = self._at + self.NUM_RANDOM_BYTES
        if end > len(self._drawn):
            self._drawn = secrets.token_bytes(self.NUM_RANDOM_BYTES * self.DRAWN_AT_ONCE)
            self._at, end = 0, self.NUM_RANDOM_BYTES
        random, self._at = self._drawn[self._at : end], end
        return f"chatcmpl-{time.time_ns() // 1_000_000:012x}{random.hex()}"
