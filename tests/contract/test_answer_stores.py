"""Both levels of the answer cache keep one contract; the shared one also keeps it while Redis does not.

Redis is a real one of the test's own: frozen, killed, filled, started again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.caching import shared as shared_module
from gateway.caching.answers import Answers
from gateway.caching.entry import Entry, Piece
from gateway.caching.key import Key
from gateway.caching.names import entry_name, index_name
from gateway.caching.shared import Purge, SharedStore
from gateway.settings import Settings
from gateway.storage.redis_client import connect_redis
from gateway.storage.redis_trips import MAX_TURNS
from tests.fakes.engines import PASSAGES
from tests.fakes.redis_process import RedisProcess, running_redis


def make(name: str, tenant: str = "acme", text: str = "An answer.") -> tuple[Key, Entry]:
    key = Key(tenant, "scope", name)
    now = time.time()
    return key, Entry(
        tenant_id=tenant,
        scope="scope",
        digest=name,
        question=f"Question {name}?",
        pieces=[Piece(text)],
        passages=list(PASSAGES),
        tier="fast",
        edition="1",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        epoch=1,
        created=now,
        expires=now + 60,
    )


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisProcess, tmp_path: Path) -> AsyncIterator[Redis]:
    client = connect_redis(Settings(var=tmp_path, redis_url=redis_server.url))
    await client.flushdb()
    yield client
    await client.aclose()


class Calls(dict[tuple[str, str], int]):
    def __call__(self, operation: str, result: str) -> None:
        self[operation, result] = self.get((operation, result), 0) + 1


def store_over(redis: Redis, calls: Calls | None = None, max_entries: int = 100) -> SharedStore:
    return SharedStore(redis, max_entries=max_entries, count=Calls() if calls is None else calls)


def wake(store: SharedStore) -> None:
    """As if the moment were over in which Redis is left alone."""
    store._rests_until = store._trips._rests_until = store._trips._hurries_until = 0


async def found_again(store: SharedStore, key: Key) -> Entry | None:
    """What a store finds once its Redis is back; a read that a busy machine made late is asked again."""
    for _ in range(100):
        await store.settle()
        wake(store)
        if (entry := await store.get(key)) is not None:
            return entry
    return None


@pytest.fixture(params=["local", "shared", "both"])
def answers(request: pytest.FixtureRequest, patience: None, redis: Redis) -> Answers:
    """`shared`: the own level holds nothing, so all comes from Redis."""
    if request.param == "local":
        return Answers(max_bytes=2**20)
    return Answers(max_bytes=2**20 if request.param == "both" else 1, shared=store_over(redis))


async def test_what_was_kept_is_found(answers: Answers) -> None:
    key, entry = make("a")
    answers.keep(key, entry)
    await answers.settle()
    assert await answers.find(key) == entry


async def test_another_key_or_tenant_finds_nothing(answers: Answers) -> None:
    key, entry = make("a")
    answers.keep(key, entry)
    await answers.settle()
    assert await answers.find(key._replace(digest="b")) is None
    assert await answers.find(key._replace(tenant_id="rival")) is None
    assert await answers.find(key._replace(scope="other")) is None or answers.num_bytes


async def test_what_was_dropped_is_gone(answers: Answers) -> None:
    key, entry = make("a")
    answers.keep(key, entry)
    await answers.settle()
    answers.drop(key)
    await answers.settle()
    assert await answers.find(key) is None


@pytest.mark.usefixtures("patience")
async def test_what_is_purged_while_it_is_read_is_not_given(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_over(redis)
    key, entry = make("a")
    store.put(entry)
    await store.settle()
    answers, read = Answers(max_bytes=2**20, shared=store), store.get

    async def purged_meanwhile(wanted: Key) -> Entry | None:
        found = await read(wanted)
        assert found is not None
        answers.forget(Purge(tenant_id="acme"))
        return found

    monkeypatch.setattr(store, "get", purged_meanwhile)
    assert await answers.find(key) is None
    assert answers.held("acme", key.digest) is None
    monkeypatch.setattr(store, "get", read)
    assert await answers.find(key) == entry  # of which nobody ordered that it go from Redis


async def test_what_has_run_out_is_gone(answers: Answers) -> None:
    key, entry = make("a")
    answers.keep(key, msgspec.structs.replace(entry, expires=time.time() - 1))
    await answers.settle()
    assert await answers.find(key) is None


async def test_a_newer_answer_takes_the_place(answers: Answers) -> None:
    key, entry = make("a")
    newer = msgspec.structs.replace(entry, pieces=[Piece("Another.")])
    for each in (entry, newer):
        answers.keep(key, each)
        await answers.settle()
    assert await answers.find(key) == newer


async def test_a_hundred_thousand_probes_of_other_tenants_find_nothing() -> None:
    answers = Answers(max_bytes=2**24)
    for number in range(1000):
        answers.keep(*make(str(number)))
    probes = (answers.held(f"rival{number % 100}", str(number % 1000)) for number in range(100_000))
    assert not any(probes)
    assert answers.held("acme", "999") is not None


# The shared level alone.


@pytest.mark.usefixtures("patience")
async def test_other_workers_and_a_restart_find_it(redis: Redis) -> None:
    key, entry = make("a")
    first = store_over(redis)
    first.put(entry)
    await first.settle()
    assert await store_over(redis).get(key) == entry


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "value", [b"", b"garbage", b"\x80\x04K\x01.", b"tga\x63junk", b"tga\x01junk"], ids=repr
)
async def test_bytes_that_are_no_entry_are_a_counted_miss(redis: Redis, value: bytes) -> None:
    key, _ = make("a")
    calls = Calls()
    await redis.set(entry_name(key.tenant_id, key.digest), value)
    assert await store_over(redis, calls).get(key) is None
    assert sum(calls.values()) == 1
    assert ("read", "ok") not in calls


@pytest.mark.usefixtures("patience")
async def test_a_value_of_another_kind_is_a_miss(redis: Redis) -> None:
    key, _ = make("a")
    await redis.lpush(entry_name(key.tenant_id, key.digest), "x")
    assert await store_over(redis).get(key) is None


@pytest.mark.usefixtures("patience")
async def test_each_tenant_has_a_bound_and_the_oldest_give_way(redis: Redis) -> None:
    store = store_over(redis, max_entries=10)
    store.put(make("only", tenant="small")[1])
    for number in range(25):
        _, entry = make(str(number))
        store.put(msgspec.structs.replace(entry, created=float(number)))
        await store.settle()
    assert await redis.zcard(index_name("acme")) == 10
    assert await store.get(make("24")[0]) is not None
    assert await store.get(make("14")[0]) is None
    assert await store.get(make("only", tenant="small")[0]) is not None
    assert len(await redis.keys("tidegate:answers:{acme}:*")) == 10


async def test_a_frozen_redis_costs_one_request_five_milliseconds_and_then_none_anything(
    redis: Redis, redis_server: RedisProcess
) -> None:
    key, entry = make("a")
    calls = Calls()
    store = store_over(redis, calls)
    store.put(entry)
    await store.settle()
    waits = []
    redis_server.freeze()
    try:
        for _ in range(200):
            started = time.perf_counter()
            assert await store.get(key) is None
            waits.append(time.perf_counter() - started)
            store.put(entry)
    finally:
        redis_server.thaw()
    # The first has READ_LIMIT_S, which a busy loop begins anew; to wait each time would take four milliseconds.
    assert max(waits) < MAX_TURNS * shared_module.READ_LIMIT_S + 1
    assert sum(waits) - max(waits) < 100 * shared_module.READ_LIMIT_S
    assert shared_module.READ_LIMIT_S <= 0.005
    assert calls["read", "resting"] == 199
    assert await found_again(store, key) == entry  # it goes on by itself


async def test_a_redis_that_is_gone_raises_nothing_and_comes_back(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        client = connect_redis(Settings(var=tmp_path, redis_url=server.url))
        key, entry = make("a")
        calls = Calls()
        store = store_over(client, calls)
        server.kill()
        assert await store.get(key) is None
        wake(store)
        store.put(entry)
        await store.settle()
        assert calls["write", "failed"] == 1
        server.start()
        wake(store)
        store.put(entry)
        assert await found_again(store, key) == entry
        await client.aclose()


async def test_a_full_redis_keeps_serving_what_it_has(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        client = connect_redis(Settings(var=tmp_path, redis_url=server.url))
        calls = Calls()
        store = store_over(client, calls)
        key, entry = make("a")
        store.put(entry)
        await store.settle()
        await client.config_set("maxmemory", "1")
        store.put(make("b")[1])
        await store.settle()
        assert calls["write", "failed"] == 1
        assert await found_again(store, key) == entry
        await client.aclose()


async def test_a_purge_means_what_stands_on_a_file() -> None:
    _, entry = make("a")
    assert Purge(tenant_id="acme").means(entry)
    assert Purge(tenant_id="acme", file_id="file-1").means(entry)
    assert Purge(tenant_id="acme", collection_id="vs_1", file_id="file-2").means(entry)
    assert not Purge(tenant_id="acme", file_id="file-9").means(entry)
    assert not Purge(tenant_id="rival").means(entry)
