"""Workers that share one Redis: each a pipeline with an answer memory over scripted engines, in step with the others.

As a program it is one such worker, which is asked a question and says when its answer has begun: to be killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from gateway.caching.shared import SharedStore
from gateway.pipeline.joint_work import JointWork
from gateway.pipeline.memory_parts import joint_work
from gateway.settings import Settings
from gateway.storage.redis_client import connect_redis
from gateway.storage.redis_trips import RedisTrips
from tests.fakes.memory import MemoryBench
from tests.fakes.pipelines import ListeningSink

LISTENING_WITHIN_S = 5.0
TEXTS = [f"word{number} " for number in range(40)]


class Worker(MemoryBench):
    """redis: its own connections. trips: its calls that nobody waits for."""

    def __init__(self, folder: Path, url: str, **options: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.redis: Redis = connect_redis(Settings(var=folder, redis_url=url))
        self.trips = RedisTrips(connect_redis(Settings(var=folder, redis_url=url)))
        shared = SharedStore(self.redis, max_entries=1000, trips=self.trips)
        super().__init__(folder, shared=shared, **options)
        self.joint: JointWork = joint_work(self.redis, self.trips, self.metrics)
        self.memory.joint = self.joint

    def flights(self) -> dict[str, float]:
        """By role."""
        read = self.metrics.registry.get_sample_value
        roles = ("led", "followed", "taken_over", "alone")
        found = {role: read("tidegate_cache_flights_total", {"role": role}) for role in roles}
        return {role: count for role, count in found.items() if count}

    async def is_listening(self) -> None:
        async with asyncio.timeout(LISTENING_WITHIN_S):
            while not self.joint.relay.is_listening:  # noqa: ASYNC110  it has no event for it
                await asyncio.sleep(0.005)
            await self.trips.post("PING")


@asynccontextmanager
async def worker(folder: Path, url: str, **options: Any) -> AsyncIterator[Worker]:
    """One that has looked at the corpus and listens."""
    made = Worker(folder, url, **options)
    running = asyncio.create_task(made.joint.relay.run())
    await made.watch.look()
    await made.is_listening()
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait({running})
        await made.answers.settle()
        await made.joint.close()
        await made.redis.aclose()
        await asyncio.sleep(0.01)  # connections that were given up close at the next turns of the loop
        made.close()


async def lead(folder: Path, url: str, question: str, gap_s: float) -> None:
    async with worker(folder, url) as made:
        made.answerer.texts, made.answerer.gap_s = TEXTS, gap_s
        sink = ListeningSink()
        asked = asyncio.create_task(made.into(sink, question))
        await sink.started.wait()
        print("begun", flush=True)
        await asked


if __name__ == "__main__":
    asyncio.run(lead(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])))
