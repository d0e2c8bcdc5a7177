"""The load client of the relay benchmark over real sockets, against the upstream that plays prepared bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from perf.relay_text import CHUNKS
from perf.streams import BrokenStream, StreamClient, check
from perf.upstream import Player, prepared

BODY = {"model": "relay", "stream": True}
IN_ONE_GO = [b"".join(prepared(CHUNKS))]


@asynccontextmanager
async def serving(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("parts", [IN_ONE_GO, prepared(CHUNKS)], ids=["in one go", "token by token"])
async def test_one_connection_carries_stream_after_stream(parts: list[bytes]) -> None:
    async with serving(lambda: Player(parts)) as port:
        client = await StreamClient.connect(port, "/v1/chat/completions", BODY, {})
        for _ in range(3):
            times, body = await client.ask()
            check(body, CHUNKS)
            assert times.sent_s < times.first_s <= times.done_s
        client.close()


class OneByteAtATime(Player):
    def data_received(self, data: bytes) -> None:
        for at in range(len(data)):
            super().data_received(data[at : at + 1])


async def test_the_upstream_waits_for_the_whole_request() -> None:
    async with serving(lambda: OneByteAtATime(IN_ONE_GO)) as port:
        client = await StreamClient.connect(port, "/v1/chat/completions", BODY, {})
        check((await client.ask())[1], CHUNKS)
        client.close()


class HangsUp(Player):
    def data_received(self, data: bytes) -> None:
        self._transport.write(self._parts[0][:500])
        self._transport.close()


async def test_a_stream_that_breaks_off_is_told_with_what_came() -> None:
    async with serving(lambda: HangsUp(IN_ONE_GO)) as port:
        client = await StreamClient.connect(port, "/v1/chat/completions", BODY, {})
        with pytest.raises(BrokenStream, match="w000"):
            await client.ask()


class ClosesAfterwards(Player):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._transport.close()


async def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew() -> None:
    async with serving(lambda: ClosesAfterwards(IN_ONE_GO)) as port:
        client = await StreamClient.connect(port, "/v1/chat/completions", BODY, {})
        for _ in range(2):
            check((await client.ask())[1], CHUNKS)
            await client.lost()
        client.close()


async def test_a_refusal_is_told_with_its_words() -> None:
    refusal = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"
    async with serving(lambda: Player([refusal])) as port:
        client = await StreamClient.connect(port, "/v1/chat/completions", BODY, {})
        with pytest.raises(BrokenStream, match="429"):
            await client.ask()
        client.close()
