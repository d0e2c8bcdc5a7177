"""One stream's writes to a reader that is scripted: in order, one at a time, whoever of its tasks writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.api import sse
from gateway.api.sse import DONE, FEW_STREAMS, EventStream
from gateway.errors import ClientGone, InternalError
from gateway.metrics import Metrics
from tests.waiting import until

PATIENCE_S = 30.0
_ID = re.compile(rb"id: s\.(\d+)\n")


class Reader:
    """The far end of a connection. As Sanic's: a write waits until it `takes`, and is none if cancelled."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.takes.set()
        self.got: list[bytes] = []
        self.num_waiting = 0
        self.num_ends = 0
        self.is_cut = False
        self.head: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.transport = SimpleNamespace(get_write_buffer_size=lambda: 1, abort=self.cut)

    def cut(self) -> None:
        self.is_cut = True

    async def respond(self, *, content_type: str, headers: dict[str, str]) -> Reader:
        assert not self.head, "the stream was opened twice"
        self.head = headers
        return self

    async def send(self, data: bytes, end_stream: bool = False) -> None:
        self.num_waiting += 1
        try:
            await self.takes.wait()
        finally:
            self.num_waiting -= 1
        assert not self.num_ends, "something came behind the end"
        self.num_ends += end_stream
        self.got.append(data)

    @property
    def numbers(self) -> list[int]:
        return [int(number) for number in _ID.findall(b"".join(self.got))]


def stream_to(reader: Reader, **how: Any) -> EventStream:
    """Among so many others that events share writes."""
    given: dict[str, Any] = {"keepalive_s": 15, "max_stall_s": PATIENCE_S, "metrics": Metrics()}
    request: Any = reader
    return EventStream(request, "s", num_open=lambda: FEW_STREAMS + 1, **given | how)


async def behind_a_write(stream: EventStream, reader: Reader) -> None:
    """Two events sent, the second one by the stream's own task, which waits for its reader."""
    await stream.send(b'"1"')
    reader.takes.clear()
    await stream.send(b'"2"')
    await until(lambda: reader.num_waiting)


async def test_an_event_does_not_overtake_one_that_waits_for_the_reader() -> None:
    """A token comes in the very turn of the loop in which the reader has taken what there was."""
    reader = Reader()
    async with stream_to(reader) as stream:
        await behind_a_write(stream, reader)
        token = asyncio.get_running_loop().create_future()

        async def answer() -> None:
            await token
            await stream.write(stream.event(b'"3"'))

        answering = asyncio.create_task(answer())
        await asyncio.sleep(0)
        token.set_result(None)
        reader.takes.set()
        await answering
        await until(lambda: len(reader.numbers) == 3)
    assert reader.numbers == [1, 2, 3]


async def test_a_notice_that_comes_while_an_event_waits_is_written_behind_it() -> None:
    reader = Reader()
    async with stream_to(reader) as stream:
        await behind_a_write(stream, reader)
        writing = asyncio.create_task(stream.write(stream.event(b'"3"')))
        await asyncio.sleep(0)
        stream.notice(b'"4"')
        assert reader.num_waiting == 1
        reader.takes.set()
        await writing
        await until(lambda: len(reader.numbers) == 4)
    assert reader.numbers == [1, 2, 3, 4]


async def test_who_is_cancelled_while_it_waits_for_another_write_loses_nothing() -> None:
    reader = Reader()
    async with stream_to(reader) as stream:
        await behind_a_write(stream, reader)
        writing = asyncio.create_task(stream.write(stream.event(b'"3"')))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        reader.takes.set()
        assert await stream.settle(PATIENCE_S) == 3
        assert reader.numbers == [1, 2, 3]


async def test_what_a_cancelled_write_held_is_not_told_as_written() -> None:
    reader = Reader()
    async with stream_to(reader) as stream:
        await stream.send(b'"1"')
        reader.takes.clear()
        writing = asyncio.create_task(stream.write(stream.event(b'"2"')))
        await until(lambda: reader.num_waiting)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        reader.takes.set()
        await stream.write(stream.event(b'"3"'))
        assert await stream.settle(PATIENCE_S) == 1


async def test_what_the_reader_does_not_take_in_time_is_dropped_and_its_goodbye_comes() -> None:
    reader = Reader()
    async with stream_to(reader) as stream:
        await behind_a_write(stream, reader)
        stream.notice(b'"3"')
        assert await stream.settle(0.01) == 1
        reader.takes.set()
        await stream.fail(InternalError("Something went wrong."))
    assert reader.numbers == [1, 4]
    assert reader.num_ends == 1


async def test_the_end_comes_once_and_behind_all() -> None:
    reader = Reader()
    async with stream_to(reader) as stream:
        await behind_a_write(stream, reader)
        ending = asyncio.create_task(stream.write(stream.event(b'"3"') + DONE, is_last=True))
        await asyncio.sleep(0)
        reader.takes.set()
        await ending
    assert reader.numbers == [1, 2, 3]
    assert reader.num_ends == 1
    assert reader.got[-1].endswith(DONE)


async def test_a_reader_that_takes_nothing_is_cut_and_counted_once() -> None:
    reader, metrics = Reader(), Metrics()
    async with stream_to(reader, max_stall_s=0.05, metrics=metrics) as stream:
        await behind_a_write(stream, reader)
        with pytest.raises(ClientGone):
            await stream.write(stream.event(b'"3"'))
        with pytest.raises(ClientGone):
            await stream.send(b'"4"')
    assert reader.is_cut
    assert reader.numbers == [1]
    assert metrics.slow_readers.labels("http")._value.get() == 1


async def test_a_write_that_waits_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """No comment is sent behind it, however long it takes."""
    monkeypatch.setattr(sse, "FIRST_KEEPALIVE_S", 0.2)
    reader = Reader()
    async with stream_to(reader, keepalive_s=0.01) as stream:
        await stream.send(b'"1"')
        reader.takes.clear()
        writing = asyncio.create_task(stream.write(stream.event(b'"2"')))
        ticks = ticks_of(stream)
        await until(lambda: ticks() >= 3)
        assert reader.num_waiting == 1
        reader.takes.set()
        await writing


def ticks_of(stream: EventStream) -> Callable[[], int]:
    """How often its timer has gone off, from its next time on."""
    seen = [stream._timer]

    def count() -> int:
        if stream._timer is not seen[-1]:
            seen.append(stream._timer)
        return len(seen) - 1

    return count


async def test_the_head_is_asked_for_when_the_stream_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the timer, while the answer waits."""
    monkeypatch.setattr(sse, "FIRST_KEEPALIVE_S", 0.0)
    reader, known = Reader(), {"x-known": "early"}
    async with stream_to(reader, head=lambda: known) as stream:
        known["x-known"] = "late"
        await until(lambda: reader.got)
        assert stream.started
    assert reader.head["x-known"] == "late"
    assert reader.head["cache-control"] == "no-cache, no-store"
