"""The document that all workers share, over a real Redis that is emptied, stopped and filled with rubbish."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.errors import UpstreamUnavailable
from gateway.settings import Settings
from gateway.storage.redis_client import connect_redis
from gateway.storage.shared_note import SharedNote
from tests.fakes.redis_process import RedisProcess
from tests.integration.api.conftest import free_port

LIMIT_S = 5


class Worker:
    """One of those that share a note."""

    def __init__(self, redis: Any, name: str) -> None:
        self.heard: list[bytes] = []
        self.note = SharedNote(redis, name, self.heard.append)
        self.task = asyncio.create_task(self.note.follow())


Start = Callable[[], Awaitable[Worker]]


@pytest_asyncio.fixture
async def redis(redis_port: int) -> AsyncIterator[Any]:
    client = Redis(port=redis_port, protocol=3)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def start(redis: Any, request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    workers: list[Worker] = []
    name = f"note:{request.node.name}"

    async def start_one() -> Worker:
        worker = Worker(redis, name)
        workers.append(worker)
        await until(lambda: subscribers(redis, name), len(workers))
        return worker

    yield start_one
    for worker in workers:
        worker.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker.task


async def subscribers(redis: Any, name: str) -> int:
    return int(dict(await redis.pubsub_numsub(name)).get(name.encode(), 0))


async def until(look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await look() != wanted:  # noqa: ASYNC110  Redis has no event for it
            await asyncio.sleep(0.01)


async def last(worker: Worker) -> bytes | None:
    return worker.heard[-1] if worker.heard else None


async def has_heard(worker: Worker) -> bool:
    return bool(worker.heard)


async def test_what_one_writes_all_hear_and_a_later_one_finds(start: Start) -> None:
    one, other = await start(), await start()
    await one.note.write(b"a")
    assert one.heard == [b"a"]  # the writer has it at once
    await until(lambda: last(other), b"a")
    await other.note.write(b"b")
    await until(lambda: last(one), b"b")
    await until(lambda: last(other), b"b")
    late = await start()
    await until(lambda: last(late), b"b")


async def test_two_that_write_at_once_end_up_with_the_same(start: Start) -> None:
    workers = [await start() for _ in range(3)]
    await asyncio.gather(*(worker.note.write(str(index).encode()) for index, worker in enumerate(workers)))
    await workers[0].note.write(b"settled")
    for worker in workers:
        await until(lambda worker=worker: last(worker), b"settled")  # type: ignore[misc]


async def test_a_writer_whose_clock_is_behind_is_obeyed(
    start: Start, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, name = await start(), "note:behind"
    one.task.cancel()
    ahead, behind = SharedNote(redis, name, one.heard.append), SharedNote(redis, name, one.heard.append)
    await ahead.write(b"first")
    monkeypatch.setattr("gateway.storage.shared_note.time.time", lambda: 1.0)
    await behind.write(b"second")  # it has not heard of the first
    late = Worker(redis, name)
    await until(lambda: last(late), b"second")
    late.task.cancel()


async def test_a_redis_that_lost_it_gets_it_back(start: Start, redis: Any) -> None:
    one = await start()
    await one.note.write(b"a")
    await redis.flushall()
    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # as its restart would
    late = Worker(redis, one.note._name)
    await until(lambda: last(late), b"a")
    late.task.cancel()


async def test_rubbish_is_left_alone(start: Start, redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    one = await start()
    await one.note.write(b"a")
    await redis.publish(one.note._name, b"{rubbish")
    await one.note.write(b"b")
    await until(lambda: last(one), b"b")
    await until(lambda: logged(caplog), True)
    assert one.heard == [b"a", b"b"]


async def logged(caplog: pytest.LogCaptureFixture) -> bool:
    return any("no note of ours" in record.message for record in caplog.records)


async def test_without_redis_a_change_is_refused() -> None:
    gone: Any = Redis(port=free_port(), socket_connect_timeout=0.2)
    heard: list[bytes] = []
    with pytest.raises(UpstreamUnavailable, match="stays in force"):
        await SharedNote(gone, "note", heard.append).write(b"a")
    assert heard == []
    await gone.aclose()


def fill(own_redis: RedisProcess) -> None:
    own_redis.command("CONFIG", "SET", "maxmemory", "1")


@pytest.mark.parametrize(
    ("hurt", "heal"),
    [
        (RedisProcess.kill, RedisProcess.start),
        (RedisProcess.freeze, RedisProcess.thaw),
        (fill, lambda own_redis: own_redis.command("CONFIG", "SET", "maxmemory", "0")),
    ],
    ids=["killed", "frozen", "full"],
)
async def test_a_redis_in_trouble_refuses_changes_and_has_them_when_it_is_well(
    own_redis: RedisProcess, hurt: Callable[[RedisProcess], object], heal: Callable[[RedisProcess], object]
) -> None:
    redis = connect_redis(Settings(redis_url=own_redis.url))
    one, other = Worker(redis, "note"), Worker(redis, "note")
    await until(lambda: subscribers(redis, "note"), 2)
    await one.note.write(b"a")
    await until(lambda: last(other), b"a")
    hurt(own_redis)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(UpstreamUnavailable, match="stays in force"):
        await one.note.write(b"b")
    assert loop.time() - started < 3.0
    assert (one.heard[-1], other.heard[-1]) == (b"a", b"a")
    heal(own_redis)
    late = Worker(redis, "note")  # where Redis has lost the note, another worker gives it back
    await until(lambda: has_heard(late), True)
    assert late.heard[-1] in {b"a", b"b"}  # a frozen Redis may still carry out what it was asked
    for worker in (one, other, late):
        worker.task.cancel()
    await asyncio.gather(one.task, other.task, late.task, return_exceptions=True)
    await redis.aclose()
