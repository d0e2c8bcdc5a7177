"""The load generator over real sockets, against the engine that all arms share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

import msgspec

from perf.load.arrivals import Planned
from perf.load.client import Endpoint
from perf.load.engine import Engine, serve
from perf.load.generator import send
from perf.load.rows import LoadRow
from perf.load.sender import Job, Sender
from perf.load.summary import max_concurrent


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[Endpoint]:
    server = await serve(0, engine)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Endpoint("test", port, "relay", {}, is_ours=False, questions=["?"], checks_text=True)
    finally:
        server.close()


def planned(at_s: list[float], num_tokens: int = 4) -> list[Planned]:
    return [
        Planned(number, at, "p", "all", "all", "interactive", num_tokens, 0, is_counted=True)
        for number, at in enumerate(at_s)
    ]


async def sent(
    endpoint: Endpoint, plan: list[Planned], patience_s: float = 10.0, room: int = 100
) -> list[LoadRow]:
    return await Sender(Job(endpoint, plan, patience_s), room).run(perf_counter())


async def until(engine: Engine, num_waiting: int) -> None:
    """Returns when that many stand in the engine's line."""
    async with asyncio.timeout(10):
        while engine.look()["waiting"] != num_waiting:  # noqa: ASYNC110  it tells nobody of a change
            await asyncio.sleep(0.01)


async def test_every_answer_is_timed_and_checked() -> None:
    async with serving(Engine(8, 0.01, 0.02)) as endpoint:
        found = await sent(endpoint, planned([0.0, 0.05, 0.1]))
    assert [row.outcome for row in found] == ["completed"] * 3
    for row in found:
        assert row.intended_s <= row.started_s <= row.sent_s < row.first_s < row.done_s
        assert sum(count for _, count in row.reads) == row.num_tokens == 4


async def test_a_stalled_server_does_not_hold_back_a_single_send() -> None:
    """What a closed loop gets wrong: it would send one, wait, and never notice the rest."""
    engine = Engine(1, 0.0, 0.0, is_shut=True)
    async with serving(engine) as endpoint:
        running = asyncio.create_task(sent(endpoint, planned([0.01 * step for step in range(40)])))
        await until(engine, 40)  # all are there, though none has been answered
        engine.open()
        found = await running
    assert max_concurrent(found) == 40
    assert all(row.ttft_s >= 0.4 - row.intended_s - 0.05 for row in found)  # the stall is in the figures


async def test_a_caller_who_loses_patience_leaves_and_the_line_forgets_him() -> None:
    engine = Engine(1, 0.0, 0.0, is_shut=True)
    async with serving(engine) as endpoint:
        [row] = await sent(endpoint, planned([0.0]), patience_s=0.2)
        await until(engine, 0)
    assert (row.outcome, row.code) == ("failed", "out_of_patience")
    assert engine.stats["left"] == 1


async def test_a_generator_without_room_says_so() -> None:
    engine = Engine(1, 0.0, 0.05)
    async with serving(engine) as endpoint:
        found = await sent(endpoint, planned([0.0, 0.0, 0.0]), room=2)
    assert sorted(row.outcome for row in found) == ["completed", "completed", "unsent"]


async def test_nobody_there_is_a_failure_and_not_a_crash() -> None:
    async with serving(Engine(1, 0.0, 0.0)) as endpoint:
        pass
    [row] = await sent(endpoint, planned([0.0]))
    assert (row.outcome, row.code) == ("failed", "no_connection")


async def test_the_engine_works_on_no_more_than_its_slots() -> None:
    engine = Engine(2, 0.01, 0.01)
    async with serving(engine) as endpoint:
        found = await sent(endpoint, planned([0.0] * 6))
    assert all(row.is_complete for row in found)
    assert engine.look() == {
        "asked": 6, "answered": 6, "left": 0, "most_waiting": 4, "running": 0, "waiting": 0,
    }  # fmt: skip


async def test_several_processes_share_one_schedule() -> None:
    async with serving(Engine(8, 0.001, 0.001)) as endpoint:
        found = await send(
            endpoint, planned([0.02 * step for step in range(20)]), patience_s=5.0, processes=2
        )
    assert [row.number for row in found] == list(range(20))
    assert all(row.is_complete for row in found)


async def test_a_request_says_who_asks_and_how_urgent_it_is() -> None:
    ours = Endpoint("t", 1, "fast", {"a": "tg-key"}, is_ours=True, questions=["?"], checks_text=False)
    one = msgspec.structs.replace(planned([0.0])[0], tenant="a", priority="batch", deadline_ms=500)
    raw = ours.request(one)
    assert b"authorization: Bearer tg-key\r\n" in raw
    assert b'"priority":"batch"' in raw
    assert b'"deadline_ms":500' in raw
