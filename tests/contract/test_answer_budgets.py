"""What a tenant may hold in Redis: by number and by bytes, on a real server as we configure it."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.caching.entry import Entry
from gateway.caching.key import Key
from gateway.caching.names import book_names, entry_name
from gateway.caching.purging import held, purge
from gateway.caching.shared import OVERHEAD_BYTES, Purge, SharedStore
from gateway.settings import Settings
from gateway.storage.redis_client import connect_redis
from gateway.supervise.redis_config import redis_memory
from tests.contract.test_answer_stores import Calls, make
from tests.fakes.redis_process import running_redis

pytestmark = pytest.mark.usefixtures("patience")

MEMORY_MB = 24  # instead of the 256 of our own Redis: the same shares of less
BUDGET = MEMORY_MB * 2**20 // 4
LARGE = 17_000  # bytes of an entry, of the kind that compresses to no less


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    """With our own Redis's rule for when memory runs out."""
    with running_redis(tmp_path) as server:
        client = connect_redis(Settings(var=tmp_path, redis_url=server.url))
        for name, value in redis_memory(MEMORY_MB).items():
            await client.config_set(name, value)
        yield client
        await client.aclose()


def store_over(redis: Redis, **bounds: int) -> SharedStore:
    return SharedStore(redis, **({"max_entries": 20_000, "max_bytes": BUDGET} | bounds))  # type: ignore[arg-type]


def noise(num_bytes: int) -> str:
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=num_bytes * 8 // 5))


async def put(store: SharedStore, key_and_entry: tuple[Key, Entry], **changes: float) -> Key:
    key, entry = key_and_entry
    store.put(msgspec.structs.replace(entry, **changes))
    await store.settle()
    return key


async def billed(redis: Redis, tenant: str) -> int:
    return int(await redis.hget(book_names(tenant)[1], "total") or 0)  # type: ignore[misc]


async def test_large_answers_of_one_tenant_leave_anothers_alone(redis: Redis) -> None:
    store = store_over(redis)
    small = [await put(store, make(f"s{number}", tenant="small")) for number in range(100)]
    text = noise(LARGE)
    for number in range(2500):  # twice the memory of the whole Redis
        await put(store, make(f"g{number}", tenant="large", text=text))
    kept = [await store.get(key) for key in small]
    assert [entry for entry in kept if entry is None] == []
    count, num_bytes = await held(redis, "large")
    assert BUDGET * 0.9 < num_bytes + count * OVERHEAD_BYTES <= BUDGET
    assert (await redis.info("stats"))["evicted_keys"] == 0


async def test_what_is_billed_is_what_is_held(redis: Redis) -> None:
    store = store_over(redis, max_bytes=100_000)
    for number in range(200):
        await put(store, make(str(number % 60), text=noise(random.randrange(10, 5000))))
        if number % 7 == 0:
            store.drop(make(str(number % 50))[0])
            await store.settle()
    count, num_bytes = await held(redis, "acme")
    assert await billed(redis, "acme") == num_bytes + count * OVERHEAD_BYTES <= 100_000
    assert count > 5
    await purge(redis, Purge(tenant_id="acme"))
    assert (await held(redis, "acme"), await billed(redis, "acme")) == ((0, 0), 0)


async def test_what_ran_out_is_no_longer_billed(redis: Redis) -> None:
    store, now = store_over(redis), time.time()
    for number in range(20):
        await put(store, make(f"short{number}"), expires=now + 1)
    before = await billed(redis, "acme")
    key, _ = make("short0")
    while await redis.exists(entry_name("acme", key.digest)):
        pass
    last = await put(store, make("long"))
    assert await store.get(last) is not None
    assert await billed(redis, "acme") < before / 10


async def test_what_redis_itself_has_evicted_gives_its_place_back(redis: Redis) -> None:
    """Answers that went for want of memory stay on the books until their turn as the oldest: nobody gets more."""
    store = store_over(redis, max_bytes=50_000)
    gone = [await put(store, make(f"old{number}", text=noise(4000))) for number in range(8)]
    await redis.unlink(*(entry_name("acme", key.digest) for key in gone))
    fresh = [await put(store, make(f"new{number}", text=noise(4000))) for number in range(8)]
    assert all([await store.get(key) for key in fresh])
    count, num_bytes = await held(redis, "acme")
    assert num_bytes + count * OVERHEAD_BYTES <= await billed(redis, "acme") <= 50_000


async def test_an_answer_larger_than_the_budget_is_left_out(redis: Redis) -> None:
    calls = Calls()
    store = SharedStore(redis, max_entries=10, max_bytes=4000, count=calls)
    first = await put(store, make("small"))
    await put(store, make("huge", text=noise(8000)))
    assert calls["write", "too_large"] == 1
    assert await store.get(first) is not None


async def test_a_short_life_does_not_end_the_books_of_longer_ones(redis: Redis) -> None:
    store, now = store_over(redis), time.time()
    await put(store, make("long"), expires=now + 86_400)
    await put(store, make("short"), expires=now + 2)
    assert [await redis.ttl(name) > 86_000 for name in book_names("acme")] == [True] * 3


async def test_reading_keeps_the_books_as_fresh_as_the_answers(redis: Redis) -> None:
    store = store_over(redis)
    key = await put(store, make("a"))
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    while any([await redis.object("idletime", name) < 1 for name in book_names("acme")]):
        pass
    assert await store.get(key) is not None
    await store._trips.post("PING")  # after it
    assert [await redis.object("idletime", name) for name in book_names("acme")] == [0, 0, 0]
