"""An HTTP load client for server-sent streams that costs next to nothing itself: raw sockets, prepared requests.

While a stream runs it only looks for the first piece of text and for the end; every event is checked afterwards.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import NamedTuple

import msgspec

_CONTENT = re.compile(rb'"content": ?"((?:[^"\\]|\\.)*)"')
_ID = re.compile(rb"^id: \S+\.(\d+)$", re.MULTILINE)
_OK = b"HTTP/1.1 200"
_END = b"0\r\n\r\n"
_TEXT_MARK = b'"content":'
_DONE = b"data: [DONE]"


class Times(NamedTuple):
    """One stream on the monotonic clock (seconds): sent, its first text, its end."""

    sent_s: float
    first_s: float
    done_s: float


class BrokenStream(RuntimeError):
    """The answer is not what the model said."""


def texts(body: bytes) -> list[str]:
    """The text of every event that has some, in order."""
    return [text for raw in _CONTENT.findall(body) if (text := msgspec.json.decode(b'"' + raw + b'"'))]


def check(body: bytes, expected: list[str]) -> None:
    """Raises: BrokenStream unless each expected text came in an event of its own, in order, and the stream ended."""
    found = texts(body)
    if found != expected:
        raise BrokenStream(f"{len(found)} chunks for {len(expected)}: {''.join(found)[:300]!r}")
    if _DONE not in body:
        raise BrokenStream("the stream has no [DONE]")


def check_joined(body: bytes, expected: list[str]) -> None:
    """As `check`, for streams whose events may hold several texts."""
    check(body, texts(body))
    if "".join(texts(body)) != "".join(expected):
        raise BrokenStream(f"the text is {''.join(texts(body))[:300]!r}")


def check_ids(body: bytes) -> None:
    """Raises: BrokenStream unless every event has an id, counted from 1 without a gap."""
    numbers = [int(number) for number in _ID.findall(body)]
    num_events = body.count(b"\ndata: {")
    if numbers != list(range(1, num_events + 1)):
        raise BrokenStream(f"ids {numbers[:5]} to {numbers[-5:]} for {num_events} events")


class StreamClient(asyncio.Protocol):
    """One kept-alive connection that asks the same again and again; opened anew where the server has closed it."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request
        self._transport: asyncio.Transport
        self._parts: list[bytes] = []
        self._first_s = 0.0
        self._ended: asyncio.Future[float] | None = None  # while a stream runs
        self._lost = asyncio.Event()

    @classmethod
    async def connect(cls, port: int, path: str, body: object, headers: dict[str, str]) -> StreamClient:
        raw = msgspec.json.encode(body)
        lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{port}", "content-type: application/json"]
        lines += [f"content-length: {len(raw)}", *(f"{name}: {value}" for name, value in headers.items())]
        client = cls(port, "\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
        await client._open()
        return client

    async def _open(self) -> None:
        self._lost.clear()
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)

    async def ask(self) -> tuple[Times, bytes]:
        """One stream. Returns its times and its whole body, chunked framing taken off. Raises: BrokenStream."""
        if self._lost.is_set() or self._transport.is_closing():  # idle for longer than the server likes
            await self._open()
        self._parts, self._first_s = [], 0.0
        self._ended = asyncio.get_running_loop().create_future()
        sent_s = time.perf_counter()
        self._transport.write(self._request)
        try:
            done_s = await self._ended
        finally:
            self._ended = None
        return Times(sent_s, self._first_s, done_s), unframed(b"".join(self._parts))

    def received(self) -> bytes:
        """What has come of the running stream so far, with its framing."""
        return b"".join(self._parts)

    async def lost(self) -> None:
        """Returns when the connection is closed."""
        await self._lost.wait()

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if not self._first_s and _TEXT_MARK in data:
            self._first_s = time.perf_counter()
        if data.endswith(_END) and self._ended is not None:
            self._ended.set_result(time.perf_counter())
        elif len(self._parts) == 1 and not data.startswith(_OK):
            self._break(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.set()
        self._break(b"the connection was closed after: " + b"".join(self._parts))

    def _break(self, why: bytes) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(BrokenStream(why[:600].decode(errors="replace")))


def unframed(answer: bytes) -> bytes:
    """The body of an HTTP/1.1 answer in chunks. Raises: BrokenStream when it is no 200 in chunks."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(_OK) or b"chunked" not in head.lower():
        raise BrokenStream(answer[:600].decode(errors="replace"))
    parts, at = [], 0
    while True:
        line = rest.index(b"\r\n", at)
        size = int(rest[at:line], 16)
        if not size:
            return b"".join(parts)
        parts.append(rest[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
