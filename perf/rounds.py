"""Streams asked again and again: HTTP arms over raw sockets, rounds of many clients, single streams in random order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from perf.litellm_proxy import PATH
from perf.relay_text import CHUNKS, NUM_CHUNKS
from perf.rows import Row
from perf.streams import StreamClient, Times, check, check_ids

Ask = Callable[[], Awaitable[Times]]


class Http:
    """Streams of one HTTP server, a connection for each client. verify: raises BrokenStream for a wrong body."""

    def __init__(self, clients: list[StreamClient], verify: Callable[[bytes], None]) -> None:
        self._clients = clients
        self._verify = verify

    @classmethod
    async def connect(
        cls,
        port: int,
        body: dict[str, Any],
        headers: dict[str, str],
        verify: Callable[[bytes], None],
        count: int,
    ) -> Http:
        calls = (StreamClient.connect(port, PATH, body, headers) for _ in range(count))
        return cls([await call for call in calls], verify)

    def asks(self) -> list[Ask]:
        return [self._asking(client) for client in self._clients]

    def _asking(self, client: StreamClient) -> Ask:
        async def ask() -> Times:
            times, body = await client.ask()
            self._verify(body)
            return times

        return ask

    def close(self) -> None:
        for client in self._clients:
            client.close()


def check_plain(body: bytes) -> None:
    """Every chunk in an event of its own, in order."""
    check(body, CHUNKS)


def check_ours(body: bytes) -> None:
    """And every event with its number."""
    check(body, CHUNKS)
    check_ids(body)


async def round_of(arm: str, number: int, asks: list[Ask], round_s: float) -> list[Row]:
    """Every client asks again and again; streams that began in time are followed to their end."""
    out: list[Row] = []
    end = time.perf_counter() + round_s

    async def client(ask: Ask) -> None:
        while time.perf_counter() < end:
            out.append(row(arm, number, await ask()))

    await asyncio.gather(*(client(ask) for ask in asks))
    return out


async def first_chunks(
    scenario: str, arms: dict[str, list[Ask]], count: int, *, in_a_row: int = 1
) -> list[Row]:
    """One stream at a time; the arms in another order each time. count: of each arm, in_a_row before the next arm."""
    out: list[Row] = []
    rng = random.Random(0)
    for start in range(0, count, in_a_row):
        for name in rng.sample(sorted(arms), len(arms)):
            for slot in range(start, min(count, start + in_a_row)):
                out.append(row(f"{scenario}/{name}", slot, await arms[name][0]()))
    return out


def row(arm: str, number: int, times: Times) -> Row:
    return Row(arm, number, times.sent_s, times.sent_s, times.done_s, NUM_CHUNKS, times.first_s)
