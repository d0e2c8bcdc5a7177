from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.fakes.memory import MemoryBench


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[MemoryBench]:
    """After the watch's first look, so that what is unchanged counts as such."""
    made = MemoryBench(tmp_path)
    await made.watch.look()
    yield made
    made.close()
