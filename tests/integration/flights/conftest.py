from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest_asyncio

from tests.fakes.redis_process import RedisProcess
from tests.fakes.workers import TEXTS, Worker, worker


@pytest_asyncio.fixture
async def pair(own_redis: RedisProcess, tmp_path: Path) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(worker(tmp_path / name, own_redis.url, num_slots=50))
            for name in ("a", "b")
        ]
        for each in made:
            each.answerer.texts = TEXTS
            each.retriever.delay_s = 0.02  # as a real one: time in which Redis may say who leads
        yield made
