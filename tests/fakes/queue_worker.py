"""A worker's queue in a process of its own, to be killed: takes slots, tells each at once, and never gives one back.

`python -m tests.fakes.queue_worker REDIS_URL LIMIT NUMBER`: a byte on standard output for each slot.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from redis.asyncio import Redis

from gateway.admission.redis_queue import RedisQueue


async def take(url: str, limit: int, number: int) -> None:
    redis = Redis.from_url(url, protocol=3, socket_timeout=None)
    queue = RedisQueue("fast", redis, limit=limit, max_waiting=10, max_bytes=10_000, ttl_s=30.0, share=1)
    await queue.connect()
    running = asyncio.create_task(queue.run())
    held = []
    for _ in range(number):
        held.append(await queue.acquire(band="interactive", deadline=time.monotonic() + 30))
        os.write(1, b".")
    await running


if __name__ == "__main__":
    asyncio.run(take(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
