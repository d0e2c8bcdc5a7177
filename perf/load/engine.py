"""The model that all arms share: an OpenAI-compatible server with slots, a pace, and an endless line in front.

Like an engine that batches continuously: `slots` requests make tokens side by side, everybody else waits, first in,
first out, and without a bound. So what stands before it decides who waits. It makes words of perf.relay_text.

`python -m perf.load.engine PORT --slots 16 --gap-ms 20 --prefill-ms 50`. GET /stats: what it did. With --shut nobody
gets a word before POST /open: the streams of a hold stay where they are until then.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import deque
from typing import Any

import msgspec
import uvloop

from perf.relay_text import chunk

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
DEFAULT_TOKENS = 64
BACKLOG = 16384
# The loop's clock and timers count whole milliseconds. Who waits for the rest of one turns in circles meanwhile, on a
# core that the arms need; so a token is due half a millisecond early.
HALF_TICK_S = 0.0005


class Engine:
    """Slots, the line, and what was done. Times in seconds."""

    def __init__(self, slots: int, gap_s: float, prefill_s: float, *, is_shut: bool = False) -> None:
        self.gap_s = gap_s
        self.prefill_s = prefill_s
        self.is_shut = is_shut
        self.stats = {"asked": 0, "answered": 0, "left": 0, "most_waiting": 0}
        self._slots = slots
        self._running: set[Player] = set()
        self._line: deque[Player] = deque()

    def enter(self, player: Player) -> None:
        self.stats["asked"] += 1
        self._line.append(player)
        self._advance()
        self.stats["most_waiting"] = max(self.stats["most_waiting"], len(self._line))

    def leave(self, player: Player, *, is_answered: bool) -> None:
        self.stats["answered" if is_answered else "left"] += 1
        if player in self._running:
            self._running.discard(player)
            self._advance()
        elif player in self._line:
            self._line.remove(player)

    def open(self) -> None:
        self.is_shut = False
        self._advance()

    def _advance(self) -> None:
        while self._line and len(self._running) < self._slots and not self.is_shut:
            player = self._line.popleft()
            self._running.add(player)
            player.play()

    def look(self) -> dict[str, int]:
        return {**self.stats, "running": len(self._running), "waiting": len(self._line)}


class Player(asyncio.Protocol):
    """One connection; requests may follow one another."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = b""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._is_asking = False
        self._has_head = False
        self._made = 0
        self._begun = 0  # tokens that it goes on after
        self._num_tokens = 0
        self._due_s = 0.0
        self._wants_usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._is_asking:
            self._is_asking = False
            self._engine.leave(self, is_answered=False)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while not self._is_asking and (end := self._received.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self._received, 0, end)
            last = end + 4 + (int(found[1]) if found else 0)
            if len(self._received) < last:
                return
            head, body = self._received[:end], self._received[end + 4 : last]
            self._received = self._received[last:]
            self._take(head, body)

    def _take(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /open"):
            self._engine.open()
        if not body:
            listed = {"object": "list", "data": [{"id": "relay", "object": "model"}], **self._engine.look()}
            raw = msgspec.json.encode(listed)
            self._transport.write(_JSON_HEAD % (len(raw), raw))
            return
        asked: dict[str, Any] = msgspec.json.decode(body)
        self._num_tokens = int(
            asked.get("max_tokens") or asked.get("max_completion_tokens") or DEFAULT_TOKENS
        )
        self._wants_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        self._is_asking, self._has_head, self._made = True, False, _num_said(asked)
        self._begun = self._made
        self._num_tokens += self._made
        self._engine.enter(self)

    def play(self) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + self._engine.prefill_s
        self._timer = loop.call_at(self._due_s, self._step)

    def _step(self) -> None:
        loop = asyncio.get_running_loop()
        events = b""
        if not self._has_head:
            self._has_head = True
            events = _STREAM_HEAD + _framed(_chunk({"role": "assistant", "content": ""}))
        while self._made < self._num_tokens and self._due_s <= loop.time() + HALF_TICK_S:
            events += _framed(_chunk({"content": chunk(self._made)}))
            self._made += 1
            self._due_s += self._engine.gap_s
        if self._made < self._num_tokens:
            self._transport.write(events)
            self._timer = loop.call_at(self._due_s, self._step)
            return
        events += _framed(_chunk({}, "length"))
        if self._wants_usage:
            made = self._made - self._begun
            usage = {
                "prompt_tokens": 1 + self._begun,
                "completion_tokens": made,
                "total_tokens": self._made + 1,
            }
            events += _framed(msgspec.json.encode(_HEAD | {"choices": [], "usage": usage}))
        self._transport.write(events + _framed(b"[DONE]") + b"0\r\n\r\n")
        self._is_asking = False
        self._engine.leave(self, is_answered=True)
        self.data_received(b"")  # a request that came meanwhile


def _num_said(asked: dict[str, Any]) -> int:
    """Words of an answer that is to be gone on with."""
    return len(asked["messages"][-1]["content"].split()) if asked.get("continue_final_message") else 0


_HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "relay"}


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return msgspec.json.encode(_HEAD | {"choices": [choice]})


def _framed(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


async def serve(port: int, engine: Engine) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Player(engine), "127.0.0.1", port, backlog=BACKLOG)


async def _main(args: argparse.Namespace) -> None:
    engine = Engine(args.slots, args.gap_ms / 1000, args.prefill_ms / 1000, is_shut=args.shut)
    await (await serve(args.port, engine)).serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--prefill-ms", type=float, default=50.0)
    parser.add_argument("--shut", action="store_true")
    uvloop.run(_main(parser.parse_args()))
