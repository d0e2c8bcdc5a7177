"""HTTP/1.1 over raw sockets for a generator: nothing here ever waits before a send.

A request takes a kept-alive connection that is idle, or opens a new one; it never stands in line for one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from time import perf_counter

import msgspec

from perf.load.answer import Broken, Head, head_of, judge, unchunked
from perf.load.arrivals import Planned
from perf.load.rows import LoadRow

_TEXT = re.compile(rb'"content": ?"[^"]')
_CARRY = 11  # bytes kept of the read before: one less than the shortest match, so that none is counted twice
_PLACE = b'"queue":{'  # what a waiter is told
_LAST_CHUNK = b"0\r\n\r\n"


class Exchange:
    """One request and what has come back so far. Times are of perf_counter, which all processes share."""

    def __init__(self, row: LoadRow, request: bytes, expected: str | None, start_s: float) -> None:
        self.row = row
        self.request = request
        self.is_over = False
        self._expected = expected
        self._start_s = start_s
        self._parts: list[bytes] = []
        self._carry = b""
        self._head: Head | None = None
        self._body_at = 0
        self._size = 0

    def started(self) -> None:
        self.row.started_s = self._now()

    def sent(self) -> None:
        self.row.sent_s = self._now()

    def received(self, data: bytes) -> bool:
        """Returns whether the answer has come to its end."""
        now_s = self._now()
        self._parts.append(data)
        self._size += len(data)
        seen = self._carry + data
        if not self.row.first_s and not self.row.told_s and _PLACE in seen:
            self.row.told_s = now_s
        num_texts = sum(found.end() > len(self._carry) for found in _TEXT.finditer(seen))
        if num_texts:
            self.row.first_s = self.row.first_s or now_s
            self.row.reads.append((round((now_s - self.row.sent_s) * 1000, 3), num_texts))
        self._carry = seen[-_CARRY:]
        if self._head is None and not self._find_head():
            return False
        if self._head is None:
            return True
        if self._head.is_chunked:
            return seen.endswith(_LAST_CHUNK)
        return 0 <= self._head.length <= self._size - self._body_at

    def _find_head(self) -> bool:
        whole = b"".join(self._parts)
        end = whole.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._head, self._body_at = head_of(whole[:end]), end + 4
        return True

    @property
    def is_last(self) -> bool:
        return self._head is None or self._head.is_last

    def finish(self, broken: str = "") -> None:
        """Fill in the row. broken: why the answer ended before its end."""
        if self.is_over:
            return
        self.is_over = True
        row, row.done_s = self.row, self._now()
        raw = b"".join(self._parts)[self._body_at :]
        self._parts.clear()
        if self._head is not None:
            row.status, row.retry_after_s = self._head.status, self._head.retry_after_s
        if broken or self._head is None:
            row.outcome, row.code = "failed", broken or "no_answer"
            return
        try:
            body = unchunked(raw) if self._head.is_chunked else raw
        except Broken:
            row.outcome, row.code = "failed", "cut"
            return
        verdict = judge(row.status, body, self._expected)
        for name in verdict.__struct_fields__:
            setattr(row, name, getattr(verdict, name))

    def _now(self) -> float:
        return round(perf_counter() - self._start_s, 6)


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time. on_end(self, exchange, is_reusable)."""

    def __init__(self, on_end: Callable[[Connection, Exchange, bool], None]) -> None:
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, exchange: Exchange) -> None:
        assert self._transport is not None
        self._exchange = exchange
        exchange.sent()
        self._transport.write(exchange.request)

    def leave(self, why: str) -> None:
        """The caller loses patience."""
        if self._exchange is not None:
            self._exchange.finish(why)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        try:
            is_over = exchange.received(data)
        except Broken:
            self._end("not_http", is_reusable=False)
            return
        if is_over:
            self._end("", is_reusable=not exchange.is_last)

    def connection_lost(self, error: Exception | None) -> None:
        if self._exchange is not None:
            self._end("connection_lost", is_reusable=False)

    def _end(self, broken: str, *, is_reusable: bool) -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        exchange.finish(broken)
        if not is_reusable and self._transport is not None:
            self._transport.close()
        self._on_end(self, exchange, is_reusable)


class Endpoint(msgspec.Struct, frozen=True):
    """Where a generator sends to. keys: tenant -> API key ("" = the one for tenants that are not named).

    is_ours: takes the `tidegate` object. questions: used in turn. checks_text: the model is the engine, whose words
    are known.
    """

    arm: str
    port: int
    model: str
    keys: dict[str, str]
    is_ours: bool
    questions: list[str]
    checks_text: bool
    path: str = "/v1/chat/completions"

    def request(self, planned: Planned) -> bytes:
        body: dict[str, object] = {
            "model": self.model,
            "stream": True,
            "messages": [{"role": "user", "content": self.questions[planned.number % len(self.questions)]}],
            "max_tokens": planned.num_tokens,
            "stream_options": {"include_usage": True},
        }
        if self.is_ours:
            ours: dict[str, object] = {"priority": planned.priority, "cache": "off", "events": True}
            if planned.deadline_ms:
                ours["deadline_ms"] = planned.deadline_ms
            body["tidegate"] = ours
        raw = msgspec.json.encode(body)
        key = self.keys.get(planned.tenant, self.keys.get("", ""))
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        lines += ["content-type: application/json", f"content-length: {len(raw)}"]
        lines += [f"authorization: Bearer {key}"] if key else []
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw
