"""Readers of one answer in several workers, and waiting for what they see."""

from __future__ import annotations

import asyncio

from gateway.types import Receipt
from tests.fakes.pipelines import ListeningSink
from tests.fakes.workers import TEXTS, Worker

WHOLE = "".join(TEXTS)
LIMIT_S = 10
QUESTION = "What is a tide gate?"


async def reading(
    worker: Worker, sink: ListeningSink | None = None, question: str = QUESTION
) -> tuple[ListeningSink, asyncio.Task[Receipt]]:
    """One that asks this worker and has its first words: what it has heard, and its request."""
    sink = sink or ListeningSink()
    task = asyncio.create_task(worker.into(sink, question))
    await sink.started.wait()
    return sink, task


def started(workers: list[Worker]) -> int:
    return sum(each.answerer.started for each in workers)
