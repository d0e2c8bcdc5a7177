"""Calls to Redis that nobody may wait for, over a real one that is frozen, killed and started again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.settings import Settings
from gateway.storage import redis_trips
from gateway.storage.redis_client import connect_redis
from gateway.storage.redis_trips import (
    MAX_LATE,
    MAX_TURNS,
    REST_S,
    STEP_S,
    Away,
    RedisTrips,
    answered,
    within,
)
from tests.fakes.redis_process import RedisProcess

LIMIT_S = 0.004
ENOUGH_S = 1.0  # of a call that is to succeed whatever else this machine does


class Trips(RedisTrips):
    """Keeps how many calls went together. now: what its clock says; None = the time."""

    def __init__(self, url: str) -> None:
        self.now: float | None = None
        super().__init__(connect_redis(Settings(redis_url=url)), clock=self._time)
        self.batches: list[int] = []

    def _time(self) -> float:
        return time.monotonic() if self.now is None else self.now

    async def _execute(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        self.batches.append(len(calls))
        return await super()._execute(calls)


@pytest.fixture
async def trips(own_redis: RedisProcess) -> AsyncIterator[Trips]:
    made = Trips(own_redis.url)
    await made.call("PING", limit_s=ENOUGH_S)
    made.batches.clear()
    yield made
    await made.close()


async def test_calls_that_come_together_share_a_trip_and_keep_their_order(trips: Trips) -> None:
    replies = await asyncio.gather(*(trips.call("RPUSH", "list", n, limit_s=ENOUGH_S) for n in range(100)))
    assert replies == list(range(1, 101))
    assert trips.batches == [100]
    assert await trips.call("LRANGE", "list", 0, 2, limit_s=ENOUGH_S) == [b"0", b"1", b"2"]


async def test_an_error_of_one_call_is_no_other_ones(trips: Trips) -> None:
    good, bad = trips.post("SET", "text", "x"), trips.post("LPUSH", "text", "x")
    assert await good == b"OK" or await good is True
    assert isinstance(await bad, Exception)
    with pytest.raises(Away):
        await trips.call("LPUSH", "text", "x", limit_s=ENOUGH_S)
    assert not trips.is_resting


async def test_a_redis_that_stands_still_is_waited_for_once(own_redis: RedisProcess, trips: Trips) -> None:
    own_redis.freeze()
    try:
        began = time.perf_counter()
        with pytest.raises(Away):
            await trips.call("PING", limit_s=LIMIT_S)
        first_s = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(100):
            with pytest.raises(Away):
                await trips.call("PING", limit_s=LIMIT_S)
        others_s = time.perf_counter() - began
        assert isinstance(await trips.post("PING"), Exception)
    finally:
        own_redis.thaw()
    assert LIMIT_S <= first_s < MAX_TURNS * LIMIT_S + 1  # a busy loop begins the wait anew
    assert others_s < 50 * LIMIT_S  # half of what waiting each time would take
    trips.now = time.monotonic() + 2 * REST_S
    assert await trips.call("PING", limit_s=ENOUGH_S)


async def test_replies_that_are_late_but_come_end_the_wait_for_a_while(
    own_redis: RedisProcess, trips: Trips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_trips, "TRIP_LIMIT_S", 5.0)
    for number in range(1, MAX_LATE + 1):
        own_redis.freeze()
        try:
            with pytest.raises(Away):
                await trips.call("PING", limit_s=LIMIT_S)
            late = trips.post("PING")
        finally:
            own_redis.thaw()
        assert not isinstance(await late, Exception)
        assert trips.is_resting == (number == MAX_LATE)


async def test_one_that_is_gone_raises_nothing_else_and_is_found_again(
    own_redis: RedisProcess, trips: Trips
) -> None:
    own_redis.kill()
    assert isinstance(await trips.post("PING"), Away)
    with pytest.raises(Away):
        await trips.call("PING", limit_s=ENOUGH_S)
    own_redis.start()
    trips.now = time.monotonic() + 2 * REST_S
    assert await trips.call("PING", limit_s=ENOUGH_S)


async def test_no_more_calls_wait_than_there_is_room_for(
    trips: Trips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_trips, "MAX_ASKING", 5)
    replies = await asyncio.gather(*(trips.post("PING") for _ in range(8)))
    assert [isinstance(reply, Away) for reply in replies] == [False] * 5 + [True] * 3


async def test_time_in_which_the_loop_stood_still_does_not_count() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()

    def busy(turns: int) -> None:
        time.sleep(0.01)  # as a handler that computes
        if turns:
            loop.call_soon(busy, turns - 1)
        else:
            future.set_result("read")

    loop.call_soon(busy, 4)
    assert await within(LIMIT_S, future) == "read"
    with pytest.raises(TimeoutError):
        await within(LIMIT_S, loop.create_future())


async def test_a_loop_that_stands_still_does_not_take_redis_for_dead(own_redis: RedisProcess) -> None:
    """The reply is there when the loop turns to it, long after the time was over by the clock."""
    redis = connect_redis(Settings(redis_url=own_redis.url))
    await redis.ping()

    async def ask() -> Any:
        asyncio.get_running_loop().call_soon(time.sleep, 4 * STEP_S)
        return await redis.echo("here")

    late: list[bool] = []
    told = await answered(ask(), 2 * STEP_S, late_s=2 * STEP_S, on_late=lambda: late.append(True))
    assert (told, late) == (b"here", [])
    await redis.aclose()


async def test_a_redis_that_is_frozen_is_given_up_in_time_and_its_call_ended(own_redis: RedisProcess) -> None:
    redis = connect_redis(Settings(redis_url=own_redis.url))
    await redis.ping()
    own_redis.freeze()
    ended = asyncio.Event()

    async def ask() -> Any:
        try:
            return await redis.echo("late")
        finally:
            ended.set()

    late_after: list[float] = []
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await answered(
            ask(),
            8 * STEP_S,
            late_s=2 * STEP_S,
            on_late=lambda: late_after.append(time.monotonic() - began),
        )
    assert len(late_after) == 1
    assert 2 * STEP_S <= late_after[0] < time.monotonic() - began - 2 * STEP_S
    await asyncio.wait_for(ended.wait(), ENOUGH_S)
    own_redis.thaw()
    assert await redis.echo("again") == b"again"
    await redis.aclose()
