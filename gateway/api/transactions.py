"""What a route does in SQL: one transaction, in a thread, so that the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from gateway.api.services import Services

T = TypeVar("T")


async def reading(services: Services, work: Callable[[sa.Connection], T]) -> T:
    """Raises: what the work does; UpstreamUnavailable."""

    def in_thread() -> T:
        with services.database.read() as conn:
            return work(conn)

    return await asyncio.to_thread(in_thread)


async def writing(services: Services, work: Callable[[sa.Connection], T]) -> T:
    """Raises: what the work does, and then nothing is changed; UpstreamUnavailable."""

    def in_thread() -> T:
        with services.database.write() as conn:
            return work(conn)

    return await asyncio.to_thread(in_thread)
