"""Above the memory watermark: new work is refused alike at both doors, and what is open goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from gateway.memory import MemoryGuard, Reading
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import Door, GrpcDoor, HttpDoor
from tests.waiting import until

QUESTION = [{"role": "user", "content": "What is a tide gate?"}]


class Memory:
    used = 0

    def __call__(self) -> Reading:
        return Reading(self.used, 100)


@pytest_asyncio.fixture
async def memory(gateway: Gateway) -> Memory:
    made = Memory()
    ticks = iter(range(1_000_000))
    gateway.services.memory = MemoryGuard(made, lambda: float(next(ticks)))  # looks whenever it is asked
    return made


@pytest_asyncio.fixture
async def doors(gateway: Gateway) -> AsyncIterator[list[Door]]:
    made = [HttpDoor(gateway), GrpcDoor(gateway)]
    yield list(made)
    for each in made:
        await each.close()


async def test_a_question_is_refused_with_a_delay_and_counted_once(
    gateway: Gateway, memory: Memory, doors: list[Door]
) -> None:
    memory.used = 95
    for door in doors:
        failure = (await door.ask(model="fast", messages=QUESTION)).failure
        assert failure is not None
        assert (failure.code, failure.status) == ("overloaded", 503)
        assert failure.retry_s is not None
        assert failure.retry_s >= 1
    requests = gateway.services.metrics.requests.labels("rejected", "overloaded", "none")
    assert requests._value.get() == 2
    assert gateway.fast.started == 0


async def test_what_is_open_goes_on(gateway: Gateway, memory: Memory, doors: list[Door]) -> None:
    gateway.fast.texts, gateway.fast.gap_s = [f"word{n} " for n in range(10)], 0.03
    running = [asyncio.create_task(door.ask(model="fast", messages=QUESTION)) for door in doors]
    await until(lambda: gateway.fast.started == 2)
    memory.used = 95
    for reply in [await task for task in running]:
        assert reply.text == "".join(gateway.fast.texts)


async def test_work_is_taken_again_below_the_low_mark(
    gateway: Gateway, memory: Memory, doors: list[Door]
) -> None:
    for used, is_refused in ((95, True), (87, True), (80, False), (87, False)):
        memory.used = used
        for door in doors:
            assert ((await door.ask(model="fast", messages=QUESTION)).failure is not None) == is_refused


async def test_other_work_is_refused_and_reading_is_not(gateway: Gateway, memory: Memory) -> None:
    memory.used = 95
    client, headers = gateway.client, gateway.auth()
    embedding = await client.post("/v1/embeddings", json={"input": "x"}, headers=headers)
    upload = await client.post("/v1/files", files={"file": ("a.txt", b"x")}, headers=headers)
    for reply in (embedding, upload):
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
    assert (await client.get("/v1/files", headers=headers)).status_code == 200


async def test_the_worker_stays_ready_and_calls_itself_degraded(gateway: Gateway, memory: Memory) -> None:
    assert "x-envoy-degraded" not in (await gateway.client.get("/health/ready")).headers
    memory.used = 95
    health = await gateway.client.get("/health/ready")
    assert (health.status_code, health.headers["x-envoy-degraded"]) == (200, "memory")
