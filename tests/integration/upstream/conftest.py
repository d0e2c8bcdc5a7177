from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_asyncio

from tests.fakes.openai_server import FakeOpenAi, running_openai
from tests.integration.upstream.stand import Stand


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeOpenAi]:
    async with running_openai() as server:
        yield server


@pytest_asyncio.fixture
async def stand(fake: FakeOpenAi) -> AsyncIterator[Stand]:
    made = Stand(fake)
    yield made
    await made.client.close()


@pytest_asyncio.fixture
async def standing(fake: FakeOpenAi) -> AsyncIterator[Callable[..., Stand]]:
    """Makes stands with other fields of the tier, and closes them."""
    made: list[Stand] = []

    def make(**fields: Any) -> Stand:
        made.append(Stand(fake, **fields))
        return made[-1]

    yield make
    for each in made:
        await each.client.close()
