"""The connection under a tier on another server: forms of HTTP, bounds, and when it can be used again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.errors import TidegateError, UpstreamProtocolError, UpstreamUnavailable
from gateway.generation import upstream_client
from tests.fakes.openai_server import FakeOpenAi
from tests.integration.upstream.raw_server import (
    CHUNKED,
    END,
    LAST,
    STREAM,
    event,
    framed,
    request,
    serving,
)
from tests.integration.upstream.stand import Stand, text_of, until

BODY = event("A tide") + event(" gate.") + LAST


class Script:
    """Every request gets the same bytes, each piece in a write of its own; then the connection stays open or not."""

    def __init__(self, *pieces: bytes, closes: bool = False, gap_s: float = 0.0) -> None:
        self._pieces, self._closes, self._gap_s = pieces, closes, gap_s
        self.num_connections = self.num_requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        while True:
            await request(reader)
            self.num_requests += 1
            for number, piece in enumerate(self._pieces):
                if number:
                    await asyncio.sleep(self._gap_s)
                writer.write(piece)
                await writer.drain()
            if self._closes:
                return


def stand_at(port: int, **fields: Any) -> Stand:
    return Stand(FakeOpenAi(url=f"http://127.0.0.1:{port}/v1"), **fields)


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (CHUNKED, False),
        (STREAM + b"content-length: %d\r\n\r\n" % len(BODY), False),
        (STREAM + b"\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED, False),
        (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"chunked", b"identity"), True),
        (CHUNKED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), True),
    ],
    ids=["chunked", "length", "until its end", "continue", "1.0", "close"],
)
async def test_an_answer_is_whole_in_every_form(head: bytes, closes: bool) -> None:
    body = framed(BODY) + END if b"chunked" in head else BODY
    script = Script(head + body, closes=closes)
    async with serving(script) as port:
        stand = stand_at(port)
        for _ in range(3):
            assert text_of(await stand.write()) == "A tide gate."
        assert script.num_connections == (3 if closes else 1)
        await stand.client.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", UpstreamProtocolError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, UpstreamProtocolError),
        (b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", UpstreamUnavailable),
        (CHUNKED + b"zz\r\n", UpstreamProtocolError),
        (CHUNKED + framed(event("A tide")), UpstreamProtocolError),
        (STREAM + b"content-length: 9000\r\n\r\n" + event("A tide"), UpstreamProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-ty", UpstreamUnavailable),
        (b"", UpstreamUnavailable),
    ],
    ids=["other protocol", "endless head", "upgrade", "bad chunk", "cut", "short", "half a head", "nothing"],
)
async def test_what_is_no_whole_answer_is_told_by_its_kind(answer: bytes, kind: type[TidegateError]) -> None:
    async with serving(Script(answer, closes=True)) as port:
        stand = stand_at(port)
        with pytest.raises(TidegateError) as raised:
            await stand.write()
        assert type(raised.value) is kind
        await stand.client.close()


async def test_a_request_is_not_sent_again_once_an_answer_has_begun() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(CHUNKED + framed(BODY) + END)
        _, body = await request(reader)
        asked.append(body)
        writer.write(b"HTTP/1.1 200")
        await writer.drain()

    asked: list[bytes] = []
    async with serving(serve) as port:
        stand = stand_at(port)
        assert text_of(await stand.write()) == "A tide gate."
        with pytest.raises(UpstreamUnavailable):
            await stand.write()
        assert len(asked) == 1
        await stand.client.close()


async def test_all_events_of_one_read_come_at_once_and_those_before_a_bad_one_too() -> None:
    sizes = []
    async with serving(Script(CHUNKED + framed(BODY) + END)) as port:
        stand = stand_at(port)
        async for chunks in stand.client.stream(b"{}", max_tokens=9, timeout_s=5):
            sizes.append(len(chunks))
        await stand.client.close()
    assert sizes == [3]
    async with serving(Script(CHUNKED + framed(event("A tide") + b"data: {oops\n\n") + END)) as port:
        stand = stand_at(port)
        stream: Any = stand.client.stream(b"{}", max_tokens=9, timeout_s=5)
        assert [chunk.text for chunk in await anext(stream)] == ["A tide"]
        with pytest.raises(UpstreamProtocolError):
            await anext(stream)
        await stand.client.close()


async def test_an_answer_does_not_wait_for_the_end_of_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    last_bytes_s = 0.5  # a busy machine is later than the usual 50 ms
    monkeypatch.setattr(upstream_client, "LAST_BYTES_S", last_bytes_s)
    late = Script(CHUNKED + framed(BODY), END, gap_s=last_bytes_s / 5)
    never = Script(CHUNKED + framed(BODY), END, gap_s=last_bytes_s * 20)
    for script, num_connections in ((late, 1), (never, 2)):
        async with serving(script) as port:
            stand = stand_at(port)
            for _ in range(2):
                began = time.monotonic()
                assert text_of(await stand.write()) == "A tide gate."
                assert time.monotonic() - began < last_bytes_s * 10
                await asyncio.sleep(last_bytes_s * 2)
            assert script.num_connections == num_connections
            await stand.client.close()


async def test_bytes_that_nobody_asked_for_end_a_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(CHUNKED + framed(BODY) + END)
        await writer.drain()
        await spoil.wait()
        writer.write(CHUNKED + framed(event("Another's answer") + LAST) + END)
        await reader.read()
        closed.set()

    spoil, closed = asyncio.Event(), asyncio.Event()
    async with serving(serve) as port:
        stand = stand_at(port)
        assert text_of(await stand.write()) == "A tide gate."
        spoil.set()
        await asyncio.wait_for(closed.wait(), 5)
        assert text_of(await stand.write()) == "A tide gate."
        await stand.client.close()


async def test_a_second_answer_behind_the_first_is_not_kept_for_the_next_request() -> None:
    script = Script((CHUNKED + framed(BODY) + END) * 2)
    async with serving(script) as port:
        stand = stand_at(port)
        for _ in range(2):
            assert text_of(await stand.write()) == "A tide gate."
        assert script.num_connections == 2
        await stand.client.close()


async def test_a_server_waits_for_a_slow_reader() -> None:
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await request(reader)
        writer.write(CHUNKED)
        piece = framed(event("x" * 1000) * 60)
        while True:
            writer.write(piece)
            await writer.drain()
            written += len(piece)

    async with serving(serve) as port:
        stand = stand_at(port)
        stream: Any = stand.client.stream(b"{}", max_tokens=100_000, timeout_s=30)
        await anext(stream)
        before = -1
        while written != before:  # until the sockets between us are full
            before = written
            await asyncio.sleep(0.3)
        kernel = 8 * 2**20  # what Linux may keep of it in the two sockets
        assert before < upstream_client.HIGH_WATER_BYTES + kernel
        for _ in range(400):
            await anext(stream)
        await until(lambda: written > before)
        await stream.aclose()
        await stand.client.close()
