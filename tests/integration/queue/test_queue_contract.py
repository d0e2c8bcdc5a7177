"""What a tier's queue promises, by the one in Redis and by a worker's own: the same tests over both."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest
import pytest_asyncio

from gateway.admission.slots import SlotQueue
from gateway.admission.waiting import Claim, Permit, Queue
from gateway.errors import DeadlineExceeded, Evicted, Rejected, TidegateError
from tests.integration.queue.conftest import Workers

SOON = 0.15  # seconds; what runs behind the requests has been done by then
Make = Callable[..., Awaitable[Queue]]
Refusal = TypeVar("Refusal", bound=TidegateError)


@pytest_asyncio.fixture(params=["own", "redis"])
async def make(request: pytest.FixtureRequest, patient: None, workers: Workers) -> Make:
    async def make_own(*, limit: int = 2, max_waiting: int = 10, ttl_s: float = 30.0) -> Queue:
        return SlotQueue(limit, max_waiting=max_waiting, ttl_s=ttl_s, clock=time.monotonic, max_bytes=10_000)

    return make_own if request.param == "own" else workers.start


class Line:
    """Waiters by name, and the order in which they were served."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task[Permit]] = {}
        self.told: dict[str, list[tuple[int, float]]] = {}

    async def join(
        self, name: str, band: str = "interactive", *, left_s: float = 60.0, **claim: object
    ) -> asyncio.Task[Permit]:
        """Returns when it stands in line, or was answered."""
        stands = asyncio.Event()

        def on_wait(position: int, eta_s: float) -> None:
            self.told.setdefault(name, []).append((position, eta_s))
            stands.set()

        async def visit() -> Permit:
            try:
                permit = await self.queue.acquire(
                    band=band,
                    deadline=time.monotonic() + left_s,
                    on_wait=on_wait,
                    claim=Claim(**{"tenant": name.split("-", maxsplit=1)[0], **claim}),  # type: ignore[arg-type]
                )
                self.order.append(name)
                return permit
            finally:
                stands.set()

        self.tasks[name] = asyncio.create_task(visit())
        await stands.wait()
        return self.tasks[name]

    async def refused(self, name: str, kind: type[Refusal]) -> Refusal:
        """The refusal that this one must meet; it stands in line no more."""
        with pytest.raises(kind) as refusal:
            await asyncio.wait_for(self.tasks.pop(name), 10)
        return refusal.value

    async def end(self) -> None:
        """Whoever still waits leaves, slots come back. Raises: what a waiter met that the test has not looked at."""
        for task in self.tasks.values():
            task.cancel()
        errors = []
        for met in await asyncio.gather(*self.tasks.values(), return_exceptions=True):
            if not isinstance(met, BaseException):
                met.release()
            elif isinstance(met, Exception):  # that it was made to leave is none
                errors.append(met)
        if errors:
            raise errors[0]

    async def serve_all(self) -> list[str]:
        """One at a time, each giving its slot back, until nobody is left. The queue has one slot."""
        left = set(self.tasks.values())
        while left:
            done, left = await asyncio.wait(left, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            assert done, f"nobody was served any more; so far {self.order}"
            for task in done:
                task.result().release()
        return self.order


Form = Callable[[Queue], Line]


@pytest_asyncio.fixture
async def form(workers: Workers) -> AsyncIterator[Form]:
    """Makes lines, and ends them while their queues are still there. The loop outlives the test."""
    lines: list[Line] = []

    def before(queue: Queue) -> Line:
        lines.append(Line(queue))
        return lines[-1]

    yield before
    for line in lines:
        await line.end()


async def take(queue: Queue, **claim: object) -> Permit:
    return await queue.acquire(
        band="interactive",
        deadline=time.monotonic() + 30,
        claim=Claim(**{"tenant": "holder", **claim}),  # type: ignore[arg-type]
    )


async def test_free_slots_are_given_at_once_and_come_back(make: Make) -> None:
    queue = await make(limit=2)
    for _ in range(3):
        first, second = await take(queue), await take(queue)
        assert queue.inflight == 2
        first.release()
        first.release()
        second.release()


async def test_bands_go_one_before_the_other_and_by_age_inside(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    for name, band in [
        ("a", "batch"),
        ("b", "standard"),
        ("c", "interactive"),
        ("d", "batch"),
        ("e", "interactive"),
        ("f", "standard"),
    ]:
        await line.join(name, band)
    held.release()
    assert await line.serve_all() == ["c", "e", "b", "f", "a", "d"]


async def test_tenants_share_by_tokens(make: Make, form: Form) -> None:
    """One that asks for twice as much each time is served half as often."""
    queue = await make(limit=1, max_waiting=30)
    held, line = await take(queue), form(queue)
    for number in range(6):
        await line.join(f"big-{number}", cost=200)
    for number in range(6):
        await line.join(f"small-{number}", cost=100)
    held.release()
    order = await line.serve_all()
    assert sum(name.startswith("small") for name in order[:6]) == 4
    assert [name for name in order if name.startswith("big")] == [f"big-{number}" for number in range(6)]


async def test_a_flood_pushes_out_only_itself(make: Make, form: Form) -> None:
    queue = await make(limit=1, max_waiting=5)
    held, line = await take(queue), form(queue)
    for number in range(5):
        await line.join(f"flood-{number}", cost=100)
    await line.join("flood-5", cost=100)
    await line.refused("flood-5", Rejected)
    await line.join("modest-0", cost=100)
    assert (await line.refused("flood-4", Evicted)).code == "displaced"
    held.release()
    assert (await line.serve_all()).index("modest-0") <= 1


async def test_a_better_band_takes_the_last_place(make: Make, form: Form) -> None:
    queue = await make(limit=1, max_waiting=1)
    held, line = await take(queue), form(queue)
    await line.join("a", "batch")
    await line.join("b", "interactive")
    await line.refused("a", Evicted)
    await line.join("c", "batch")
    refused = await line.refused("c", Rejected)
    assert (refused.code, refused.status) == ("capacity", 503)
    held.release()
    assert await line.serve_all() == ["b"]


async def test_the_line_is_bounded_by_bytes_too(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    await line.join("a", size=6_000)
    await line.join("b", size=6_000)
    await line.refused("b", Rejected)
    await line.join("c", size=3_000)
    held.release()
    assert await line.serve_all() == ["a", "c"]


async def test_whoever_leaves_is_skipped(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    for name in ("a", "b", "c"):
        await line.join(name)
    line.tasks.pop("b").cancel()
    await asyncio.sleep(SOON)
    held.release()
    assert await line.serve_all() == ["a", "c"]


async def test_a_wait_ends_at_its_deadline_and_gives_up_its_place(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    await line.join("a", left_s=0.3)
    await line.join("b")
    await line.refused("a", DeadlineExceeded)
    held.release()
    assert await line.serve_all() == ["b"]


async def test_a_wait_ends_after_the_longest_that_is_allowed(make: Make, form: Form) -> None:
    queue = await make(limit=1, ttl_s=0.3)
    held, line = await take(queue), form(queue)
    await line.join("a")
    assert (await line.refused("a", Evicted)).code == "queue_ttl"
    held.release()


async def test_positions_and_waits_are_told(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    holds_s = []
    for _ in range(2):  # the drain rate is measured
        permit, began = await take(queue), time.monotonic()
        await asyncio.sleep(0.2)
        permit.release()
        holds_s.append(time.monotonic() - began)
        await asyncio.sleep(SOON)
    held, line, began = await take(queue), form(queue), time.monotonic()
    await line.join("a")
    joined_s = time.monotonic() - began  # of the time that the slot is held yet
    for name in ("b", "c"):
        await line.join(name)
    assert [line.told[name][0][0] for name in ("a", "b", "c")] == [1, 2, 3]
    waits = [line.told[name][0][1] for name in ("a", "b", "c")]
    assert min(holds_s) - joined_s - 0.1 < waits[0] < max(holds_s) + 0.1
    assert waits == pytest.approx([waits[0], 2 * waits[0], 3 * waits[0]], rel=0.3)
    held.release()
    await line.serve_all()


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    permit, began = await take(queue), time.monotonic()
    await asyncio.sleep(0.5)
    permit.release()
    held_s = time.monotonic() - began
    await asyncio.sleep(SOON)
    held, line, began = await take(queue), form(queue), time.monotonic()
    await line.join("a", left_s=held_s + 0.1, has_own_deadline=True)
    joined_s = time.monotonic() - began
    refused = await line.refused("a", Rejected)
    assert refused.code == "deadline_infeasible"
    assert held_s - joined_s - 0.2 < refused.retry_after_s < held_s + 0.2
    assert re.search(r"\d\.\d", refused.message)
    await line.join("b", left_s=30, has_own_deadline=True)
    held.release()
    assert await line.serve_all() == ["b"]


async def test_a_line_of_no_length_serves_what_has_a_slot(make: Make) -> None:
    queue = await make(limit=1, max_waiting=0)
    held = await take(queue)
    with pytest.raises(Rejected):
        await take(queue, tenant="other")
    held.release()
    await asyncio.sleep(SOON)
    (await take(queue, tenant="third")).release()


async def test_more_slots_let_more_in(make: Make, form: Form) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), form(queue)
    waiting = await line.join("a")
    queue.resize(2)
    permit = await asyncio.wait_for(waiting, 5)
    assert queue.inflight == 2
    permit.release()
    held.release()


async def test_at_a_tests_end_nobody_waits_and_what_was_not_looked_at_is_raised(make: Make) -> None:
    queue = await make(limit=1, max_waiting=1)
    held, line = await take(queue), Line(queue)
    await line.join("a")
    await line.join("b")  # there is no room for it
    with pytest.raises(Rejected):
        await line.end()
    assert all(task.done() for task in line.tasks.values())
    held.release()
    await asyncio.sleep(SOON)
    (await take(queue)).release()
