"""The fastest possible OpenAI-compatible upstream: plays one prepared stream to whoever posts.

For the comparison with another proxy: whatever that adds is its own. `python -m perf.upstream PORT`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys

import uvloop

from perf.relay_text import CHUNKS

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def prepared(chunks: list[str]) -> bytes:
    """The whole answer on the wire, every event in an HTTP chunk of its own."""
    deltas = [{"role": "assistant", "content": chunks[0]}, *({"content": text} for text in chunks[1:])]
    events = [_event(delta, None) for delta in deltas] + [_event({}, "length"), b"data: [DONE]\n\n"]
    return _HEAD + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "relay"}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


class Player(asyncio.Protocol):
    """One connection; requests may follow one another."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
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
            self._transport.write(self._answer)


async def serve(port: int) -> None:
    answer = prepared(CHUNKS)
    server = await asyncio.get_running_loop().create_server(lambda: Player(answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
