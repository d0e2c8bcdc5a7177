"""A channel that is followed while a real Redis is restarted, frozen or emptied, and its follower cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.api.auth import Authenticator, Caller
from gateway.errors import Unauthenticated
from gateway.neighbours import follow_key_changes
from gateway.settings import Settings
from gateway.storage import keys
from gateway.storage.database import Database
from gateway.storage.redis_channel import follow_channel
from gateway.storage.redis_client import connect_redis
from tests.fakes.redis_process import RedisProcess

LIMIT_S = 8
STEPS = 80  # of the event loop, more than a subscription takes


@pytest_asyncio.fixture
async def redis(own_redis: RedisProcess) -> AsyncIterator[Any]:
    client = connect_redis(Settings(redis_url=own_redis.url))
    yield client
    await client.aclose()


class Follower:
    """Counts what it is told. gap: set whenever listening began anew."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.gap = asyncio.Event()

    async def catch_up(self) -> None:
        self.gap.set()

    def follow(self, redis: Any, silence_s: float = 10.0) -> asyncio.Task[None]:
        return asyncio.create_task(
            follow_channel(redis, "news", self.messages.put_nowait, self.catch_up, silence_s=silence_s)
        )


async def stopped(task: asyncio.Task[None]) -> None:
    """Cancels once. Fails where that is not enough."""
    task.cancel()
    _, pending = await asyncio.wait({task}, timeout=LIMIT_S)
    assert not pending


async def next_gap(follower: Follower) -> None:
    async with asyncio.timeout(LIMIT_S):
        await follower.gap.wait()
    follower.gap.clear()


async def test_messages_are_heard_and_the_start_counts_as_a_gap(redis: Any) -> None:
    follower = Follower()
    task = follower.follow(redis)
    await next_gap(follower)
    await redis.publish("news", b"a")
    async with asyncio.timeout(LIMIT_S):
        assert await follower.messages.get() == b"a"
    await stopped(task)


async def test_a_restart_is_a_gap_and_messages_are_heard_again(own_redis: RedisProcess, redis: Any) -> None:
    follower = Follower()
    task = follower.follow(redis)
    await next_gap(follower)
    own_redis.kill()
    own_redis.start()
    await next_gap(follower)
    await redis.publish("news", b"b")
    async with asyncio.timeout(LIMIT_S):
        assert await follower.messages.get() == b"b"
    await stopped(task)


async def test_silence_is_no_gap_while_redis_answers(redis: Any) -> None:
    follower = Follower()
    task = follower.follow(redis, silence_s=0.05)
    await next_gap(follower)
    pings = 0
    async with asyncio.timeout(LIMIT_S):
        while pings < 5:
            pings = (await redis.info("commandstats")).get("cmdstat_ping", {}).get("calls", 0)
    assert not follower.gap.is_set()
    await stopped(task)


async def test_a_redis_that_stands_still_is_left_and_found_again(own_redis: RedisProcess, redis: Any) -> None:
    follower = Follower()
    task = follower.follow(redis, silence_s=0.2)
    await next_gap(follower)
    own_redis.freeze()
    async with asyncio.timeout(LIMIT_S):
        while redis.connection_pool._in_use_connections:  # noqa: ASYNC110  the library has no event for it
            await asyncio.sleep(0.01)
    own_redis.thaw()
    await next_gap(follower)
    await stopped(task)


async def test_one_cancel_ends_it_whatever_it_waits_for(redis: Any) -> None:
    for steps in range(STEPS):
        task = Follower().follow(redis)
        for _ in range(steps):
            await asyncio.sleep(0)
        await stopped(task)


class Remembering(Authenticator):
    """Tells when it forgets."""

    def __init__(self, database: Database) -> None:
        super().__init__(Settings(auth="required"), database)
        self.forgot = asyncio.Event()

    def forget_all(self) -> None:
        super().forget_all()
        self.forgot.set()


def restart(own_redis: RedisProcess) -> None:
    own_redis.kill()
    own_redis.start()


def cut_off(own_redis: RedisProcess) -> None:
    """Redis stays, so that the library connects anew without a word."""
    own_redis.command("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.parametrize("lose", [restart, cut_off], ids=["restarted", "cut off"])
async def test_a_key_whose_revocation_nobody_heard_is_forgotten_with_the_connection(
    own_redis: RedisProcess, redis: Any, tmp_path: Path, lose: Callable[[RedisProcess], None]
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'tidegate.db'}")
    database.migrate()
    with database.write() as conn:
        row, key = keys.create_key(conn, tenant="acme", name="visitor")
    auth = Remembering(database)
    caller = Caller(authorization=f"Bearer {key}", peer="192.0.2.1", host="tidegate.example")
    task = asyncio.create_task(follow_key_changes(redis, auth))
    async with asyncio.timeout(LIMIT_S):
        await auth.forgot.wait()
        await auth.tenant(caller)
        with database.write() as conn:
            keys.revoke_key(conn, row.id)
        await auth.tenant(caller)  # known for a while
        auth.forgot.clear()
        lose(own_redis)
        await auth.forgot.wait()
    with pytest.raises(Unauthenticated):
        await auth.tenant(caller)
    await stopped(task)
    database.close()
