"""The line in front of retrieval and embedding: whose turn it is when one tenant floods, counted in turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest

from gateway.admission.bounded import BoundedEmbedder, BoundedRetriever
from gateway.admission.slots import SlotQueue
from gateway.errors import Rejected
from gateway.types import Scope
from tests.fakes.engines import HashEmbedder, ScriptedRetriever

SLOTS = 2


class Stand:
    """Both behind one line. `turns`: who got a slot, in this order; each is over when `end` is called once."""

    def __init__(self, max_waiting: int = 100) -> None:
        self.turns: list[str] = []
        self._ends = asyncio.Semaphore(0)
        self._asked: list[asyncio.Task[object]] = []
        line = SlotQueue(SLOTS, max_waiting=max_waiting, ttl_s=60, clock=time.monotonic)
        self.retriever = BoundedRetriever(_Retriever(self), line)
        self.embedder = BoundedEmbedder(_Embedder(self), line)

    async def turn(self, whose: str) -> None:
        self.turns.append(whose)
        await self._ends.acquire()

    async def search(self, tenant: str, band: str = "interactive") -> None:
        await self._asks(
            self.retriever.retrieve(f"{tenant}/{band}", Scope(tenant_id=tenant), timeout_s=60, band=band)
        )

    async def embed(self, tenant: str, num_texts: int = 1) -> None:
        await self._asks(
            self.embedder.embed([f"{tenant}/texts"] * num_texts, role="passage", timeout_s=60, tenant=tenant)
        )

    async def _asks(self, work: Awaitable[object]) -> None:
        """It is in line when this returns."""
        self._asked.append(asyncio.ensure_future(work))
        await asyncio.sleep(0)

    async def end(self) -> None:
        """Let all have their turns."""
        for _ in self._asked:
            self._ends.release()
        await asyncio.gather(*self._asked)


class _Retriever(ScriptedRetriever):
    def __init__(self, stand: Stand) -> None:
        super().__init__()
        self._stand = stand

    async def retrieve(self, text: str, scope: Scope, **how: object) -> object:  # type: ignore[override]
        await self._stand.turn(text)


class _Embedder(HashEmbedder):
    def __init__(self, stand: Stand) -> None:
        super().__init__()
        self._stand = stand

    async def embed(self, texts: list[str], **how: object) -> object:  # type: ignore[override]
        await self._stand.turn(texts[0])


async def test_a_flood_of_one_tenant_is_ahead_of_another_by_what_is_in_flight_alone() -> None:
    stand = Stand()
    for _ in range(30):
        await stand.search("flood")
    await stand.search("light")
    await stand.end()
    assert stand.turns.index("light/interactive") <= SLOTS + 1
    assert len(stand.turns) == 31


async def test_a_flood_of_searches_does_not_hold_up_another_tenants_texts() -> None:
    stand = Stand()
    for _ in range(30):
        await stand.search("flood")
    await stand.embed("light", 16)
    await stand.end()
    assert stand.turns.index("light/texts") <= SLOTS + 1


async def test_bulk_work_does_not_hold_up_its_own_tenants_question() -> None:
    stand = Stand()
    for _ in range(30):
        await stand.embed("acme", 64)
    await stand.search("acme")
    await stand.end()
    assert stand.turns.index("acme/interactive") <= SLOTS + 1


async def test_a_call_costs_as_much_as_it_has_texts() -> None:
    """Four calls of one tenant hold 32 texts each: after the first, 32 of another's calls are as much."""
    stand = Stand()
    for _ in range(SLOTS):
        await stand.search("before")
    for _ in range(4):
        await stand.embed("many", 32)
    for _ in range(8):
        await stand.embed("few", 1)
    await stand.end()
    last_of_few = len(stand.turns) - 1 - stand.turns[::-1].index("few/texts")
    assert stand.turns[: last_of_few + 1].count("many/texts") <= 1


async def test_bands_go_one_before_the_other() -> None:
    stand = Stand()
    for band in ("batch", "batch", "batch", "batch", "standard", "interactive"):
        await stand.search("acme", band)
    await stand.end()
    assert stand.turns[SLOTS : SLOTS + 2] == ["acme/interactive", "acme/standard"]


async def test_a_full_line_refuses_the_flood_and_not_the_light_one() -> None:
    stand = Stand(max_waiting=5)
    for _ in range(SLOTS + 5):
        await stand.search("flood")
    with pytest.raises(Rejected):
        await stand.retriever.retrieve("one more", Scope(tenant_id="flood"), timeout_s=60)
    await stand.search("light")
    for _ in range(SLOTS + 6):
        stand._ends.release()
    found = await asyncio.gather(*stand._asked, return_exceptions=True)
    assert sum(isinstance(each, Exception) for each in found) == 1  # the flood's last one gave way
    assert "light/interactive" in stand.turns
