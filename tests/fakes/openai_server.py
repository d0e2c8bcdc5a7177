"""Some OpenAI-compatible server, on a real socket, with knobs: what it writes, when, and how it goes wrong.

Speaks HTTP by hand, so that it can also speak it badly: cut in the middle of an event, answer nothing, break off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class FakeOpenAi:
    """State and knobs; they may be turned between requests. What happened is on `requests`, `num_*` and `left`."""

    texts: list[str] = field(default_factory=lambda: ["A tide gate holds back ", "the surge [1]", "."])
    finish_reason: str | None = "stop"
    usage: dict[str, int] | None = field(
        default_factory=lambda: {"prompt_tokens": 42, "completion_tokens": 9}
    )
    reasoning: list[str] = field(default_factory=list)  # before the texts
    delay_s: float = 0.0  # before the head
    first_delay_s: float = 0.0  # between head and first event
    gap_s: float = 0.0  # between events
    comments: bool = False  # one before each event
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: Any = None  # the body of a refusal; text as it stands, else as JSON
    raw: bytes | None = None  # the body of a stream as it stands, instead of events
    event_at: tuple[int, str] | None = None  # a number of events after which this data comes
    cut_at: int | None = None  # after so many events the connection closes
    stall_at: int | None = None  # after so many events nothing comes any more
    piece_bytes: int = 0  # the stream is written in pieces of that size; 0 = an event at a time
    line_end: bytes = b"\n"
    ends_with_done: bool = True
    close_after: int | None = (
        None  # a connection is closed, unsaid, before it would read its request of that number
    )
    content_type: str = "text/event-stream"
    requests: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    num_connections: int = 0
    num_running: int = 0
    most_running: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)  # a client broke off
    url: str = ""

    def body(self) -> dict[str, Any]:
        return self.requests[-1]

    def events(self) -> list[bytes]:
        """The data of a good answer, without [DONE]."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": text} for text in self.reasoning]
        deltas += [{"content": text} for text in self.texts]
        made = [_chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
        if self.finish_reason is not None:
            made.append(_chunk([{"index": 0, "delta": {}, "finish_reason": self.finish_reason}]))
        if self.usage is not None:
            made.append(_chunk([], usage=self.usage))
        return made


def _chunk(choices: list[dict[str, Any]], **extra: Any) -> bytes:
    head = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return json.dumps({**head, "choices": choices, **extra}).encode()


@asynccontextmanager
async def running_openai(
    fake: FakeOpenAi | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeOpenAi]:
    fake = fake or FakeOpenAi()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_Connection(fake, reader, writer).serve())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1"
    try:
        yield fake
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection:
    def __init__(self, fake: FakeOpenAi, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._fake, self._reader, self._writer = fake, reader, writer

    async def serve(self) -> None:
        fake = self._fake
        fake.num_connections += 1
        try:
            served = 0
            while fake.close_after is None or served < fake.close_after:
                if not await self._request():
                    return
                served += 1
                fake.num_running += 1
                fake.most_running = max(fake.most_running, fake.num_running)
                try:
                    if not await self._watched(self._answer()):
                        return
                finally:
                    fake.num_running -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            fake.left.set()
        finally:
            self._writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await self._writer.wait_closed()

    async def _request(self) -> bool:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        self._fake.heads.append(head)
        lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await self._reader.readexactly(int(lines.get("content-length", "0")))
        self._fake.requests.append(json.loads(body))
        return True

    async def _watched(self, answer: Coroutine[Any, Any, bool]) -> bool:
        """The answer, unless the client leaves before its end: it says nothing more, so to read is to hear it go."""
        working = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(self._reader.read(1))
        try:
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self._fake.left.set()
                return False
            return working.result()
        finally:
            for task in (working, gone):
                task.cancel()
            await asyncio.gather(working, gone, return_exceptions=True)

    async def _answer(self) -> bool:
        """Whether the connection can go on."""
        fake = self._fake
        await asyncio.sleep(fake.delay_s)
        if fake.status != 200:
            return await self._refuse()
        head = HEAD.replace(b"text/event-stream", fake.content_type.encode())
        self._writer.write(head)
        await asyncio.sleep(fake.first_delay_s)
        if fake.raw is not None:
            await self._piece(fake.raw)
            return await self._end()
        for number, data in enumerate([*fake.events(), *([b"[DONE]"] if fake.ends_with_done else [])]):
            if fake.event_at is not None and fake.event_at[0] == number:
                await self._event(fake.event_at[1].encode())
            if fake.cut_at == number:
                return False
            if fake.stall_at == number:
                await asyncio.sleep(3600)
            if number:
                await asyncio.sleep(fake.gap_s)
            if fake.comments:
                await self._piece(b": working" + 2 * fake.line_end)
            await self._event(data)
        return await self._end()

    async def _refuse(self) -> bool:
        fake = self._fake
        body = fake.error if isinstance(fake.error, str) else json.dumps(fake.error)
        headers = "".join(f"{name}: {value}\r\n" for name, value in fake.headers.items())
        data = body.encode()
        head = f"HTTP/1.1 {fake.status} No\r\n{headers}content-length: {len(data)}\r\n\r\n"
        self._writer.write(head.encode() + data)
        await self._writer.drain()
        return True

    async def _event(self, data: bytes) -> None:
        frame = b"data: " + data + 2 * self._fake.line_end
        size = self._fake.piece_bytes or len(frame)
        for start in range(0, len(frame), size):
            await self._piece(frame[start : start + size])

    async def _piece(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def _end(self) -> bool:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True
