from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.storage import redis_trips
from tests.fakes.redis_process import RedisProcess
from tests.fakes.workers import TEXTS, Worker, worker

SEARCH_S = (
    0.2  # in which Redis may say who leads; a real search is shorter, but not on a machine that stands still
)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that a loaded machine keeps waiting is not taken for away: then who leads does not hang on its load."""
    monkeypatch.setattr(redis_trips, "TRIP_LIMIT_S", 5.0)


@pytest_asyncio.fixture
async def pair(own_redis: RedisProcess, tmp_path: Path) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(worker(tmp_path / name, own_redis.url, num_slots=50))
            for name in ("a", "b")
        ]
        for each in made:
            each.answerer.texts = TEXTS
            each.retriever.delay_s = SEARCH_S
        yield made
