"""Redis as the manifests start it, full of remembered answers of more tenants than it has room for."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.admission.waiting import Permit
from gateway.caching.names import entry_name
from gateway.caching.shared import SharedStore
from tests.contract.test_answer_stores import Calls, make
from tests.fakes.redis_process import RedisProcess
from tests.integration.queue.conftest import Workers, take, waiting
from tests.waiting import until

K8S = Path(__file__).parents[3] / "k8s/components"
ROOM = 8 * 2**20  # of the manifests' 2 GiB
NUM_TENANTS = 40  # each far below what one tenant may hold
ANSWER = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=27_000))
ANSWER_BYTES = 21_000  # of it in Redis, compressed
QUEUE = "tidegate:queue:{fast}:"


def when_full(file: str) -> dict[str, str]:
    """What a manifest's Redis does when it is full."""
    text = (K8S / file).read_text("utf-8")
    names = ("maxmemory-policy", "maxmemory-samples")
    return {name: re.findall(rf'--{name},? "?([a-z0-9-]+)', text)[0] for name in names}


@pytest.fixture(params=["redis/redis.yaml", "redis-ha/start-redis.sh"])
async def redis(request: pytest.FixtureRequest, redis_process: RedisProcess) -> AsyncIterator[Redis]:
    redis_process.command("FLUSHALL")
    client = Redis.from_url(redis_process.url, protocol=3)
    used = (await client.info("memory"))["used_memory"]
    for name, value in when_full(request.param).items():
        await client.config_set(name, value)
    await client.config_set("maxmemory", used + ROOM)
    yield client
    redis_process.command("CONFIG", "SET", "maxmemory", "0")
    redis_process.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis_process.command("FLUSHALL")
    await client.aclose()


async def remember(store: SharedStore, name: str, num_bytes: int) -> list[str]:
    """Answers of all tenants in turn, that many bytes in sum. Returns their keys."""
    keys = []
    for number in range(num_bytes // ANSWER_BYTES):
        key, entry = make(f"{name}{number}", tenant=f"tenant{number % NUM_TENANTS}", text=ANSWER)
        store.put(entry)
        await store.settle()
        keys.append(entry_name(key.tenant_id, key.digest))
    return keys


@pytest.mark.usefixtures("patient")
async def test_the_line_goes_on_while_answers_fill_redis(
    workers: Workers, redis: Redis, redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A write that a busy machine made late is none that did not fit.
    monkeypatch.setattr("gateway.caching.shared.WRITE_LIMIT_S", 10.0)
    calls = Calls()
    store = SharedStore(redis, max_entries=20_000, count=calls)
    queues = [await workers.start(limit=2), await workers.start(limit=2)]
    held = [await take(queues[0]), await take(queues[1])]
    line: list[asyncio.Task[Permit]] = [await waiting(queues[0], "b"), await waiting(queues[1], "c")]

    old = await remember(store, "first", ROOM * 6 // 10)
    assert await redis.exists(*old) == len(old)
    # Redis counts in whole seconds how long something was not used.
    await until(
        lambda: redis_process.command("OBJECT", "IDLETIME", old[-1]) not in {b":0", b":1"}, within_s=10
    )
    new = await remember(store, "then", ROOM * 6 // 10)

    assert await redis.exists(*old) < len(old)
    assert dict(calls) == {("write", "ok"): calls["write", "ok"]}
    assert await redis.exists(*new) == len(new)
    assert [queue.is_shared for queue in queues] == [True, True]
    assert await redis.hlen(QUEUE + "held") == 2  # type: ignore[misc]
    assert await redis.zcard(QUEUE + "line") == 2  # what KEDA counts
    parts = ("entries", "tenants", "state", "workers")
    assert [await redis.exists(QUEUE + part) for part in parts] == [1] * len(parts)

    for permit in held:
        permit.release()
    for permit in [await asyncio.wait_for(task, 5) for task in line]:
        permit.release()
    await until(lambda: redis_process.command("HLEN", QUEUE + "held") == b":0", within_s=10)
    assert [queue.is_shared for queue in queues] == [True, True]
