"""Waiting for what nothing tells of: a row, a counter, a process's line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

EVERY_S = 0.005


async def until(is_so: Callable[[], object], what: str = "the condition", *, within_s: float = 10.0) -> float:
    """Wait until `is_so`; the seconds it took. Fails after `within_s`."""
    clock = asyncio.get_running_loop().time
    began = clock()
    while not is_so():
        assert clock() - began < within_s, f"{what} did not come true"
        await asyncio.sleep(EVERY_S)
    return clock() - began
