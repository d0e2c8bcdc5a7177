"""One kept connection to a real Redis: replies are whoever's asked, whatever happens to the connection."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from gateway.storage.redis_wire import RedisWire
from tests.fakes.redis_process import RedisProcess


async def test_calls_of_one_go_are_answered_in_order_over_one_connection(redis: Redis) -> None:
    wire = RedisWire(redis)
    before = await _num_connections(redis)
    for round_ in range(20):
        replies = await wire.send([("SET", "a", round_), ("INCR", "a"), ("GET", "a")])
        assert replies == [b"OK", round_ + 1, str(round_ + 1).encode()]
    assert await _num_connections(redis) == before + 1


async def test_a_refusal_is_the_reply_of_its_own_call_alone(redis: Redis) -> None:
    first, second, third, last = await RedisWire(redis).send(
        [("SET", "text", "word"), ("INCR", "text"), ("EVALSHA", "0" * 40, 0), ("GET", "text")]
    )
    assert (first, last) == (b"OK", b"word")
    assert isinstance(second, ResponseError)
    assert isinstance(third, NoScriptError)


async def test_a_kept_connection_that_has_ended_is_replaced(redis: Redis) -> None:
    wire = RedisWire(redis)
    await wire.send([("SET", "a", 1)])
    await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await wire.send([("GET", "a")]) == [b"1"]


async def test_a_redis_that_was_started_again_is_found_again(
    redis: Redis, redis_process: RedisProcess
) -> None:
    wire = RedisWire(redis)
    await wire.send([("PING",)])
    redis_process.kill()
    with pytest.raises(RedisConnectionError):
        await wire.send([("PING",)])
    redis_process.start()
    assert await wire.send([("PING",)]) == [b"PONG"]


async def test_a_master_that_has_become_a_replica_is_not_asked_again(
    redis: Redis, redis_process: RedisProcess
) -> None:
    wire = RedisWire(redis)
    (first,) = await wire.send([("CLIENT", "ID")])
    redis_process.command("REPLICAOF", "127.0.0.1", "1")
    try:
        (refusal,) = await wire.send([("SET", "a", 1)])
        assert isinstance(refusal, ReadOnlyError)
    finally:
        redis_process.command("REPLICAOF", "NO", "ONE")
    (second,), (third,) = await wire.send([("CLIENT", "ID")]), await wire.send([("CLIENT", "ID")])
    assert first != second == third


async def test_replies_of_a_go_that_was_broken_off_are_nobodys(
    redis: Redis, redis_process: RedisProcess
) -> None:
    wire = RedisWire(redis)
    await wire.send([("SET", "a", "old"), ("SET", "b", "new")])
    redis_process.freeze()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await wire.send([("GET", "a"), ("GET", "a")])
    finally:
        redis_process.thaw()
    assert await wire.send([("GET", "b")]) == [b"new"]


async def _num_connections(redis: Redis) -> int:
    info = await redis.info("clients")
    return int(info["connected_clients"])
