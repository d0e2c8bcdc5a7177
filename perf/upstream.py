"""The fastest possible OpenAI-compatible upstream: plays one prepared stream to whoever posts.

For the comparison with another proxy: whatever that adds is its own. `python -m perf.upstream PORT` writes an answer in
one go; with TOKEN_BY_TOKEN after the port every chunk is a write of its own, and all open streams take turns.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence

import uvloop

from perf.relay_text import CHUNKS

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
TOKEN_BY_TOKEN = "token-by-token"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def prepared(chunks: list[str]) -> list[bytes]:
    """The answer on the wire, in parts: its head, and every event in an HTTP chunk of its own."""
    deltas = [{"role": "assistant", "content": chunks[0]}, *({"content": text} for text in chunks[1:])]
    events = [_event(delta, None) for delta in deltas] + [_event({}, "length"), b"data: [DONE]\n\n"]
    return [_HEAD, *(b"%x\r\n%b\r\n" % (len(event), event) for event in events), b"0\r\n\r\n"]


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "relay"}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


class Player(asyncio.Protocol):
    """One connection; requests may follow one another. parts: of the answer, each a write of its own."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self._received, 0, end)
            end += 4 + (int(found[1]) if found else 0)
            if len(self._received) < end:
                return
            self._received = self._received[end:]
            self._play(0)

    def _play(self, at: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._parts[at])
        if at + 1 < len(self._parts):
            asyncio.get_running_loop().call_soon(self._play, at + 1)


async def serve(port: int, *, is_each: bool = False) -> None:
    parts = prepared(CHUNKS)
    played = parts if is_each else [b"".join(parts)]
    server = await asyncio.get_running_loop().create_server(lambda: Player(played), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), is_each=TOKEN_BY_TOKEN in sys.argv[2:]))
