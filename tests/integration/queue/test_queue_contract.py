"""What a tier's queue promises, by the one in Redis and by a worker's own: the same tests over both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import pytest_asyncio

from gateway.admission.slots import SlotQueue
from gateway.admission.waiting import Claim, Permit, Queue
from gateway.errors import AdmissionError, DeadlineExceeded, Evicted, Rejected
from tests.integration.queue.conftest import Workers

SOON = 0.15  # seconds; what runs behind the requests has been done by then
Make = Callable[..., Awaitable[Queue]]


@pytest_asyncio.fixture(params=["own", "redis"])
async def make(request: pytest.FixtureRequest, workers: Workers) -> Make:
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

    async def serve_all(self) -> list[str]:
        """One at a time, each giving its slot back, until nobody is left. The queue has one slot."""
        left = set(self.tasks.values())
        while left:
            done, left = await asyncio.wait(left, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            assert done, f"nobody was served any more; so far {self.order}"
            for task in done:
                if not task.cancelled() and task.exception() is None:
                    task.result().release()
        return self.order


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


async def test_bands_go_one_before_the_other_and_by_age_inside(make: Make) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), Line(queue)
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


async def test_tenants_share_by_tokens(make: Make) -> None:
    """One that asks for twice as much each time is served half as often."""
    queue = await make(limit=1, max_waiting=30)
    held, line = await take(queue), Line(queue)
    for number in range(6):
        await line.join(f"big-{number}", cost=200)
    for number in range(6):
        await line.join(f"small-{number}", cost=100)
    held.release()
    order = await line.serve_all()
    assert sum(name.startswith("small") for name in order[:6]) == 4
    assert [name for name in order if name.startswith("big")] == [f"big-{number}" for number in range(6)]


async def test_a_flood_pushes_out_only_itself(make: Make) -> None:
    queue = await make(limit=1, max_waiting=5)
    held, line = await take(queue), Line(queue)
    for number in range(5):
        await line.join(f"flood-{number}", cost=100)
    with pytest.raises(Rejected):
        await (await line.join("flood-5", cost=100))
    await line.join("modest-0", cost=100)
    with pytest.raises(Evicted) as refused:
        await line.tasks["flood-4"]
    assert refused.value.code == "displaced"
    del line.tasks["flood-4"], line.tasks["flood-5"]
    held.release()
    assert (await line.serve_all()).index("modest-0") <= 1


async def test_a_better_band_takes_the_last_place(make: Make) -> None:
    queue = await make(limit=1, max_waiting=1)
    held, line = await take(queue), Line(queue)
    batch = await line.join("a", "batch")
    await line.join("b", "interactive")
    with pytest.raises(Evicted):
        await batch
    with pytest.raises(Rejected) as refused:
        await (await line.join("c", "batch"))
    assert (refused.value.code, refused.value.status) == ("capacity", 503)
    del line.tasks["a"], line.tasks["c"]
    held.release()
    assert await line.serve_all() == ["b"]


async def test_the_line_is_bounded_by_bytes_too(make: Make) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), Line(queue)
    await line.join("a", size=6_000)
    with pytest.raises(Rejected):
        await (await line.join("b", size=6_000))
    await line.join("c", size=3_000)
    del line.tasks["b"]
    held.release()
    assert await line.serve_all() == ["a", "c"]


async def test_whoever_leaves_is_skipped(make: Make) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), Line(queue)
    for name in ("a", "b", "c"):
        await line.join(name)
    line.tasks.pop("b").cancel()
    await asyncio.sleep(SOON)
    held.release()
    assert await line.serve_all() == ["a", "c"]


async def test_a_wait_ends_at_its_deadline_and_gives_up_its_place(make: Make) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), Line(queue)
    late = await line.join("a", left_s=0.3)
    await line.join("b")
    with pytest.raises(DeadlineExceeded):
        await late
    del line.tasks["a"]
    held.release()
    assert await line.serve_all() == ["b"]


async def test_a_wait_ends_after_the_longest_that_is_allowed(make: Make) -> None:
    queue = await make(limit=1, ttl_s=0.3)
    held, line = await take(queue), Line(queue)
    with pytest.raises(Evicted) as evicted:
        await (await line.join("a"))
    assert evicted.value.code == "queue_ttl"
    held.release()


async def test_positions_and_waits_are_told(make: Make) -> None:
    queue = await make(limit=1)
    for _ in range(2):  # the drain rate is measured
        permit = await take(queue)
        await asyncio.sleep(0.2)
        permit.release()
        await asyncio.sleep(SOON)
    held, line = await take(queue), Line(queue)
    for name in ("a", "b", "c"):
        await line.join(name)
    assert [line.told[name][0][0] for name in ("a", "b", "c")] == [1, 2, 3]
    waits = [line.told[name][0][1] for name in ("a", "b", "c")]
    assert waits[0] == pytest.approx(0.2, abs=0.1)
    assert waits == pytest.approx([waits[0], 2 * waits[0], 3 * waits[0]], rel=0.1)
    held.release()
    await line.serve_all()


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(make: Make) -> None:
    queue = await make(limit=1)
    permit = await take(queue)
    await asyncio.sleep(0.5)
    permit.release()
    await asyncio.sleep(SOON)
    held, line = await take(queue), Line(queue)
    with pytest.raises(Rejected) as refused:
        await (await line.join("a", left_s=0.6, has_own_deadline=True))
    assert refused.value.code == "deadline_infeasible"
    assert refused.value.retry_after_s == pytest.approx(0.5, abs=0.2)
    assert "0." in refused.value.message
    await line.join("b", left_s=30, has_own_deadline=True)
    del line.tasks["a"]
    held.release()
    assert await line.serve_all() == ["b"]


async def test_a_refused_one_comes_back_with_its_ticket_and_keeps_its_place(make: Make) -> None:
    queue = await make(limit=1, max_waiting=2)
    held, line = await take(queue), Line(queue)
    for number in range(2):
        await line.join(f"a-{number}", cost=100)
    with pytest.raises(Rejected) as refused:
        await (await line.join("a-2", cost=100))
    ticket = refused.value.ticket
    assert ticket
    held.release()
    (await line.tasks.pop("a-0")).release()
    holding = await line.tasks.pop("a-1")  # the line is empty again
    del line.tasks["a-2"]
    await asyncio.sleep(SOON)  # a refusal holds for a moment
    await line.join("a-3", cost=100)
    await line.join("a-4", cost=100)
    await line.join("a-2", cost=100, ticket=ticket)  # it would find the line full
    with pytest.raises(Evicted):
        await line.tasks.pop("a-4")
    holding.release()
    line.order.clear()
    assert await line.serve_all() == ["a-2", "a-3"]


@pytest.mark.parametrize("ticket", ["", "x", "!!!", "A" * 399, "A" * 5000])
async def test_what_is_no_ticket_changes_nothing(make: Make, ticket: str) -> None:
    queue = await make(limit=1, max_waiting=1)
    held, line = await take(queue), Line(queue)
    await line.join("a")
    with pytest.raises(Rejected):
        await (await line.join("b", ticket=ticket))
    held.release()


async def test_a_ticket_is_good_for_one_place(make: Make) -> None:
    queue = await make(limit=1, max_waiting=1)
    held, line = await take(queue), Line(queue)
    await line.join("a-0", cost=100)
    with pytest.raises(Rejected) as refused:
        await (await line.join("b-0", cost=100))
    held.release()
    holding = await line.tasks["a-0"]
    await line.join("b-1", cost=100, ticket=refused.value.ticket)
    with pytest.raises(AdmissionError):
        await (await line.join("b-2", cost=100, ticket=refused.value.ticket))
    assert not line.tasks["b-1"].done()
    holding.release()


async def test_a_line_of_no_length_serves_what_has_a_slot(make: Make) -> None:
    queue = await make(limit=1, max_waiting=0)
    held = await take(queue)
    with pytest.raises(Rejected):
        await take(queue, tenant="other")
    held.release()
    await asyncio.sleep(SOON)
    (await take(queue, tenant="third")).release()


async def test_more_slots_let_more_in(make: Make) -> None:
    queue = await make(limit=1)
    held, line = await take(queue), Line(queue)
    waiting = await line.join("a")
    queue.resize(2)
    permit = await asyncio.wait_for(waiting, 5)
    assert queue.inflight == 2
    permit.release()
    held.release()
