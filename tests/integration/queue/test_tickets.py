"""Tickets, by the queue in Redis and by a worker's own: whoever is sent away keeps its place, once."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from gateway.admission.refusals import RecentRefusals
from gateway.admission.tickets import TICKET_LIFE_S
from gateway.admission.waiting import Claim, Queue
from gateway.errors import DeadlineExceeded, Evicted, Rejected
from tests.fakes.redis_process import RedisProcess
from tests.integration.queue.conftest import Workers
from tests.integration.queue.test_queue_contract import SOON, Form, Line, Make, form, make, take
from tests.waiting import until

__all__ = ["form", "make"]
TOO_LARGE = 20_000  # bytes, for a line of these tests


def signed(ticket: str) -> list[Any]:
    told = base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4))
    return list(json.loads(told[16:]))


def tag_of(ticket: str) -> int:
    return int(signed(ticket)[4])


def id_of(ticket: str) -> str:
    return str(signed(ticket)[0])


async def ticket_of(name: str, line: Line, **claim: object) -> str:
    """For the place at the end of the line as it is now: there is no room for so much."""
    await line.join(name, cost=100, size=TOO_LARGE, **claim)
    refused = await line.refused(name, Rejected)
    assert refused.ticket
    return refused.ticket


async def test_a_refused_one_comes_back_with_its_ticket_and_keeps_its_place(make: Make, form: Form) -> None:
    queue = await make(limit=1, max_waiting=2)
    held, line = await take(queue), form(queue)
    for number in range(2):
        await line.join(f"a-{number}", cost=100)
    await line.join("a-2", cost=100)
    ticket = (await line.refused("a-2", Rejected)).ticket
    assert ticket
    held.release()
    (await line.tasks.pop("a-0")).release()
    holding = await line.tasks.pop("a-1")  # the line is empty again
    await asyncio.sleep(SOON)  # a refusal holds for a moment
    await line.join("a-3", cost=100)
    await line.join("a-4", cost=100)
    await line.join("a-2", cost=100, ticket=ticket)  # it would find the line full
    await line.refused("a-4", Evicted)
    holding.release()
    line.order.clear()
    assert await line.serve_all() == ["a-2", "a-3"]


async def come_some_way(queue: Queue) -> None:
    """So its places are not the very first ones, which are alike in all lines."""
    for _ in range(5):
        (await take(queue, cost=1000)).release()
        await asyncio.sleep(SOON)


@pytest.mark.parametrize("ticket", ["", "x", "!!!", "A" * 399, "A" * 5000])
async def test_what_is_no_ticket_changes_nothing(make: Make, form: Form, ticket: str) -> None:
    queue = await make(limit=1, max_waiting=1)
    held, line = await take(queue), form(queue)
    await line.join("a")
    await line.join("b", ticket=ticket)
    await line.refused("b", Rejected)
    held.release()


async def test_a_ticket_is_good_for_one_place(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    for name in ("a-0", "a-1"):
        await line.join(name, cost=100)
    ticket = await ticket_of("a-2", line)
    for name in ("a-3", "a-4"):
        await line.join(name, cost=100)
    await line.join("a-2", cost=100, ticket=ticket)
    await line.join("a-5", cost=100, ticket=ticket)
    held.release()
    assert await line.serve_all() == ["a-0", "a-1", "a-2", "a-3", "a-4", "a-5"]


async def test_a_ticket_that_was_used_and_meets_a_refusal_becomes_a_good_one(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    await line.join("a-0", cost=100)
    ticket = await ticket_of("a-1", line)
    await line.join("a-1", cost=100, ticket=ticket)
    again = await ticket_of("a-2", line, ticket=ticket)
    await line.join("a-3", cost=100)
    await line.join("a-2", cost=100, ticket=again)
    held.release()
    assert await line.serve_all() == ["a-0", "a-1", "a-2", "a-3"]


async def test_who_is_displaced_keeps_the_place(make: Make, form: Form) -> None:
    queue = await make(limit=1, max_waiting=2)
    held, line = await take(queue), form(queue)
    for name in ("a-0", "a-1", "b-0"):
        await line.join(name, cost=100)
    evicted = await line.refused("a-1", Evicted)
    assert (evicted.code, evicted.status) == ("displaced", 503)
    assert evicted.ticket
    assert evicted.retry_after_s is not None
    held.release()
    (await line.tasks.pop("a-0")).release()
    holding = await line.tasks.pop("b-0")
    for name in ("a-2", "a-3"):
        await line.join(name, cost=100)
    await line.join("a-1", cost=100, ticket=evicted.ticket)  # it would find the line full
    assert (await line.refused("a-3", Evicted)).ticket
    holding.release()
    line.order.clear()
    assert await line.serve_all() == ["a-1", "a-2"]


async def test_who_waited_too_long_keeps_the_place(make: Make, form: Form) -> None:
    queue = await make(limit=1, ttl_s=1.0)
    held, line = await take(queue, tenant="a", cost=100), form(queue)
    await line.join("a-0", cost=100)
    evicted = await line.refused("a-0", Evicted)
    assert (evicted.code, evicted.status) == ("queue_ttl", 503)
    assert evicted.ticket
    assert evicted.retry_after_s is not None
    await line.join("a-1", cost=100)
    await line.join("a-0", cost=100, ticket=evicted.ticket)
    held.release()
    assert await line.serve_all() == ["a-0", "a-1"]


async def test_who_came_with_a_ticket_and_is_evicted_gets_another(make: Make, form: Form) -> None:
    """The first is used; and the place is no better than before."""
    queue = await make(limit=1, ttl_s=0.5)
    held, line = await take(queue), form(queue)
    tickets = [await ticket_of("a-0", line)]
    for _ in range(2):
        await line.join("a-0", cost=100, ticket=tickets[-1])
        tickets.append((await line.refused("a-0", Evicted)).ticket)
    assert len({id_of(ticket) for ticket in tickets}) == 3
    assert len({tag_of(ticket) for ticket in tickets[1:]}) == 1
    held.release()


async def test_a_deadline_that_passes_leaves_no_ticket(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    await line.join("a", left_s=0.3)
    assert not (await line.refused("a", DeadlineExceeded)).ticket
    held.release()


async def test_a_place_does_not_get_better_by_asking_for_it_often(make: Make, form: Form) -> None:
    queue = await make(limit=1, max_waiting=1)
    held, line = await take(queue), form(queue)
    await line.join("a", cost=100)
    tickets = [""]
    for _ in range(5):
        await line.join("b", cost=100, ticket=tickets[-1])
        tickets.append((await line.refused("b", Rejected)).ticket)
    assert len({tag_of(ticket) for ticket in tickets[2:]}) == 1
    held.release()


async def test_what_is_no_ticket_is_refused_again_without_a_look(workers: Workers, form: Form) -> None:
    queue = await workers.start(limit=1, max_waiting=1)
    queue._refused = RecentRefusals(lambda: 0.0)  # its moments do not end
    held, line = await take(queue), form(queue)
    tickets = {}
    for name in ("a", "b", "c"):
        await line.join(name)
    for name in ("b", "c"):
        tickets[name] = (await line.refused(name, Rejected)).ticket
    for none in ("not one", tickets["c"]):
        with pytest.raises(Rejected):
            queue.check("interactive", Claim(tenant="b", ticket=none))
    queue.check("interactive", Claim(tenant="b", ticket=tickets["b"]))
    held.release()


async def test_one_that_is_too_large_does_not_keep_out_what_there_is_room_for(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    await line.join("b", size=6_000)
    await line.join("a-0", size=6_000)
    await line.refused("a-0", Rejected)
    await line.join("a-1", size=10)  # at once, within the moment for which a refusal is remembered
    held.release()
    assert await line.serve_all() == ["b", "a-1"]


async def test_a_ticket_of_an_outage_holds_when_redis_is_back(
    workers: Workers, redis_process: RedisProcess, form: Form
) -> None:
    """And its place is where it was: not before all who came to Redis since."""
    queue = await workers.start(limit=1)
    await come_some_way(queue)
    held, line = await take(queue, cost=1000), form(queue)
    redis_process.freeze()
    try:
        await until(lambda: not queue.is_shared, within_s=5)
        ticket = await ticket_of("a-0", line)
    finally:
        redis_process.thaw()
    await until(lambda: queue.is_shared, within_s=5)
    for name in ("a-1", "a-2"):
        await line.join(name, cost=100)
    await line.join("a-0", cost=100, ticket=ticket)
    held.release()
    assert (await line.serve_all())[0] == "a-0"


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "late"])
async def test_a_ticket_of_redis_holds_in_an_outage_and_ends(
    workers: Workers, redis_process: RedisProcess, form: Form, is_late: bool
) -> None:
    now = time.time()
    queue = await workers.start(limit=1, unix_s=lambda: now)
    await come_some_way(queue)
    held, line = await take(queue), form(queue)
    ticket = await ticket_of("a-0", line)
    now += TICKET_LIFE_S + 2 if is_late else TICKET_LIFE_S / 2
    redis_process.freeze()
    try:
        await until(lambda: not queue.is_shared, within_s=5)
        for name in ("a-1", "a-2"):
            await line.join(name, cost=100)
        await line.join("a-0", cost=100, ticket=ticket)
        held.release()
        order = await line.serve_all()
    finally:
        redis_process.thaw()
    assert order.index("a-0") == (2 if is_late else 0)
