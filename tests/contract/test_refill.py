"""A new worker takes up what the shared level holds: bounded, checked, the newest first, fair to every tenant."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from redis.asyncio import Redis

from gateway.caching import refill as refill_module
from gateway.caching.answers import Answers
from gateway.caching.entry import Piece, encode
from gateway.caching.key import Key
from gateway.caching.names import entry_name
from gateway.caching.refill import refill
from gateway.caching.shared import Purge, SharedStore
from gateway.settings import Settings
from gateway.storage.redis_client import connect_redis
from tests.contract.test_answer_stores import make
from tests.fakes.redis_process import RedisProcess, running_redis

ROOM = 2**26
VECTOR = np.full(4, 0.5, np.float32)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    with running_redis(tmp_path) as running:
        yield running


@pytest.fixture
async def redis(server: RedisProcess, tmp_path: Path) -> AsyncIterator[Redis]:
    client = connect_redis(Settings(var=tmp_path, redis_url=server.url))
    yield client
    await client.aclose()


async def remembered(redis: Redis, number: int, tenant: str = "acme", **changes: object) -> Key:
    """created: grows with the number."""
    key, entry = make(f"{number:04}", tenant)
    store = SharedStore(redis, max_entries=10_000)
    made = {"created": time.time() - 1000 + number, "vector": VECTOR.tobytes()} | changes
    store.put(msgspec.structs.replace(entry, **made))
    await store.settle()
    return key


def held(answers: Answers, tenant: str = "acme") -> list[str]:
    return sorted(digest for digest, _ in answers._local.entries(tenant))


async def test_what_was_remembered_is_met_in_other_words_by_a_worker_that_never_saw_it(redis: Redis) -> None:
    key = await remembered(redis, 1)
    answers = Answers(max_bytes=ROOM)
    assert answers.nearest(key.scope, VECTOR, 0.9) == []
    assert await refill(answers, redis, ["acme", "rival"], max_bytes=ROOM) == 1
    (near,) = answers.nearest(key.scope, VECTOR, 0.9)
    assert near.digest == key.digest
    assert answers.held("acme", key.digest) is not None


async def test_the_newest_come_first_and_each_tenant_in_its_turn(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill_module, "MAX_ENTRIES", 40)
    for number in range(60):
        await remembered(redis, number)
    for number in range(5):
        await remembered(redis, number, "small")
    answers = Answers(max_bytes=ROOM)
    await refill(answers, redis, ["acme", "small", "absent"], max_bytes=ROOM)
    assert held(answers) == [f"{number:04}" for number in range(40, 60)]
    assert len(held(answers, "small")) == 5


async def test_no_more_is_taken_up_than_there_is_room_for(redis: Redis) -> None:
    for number in range(100):
        await remembered(redis, number, pieces=[Piece("A long answer. " * 100)])
    answers = Answers(max_bytes=ROOM)
    taken = await refill(answers, redis, ["acme"], max_bytes=200_000)
    assert taken < 60
    assert 200_000 <= answers.num_bytes < 400_000  # the last page may go beyond
    assert held(answers)[-1] == "0099"


async def test_what_is_no_answer_of_that_tenant_is_left(redis: Redis) -> None:
    for number in range(6):
        await remembered(redis, number)
    await redis.set(entry_name("acme", "0000"), b"garbage")
    await redis.set(entry_name("acme", "0001"), encode(make("0001", "rival")[1]))
    await redis.set(entry_name("acme", "0002"), encode(make("0003")[1]))
    await redis.unlink(entry_name("acme", "0004"))
    answers = Answers(max_bytes=ROOM)
    assert await refill(answers, redis, ["acme"], max_bytes=ROOM) == 2
    assert held(answers) == ["0003", "0005"]


async def test_what_has_run_out_or_is_held_already_is_not_taken_up(redis: Redis) -> None:
    key = await remembered(redis, 1)
    answers = Answers(max_bytes=ROOM)
    assert await refill(answers, redis, ["acme"], max_bytes=ROOM, wall=lambda: time.time() + 3600) == 0
    own = make(key.digest)[1]
    answers.keep(key, own)
    assert await refill(answers, redis, ["acme"], max_bytes=ROOM) == 0
    assert answers.held("acme", key.digest) is own


async def test_what_is_purged_while_it_is_on_its_way_is_not_taken_up(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await remembered(redis, 1)
    answers = Answers(max_bytes=ROOM)
    read = redis.mget

    async def purged_meanwhile(names: list[str]) -> Any:
        values = await read(names)
        await redis.unlink(*names)
        answers.forget(Purge(tenant_id="acme"))
        return values

    monkeypatch.setattr(redis, "mget", purged_meanwhile)
    assert await refill(answers, redis, ["acme"], max_bytes=ROOM) == 0
    assert answers.held("acme", key.digest) is None


async def test_a_redis_that_comes_later_is_waited_for(
    redis: Redis, server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill_module, "TRIES", 2)
    monkeypatch.setattr(refill_module, "TRY_EVERY_S", 0.01)
    server.kill()
    assert await refill(Answers(max_bytes=ROOM), redis, ["acme"], max_bytes=ROOM) == 0
    server.start()
    await remembered(redis, 1)
    assert await refill(Answers(max_bytes=ROOM), redis, ["acme"], max_bytes=ROOM) == 1
