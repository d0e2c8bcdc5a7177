"""Time at both doors: the queue, draining, deadlines, clients that leave and readers that take nothing."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.api import grpc_door
from gateway.lifecycle import State
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import Door
from tests.integration.api.test_both_doors import QUESTION, ask_both, door, doors
from tests.integration.api.test_leaving import the_receipt
from tests.waiting import until

__all__ = ["door", "doors"]
STOP_WITHIN_S = 2.0  # what is stopped would last ten and more


async def full(gateway: Gateway) -> list[Any]:
    return [await gateway.queue.acquire(band="interactive", deadline=float("inf")) for _ in range(2)]


async def test_a_full_line_is_refused_with_the_same_delay(gateway: Gateway, doors: list[Door]) -> None:
    permits = await full(gateway)
    gateway.queue.max_waiting = 0
    failure = (await ask_both(doors)).failure
    assert failure is not None
    assert (failure.code, failure.retry_s) == ("capacity", 1)
    for permit in permits:
        permit.release()


async def test_a_deadline_that_cannot_be_met_is_refused_on_arrival(gateway: Gateway, door: Door) -> None:
    clock = asyncio.get_running_loop().time
    with await gateway.queue.acquire(band="interactive", deadline=float("inf")):
        began = clock()
        await asyncio.sleep(0.6)  # how long a slot is held, as far as the queue knows now
        held_s = clock() - began
    permits = await full(gateway)
    began, deadline_s = clock(), held_s + 0.1
    failure = (await door.ask(model="fast", messages=QUESTION, deadline_ms=int(1000 * deadline_s))).failure
    assert clock() - began < deadline_s  # it did not wait for its deadline
    assert failure is not None
    assert (failure.code, failure.param, failure.status) == ("deadline_infeasible", "deadline", 503)
    told = re.fullmatch(r"The deadline cannot be met: the expected wait is (\d\.\d) s\.", failure.message)
    assert told is not None
    assert 0.1 <= float(told[1]) <= held_s + 0.1  # until the first of the two slots comes free
    assert 1 <= (failure.retry_s or 0) <= math.ceil(held_s + 0.1)
    assert failure.ticket
    assert gateway.fast.started == gateway.queue.num_waiting == 0
    asked = asyncio.create_task(door.ask(model="fast", messages=QUESTION, deadline_ms=15_000))
    await until(lambda: gateway.queue.num_waiting == 1)
    for permit in permits:
        permit.release()
    assert (await asked).failure is None  # there is time enough for this one


async def test_a_refusal_carries_a_ticket_that_keeps_the_place(gateway: Gateway, door: Door) -> None:
    assert (await door.ask(model="fast", messages=QUESTION)).failure is None
    permits = await full(gateway)
    gateway.queue.max_waiting = 0
    failure = (await door.ask(model="fast", messages=QUESTION)).failure
    assert failure is not None
    assert failure.code == "capacity"
    gateway.queue.max_waiting = 2
    gateway.fast.delay_s = 0.1
    order: list[str] = []

    async def again(name: str, **fields: str) -> None:
        question = [{"role": "user", "content": name}]
        assert (await door.ask(model="fast", messages=question, **fields)).failure is None
        order.append(name)

    later = asyncio.create_task(again("later"))
    await until(lambda: gateway.queue.num_waiting == 1)
    first = asyncio.create_task(again("first", ticket=failure.ticket))
    await until(lambda: gateway.queue.num_waiting == 2)
    permits[0].release()
    await asyncio.gather(first, later)
    permits[1].release()
    assert order == ["first", "later"]


async def test_a_wait_that_outlasts_the_ttl_is_evicted_alike(gateway: Gateway, doors: list[Door]) -> None:
    permits = await full(gateway)
    gateway.queue.ttl_s = 0.05
    failure = (await ask_both(doors)).failure
    assert failure is not None
    assert (failure.code, failure.status) == ("queue_ttl", 503)
    assert failure.ticket
    assert failure.retry_s == 1
    for permit in permits:
        permit.release()


async def test_an_open_stream_that_is_evicted_is_told_ticket_and_delay(
    gateway: Gateway, doors: list[Door]
) -> None:
    permits = await full(gateway)
    gateway.queue.ttl_s = 1.0  # long enough for its place to be told, which opens the stream
    reply = await ask_both(doors, events=True)
    failure = reply.failure
    assert reply.places == [1]
    assert failure is not None
    assert (failure.code, failure.retry_s, bool(failure.ticket)) == ("queue_ttl", 1, True)
    for permit in permits:
        permit.release()


async def test_whose_place_is_taken_comes_back_to_it(gateway: Gateway, door: Door) -> None:
    assert (await door.ask(model="fast", messages=QUESTION, priority="batch")).failure is None
    permits = await full(gateway)
    gateway.queue.max_waiting = 1
    asked = asyncio.create_task(door.ask(model="fast", messages=QUESTION, events=True, priority="batch"))
    await until(lambda: gateway.queue.num_waiting == 1)
    better = asyncio.create_task(door.ask(model="fast", messages=QUESTION))
    failure = (await asked).failure
    assert failure is not None
    assert (failure.code, failure.retry_s) == ("displaced", 1)
    gateway.queue.max_waiting = 3
    order: list[str] = []

    async def again(name: str, **fields: str) -> None:
        question = [{"role": "user", "content": name}]
        assert (await door.ask(model="fast", messages=question, priority="batch", **fields)).failure is None
        order.append(name)

    later = asyncio.create_task(again("later"))
    await until(lambda: gateway.queue.num_waiting == 2)
    first = asyncio.create_task(again("first", ticket=failure.ticket))
    await until(lambda: gateway.queue.num_waiting == 3)
    gateway.fast.delay_s = 0.1
    permits[0].release()
    await asyncio.gather(better, first, later)
    permits[1].release()
    assert order == ["first", "later"]


async def test_the_place_in_the_queue_is_told_while_waiting(gateway: Gateway, doors: list[Door]) -> None:
    for each in doors:
        permits = await full(gateway)
        asked = asyncio.create_task(each.ask(model="fast", messages=QUESTION, events=True))
        await until(lambda: gateway.queue.num_waiting == 1)
        for permit in permits:
            permit.release()
        reply = await asked
        assert reply.places == [1]
        assert reply.stages == ["retrieving", "generating"]
        assert reply.receipt is not None


async def test_a_draining_worker_refuses_alike_and_lets_open_streams_finish(
    gateway: Gateway, doors: list[Door]
) -> None:
    gateway.fast.texts, gateway.fast.gap_s = [f"word{n} " for n in range(40)], 0.02
    running = [asyncio.create_task(door.ask(model="fast", messages=QUESTION)) for door in doors]
    await until(lambda: gateway.fast.started == 2)
    drained = asyncio.create_task(gateway.services.lifecycle.drain(10))
    await until(lambda: gateway.services.lifecycle.state is State.DRAINING)
    failure = (await ask_both(doors)).failure
    assert failure is not None
    assert (failure.code, failure.retry_s, failure.status) == ("draining", 2, 503)
    assert await drained
    for reply in [await task for task in running]:
        assert reply.text.endswith("word39 ")


SLOW: dict[str, Callable[[Gateway], Awaitable[Any]]] = {}


def slow(stage: str) -> Callable[[Callable[[Gateway], Awaitable[Any]]], Any]:
    def add(prepare: Callable[[Gateway], Awaitable[Any]]) -> Any:
        SLOW[stage] = prepare
        return prepare

    return add


@slow("retrieving")
async def _slow_retrieval(gateway: Gateway) -> None:
    gateway.retriever.delay_s = 30


@slow("queued")
async def _slow_queue(gateway: Gateway) -> list[Any]:
    return await full(gateway)


@slow("generating")
async def _slow_engine(gateway: Gateway) -> None:
    gateway.fast.delay_s = 30


def reached(gateway: Gateway, stage: str) -> bool:
    return bool(
        {
            "retrieving": gateway.retriever.started,
            "queued": gateway.queue.num_waiting,
            "generating": gateway.fast.started,
        }[stage]
    )


@pytest.mark.parametrize("stage", SLOW)
async def test_leaving_stops_the_work_wherever_it_stands(gateway: Gateway, door: Door, stage: str) -> None:
    permits = await SLOW[stage](gateway) or []
    question = await door.open(model="fast", messages=QUESTION)
    await until(lambda: reached(gateway, stage))
    lifecycle = gateway.services.lifecycle
    await question.leave()
    assert await until(lambda: lifecycle.inflight == 0) < STOP_WITHIN_S
    assert gateway.queue.num_waiting == 0
    assert gateway.queue.inflight == len(permits)
    receipt = await the_receipt(gateway)
    assert (receipt["outcome"], receipt["cause"], receipt["stage"]) == ("evicted", "client_gone", stage)
    for permit in permits:
        permit.release()


async def test_leaving_mid_stream_stops_the_engine(gateway: Gateway, door: Door) -> None:
    gateway.fast.texts, gateway.fast.gap_s = [f"word{n} " for n in range(1000)], 0.01
    question = await door.open(model="fast", messages=QUESTION)
    await question.read_until("word3")
    await question.leave()
    stopped = await until(lambda: gateway.fast.cancelled and gateway.queue.inflight == 0)
    assert stopped < STOP_WITHIN_S
    receipt = await the_receipt(gateway)
    assert (receipt["outcome"], receipt["cause"]) == ("evicted", "client_gone")


@pytest.mark.parametrize("stage", SLOW)
async def test_a_deadline_that_passes_is_told_as_such(
    gateway: Gateway, doors: list[Door], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long before the client of gRPC ends the call itself: a busy machine takes the usual 20 ms.
    monkeypatch.setattr(grpc_door, "DEADLINE_MARGIN_S", 0.3)
    monkeypatch.setattr(grpc_door, "DEADLINE_MARGIN_SHARE", 1)
    permits = await SLOW[stage](gateway) or []
    failure = (await ask_both(doors, deadline_ms=600)).failure  # HTTP begins its answer after 800
    assert failure is not None
    assert (failure.code, failure.status) == ("deadline_exceeded", 408)
    for permit in permits:
        permit.release()


async def test_a_reader_that_takes_nothing_is_cut_and_its_slot_comes_back(
    gateway: Gateway, door: Door
) -> None:
    gateway.fast.texts = ["x" * 100_000] * 200
    question = await door.open(model="fast", messages=QUESTION)
    await until(lambda: gateway.fast.started)
    await until(lambda: gateway.queue.inflight == 0, within_s=10)
    receipt = await the_receipt(gateway)
    assert (receipt["outcome"], receipt["cause"]) == ("evicted", "client_gone")
    assert gateway.services.metrics.slow_readers.labels(door.name)._value.get() == 1
    await question.leave()
