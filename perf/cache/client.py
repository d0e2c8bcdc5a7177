"""An HTTP client for short answers that costs next to nothing itself: a kept-alive connection, any prepared request."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, NamedTuple

import msgspec

from perf.rows import Row

PATH = "/v1/chat/completions"
_LENGTH = re.compile(rb"content-length: (\d+)")
_VERDICT = re.compile(rb'"cache":"(\w+)"')
_END = b"0\r\n\r\n"
_TEXT_MARK = b'"content":"'


class Reply(NamedTuple):
    """One answer on the monotonic clock (seconds). first_s: its first text, where it is a stream; else 0."""

    sent_s: float
    first_s: float
    done_s: float
    head: bytes
    body: bytes

    @property
    def verdict(self) -> str:
        """What the receipt says of the cache. Raises: RuntimeError where the answer is no answer."""
        found = _VERDICT.search(self.body)
        if found is None:
            raise RuntimeError((self.head + self.body)[:600].decode(errors="replace"))
        return found[1].decode()

    def row(self, arm: str, number: int) -> Row:
        return Row(arm, number, self.sent_s, self.sent_s, self.done_s, 1, self.first_s)

    def json(self) -> dict[str, Any]:
        return dict(msgspec.json.decode(self.body))


def request(key: str, body: object, path: str = PATH) -> bytes:
    """A whole POST; key: empty = none."""
    raw = msgspec.json.encode(body)
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"content-length: {len(raw)}", *([f"authorization: Bearer {key}"] if key else [])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def question(text: str, *, stream: bool = False, cache: str = "use", **more: object) -> dict[str, object]:
    """The body of one question to `fast`. more: fields of the extension."""
    return {
        "model": "fast",
        "stream": stream,
        "messages": [{"role": "user", "content": text}],
        "tidegate": {"cache": cache, **more},
    }


class Connection(asyncio.Protocol):
    """Asks one thing at a time; opened anew where the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._first_s = 0.0
        self._body_at, self._length = -1, -1
        self._ended: asyncio.Future[float] | None = None  # while an answer is awaited

    async def ask(self, raw: bytes) -> Reply:
        """Raises: RuntimeError unless it is a whole 200."""
        if self._transport is None or self._transport.is_closing():
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        assert self._transport is not None
        self._data.clear()
        self._first_s, self._body_at, self._length = 0.0, -1, -1
        self._ended = asyncio.get_running_loop().create_future()
        sent_s = time.perf_counter()
        self._transport.write(raw)
        try:
            done_s = await self._ended
        finally:
            self._ended = None
        head, body = bytes(self._data[: self._body_at]), bytes(self._data[self._body_at :])
        if not head.startswith(b"http/1.1 200") and not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError((head + body)[:600].decode(errors="replace"))
        return Reply(sent_s, self._first_s, done_s, head, body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._body_at < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            self._body_at = end + 4
            found = _LENGTH.search(bytes(self._data[:end]).lower())
            self._length = int(found[1]) if found else -1
        if not self._first_s and _TEXT_MARK in data:
            self._first_s = time.perf_counter()
        whole = len(self._data) - self._body_at >= self._length if self._length >= 0 else data.endswith(_END)
        if whole and self._ended is not None and not self._ended.done():
            self._ended.set_result(time.perf_counter())

    def connection_lost(self, error: Exception | None) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(RuntimeError(f"closed after: {bytes(self._data[:600])!r}"))
