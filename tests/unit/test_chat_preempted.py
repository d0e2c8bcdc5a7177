"""A stream whose slot is given away in mid-answer: it goes on, its client gets each word once, and it pays once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.admission.slots import SlotQueue
from gateway.chat import ChatPipeline, ChatRequest
from gateway.errors import DeadlineExceeded
from gateway.metrics import Metrics
from gateway.pipeline.handover import Trail
from gateway.tiering.tiers import Tier, TierBook
from gateway.types import Delta, Inquiry, Passage, Receipt, Sampling, Tenant, Usage
from tests.fakes.engines import ScriptedRetriever
from tests.fakes.pipelines import ListeningSink

WORDS = [f"w{number} " for number in range(40)]
TIERS = [
    Tier("small", "Writes.", 5, 4, context_tokens=4096, keeps_schemas=True),
    Tier("other", "Writes.", 5, 4, context_tokens=4096),
]


class Clock:
    """Of the queue: real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.more_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.more_s


@dataclass
class PacedWriter:
    """A token every few milliseconds; goes on after the tokens that it is given."""

    gap_s: float = 0.005
    asked: list[Inquiry] = field(default_factory=list)
    num_running: int = 0
    most_running: int = 0

    async def answer(
        self, inquiry: Inquiry, passages: Sequence[Passage], *, timeout_s: float
    ) -> AsyncIterator[Delta]:
        self.asked.append(inquiry)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            begun = len(inquiry.ids)
            yield Delta(num_passages=len(passages), num_input_tokens=9)
            if begun:
                said = "".join(WORDS[:begun])
                yield Delta(text=said, said=said, ids=inquiry.ids, num_output_tokens=begun)
            for number in range(begun, len(WORDS)):
                await asyncio.sleep(self.gap_s)
                word = WORDS[number]
                yield Delta(text=word, said=word, ids=bytes([number]), num_output_tokens=number + 1)
            yield Delta(finish_reason="stop", num_input_tokens=9, num_output_tokens=len(WORDS))
        finally:
            self.num_running -= 1


class Bench:
    """One tier of four slots, all of which one tenant holds."""

    def __init__(self, preemptible: set[str] | None = None) -> None:
        self.clock, self.writer, self.records = Clock(), PacedWriter(), []
        self.queue = SlotQueue(4, max_waiting=20, ttl_s=30, clock=self.clock)
        self.metrics = Metrics()
        self.pipeline = ChatPipeline(
            retriever=ScriptedRetriever(),
            answerers={tier.name: self.writer for tier in TIERS},
            tiers=TierBook(TIERS),
            queues={tier.name: self.queue for tier in TIERS},
            record=self,
            metrics=self.metrics,
            preemptible={"small"} if preemptible is None else preemptible,
        )

    def record(self, tenant: Tenant, receipt: Receipt) -> None:
        self.records.append(receipt)

    def ask(self, tenant: str, **changes: Any) -> tuple[ListeningSink, asyncio.Task[Receipt]]:
        now, client = time.monotonic(), ListeningSink()
        fields = {"id": "c", "tenant": Tenant(tenant), "model": "small", "question": "what?", "created": 1}
        request = ChatRequest(**{**fields, "received": now, "deadline": now + 5, **changes})
        return client, asyncio.create_task(self.pipeline.run(request, client))

    async def crowded(
        self, last: dict[str, Any] | None = None, **changes: Any
    ) -> list[tuple[ListeningSink, asyncio.Task[Receipt]]]:
        """last: changes of the fourth, who is the first to give way."""
        flood = []
        for number in range(4):
            flood.append(self.ask("flood", **changes, **(last or {} if number == 3 else {})))
            await self.until(lambda: self.writer.num_running == len(flood))
        await self.until(lambda: all(client.texts for client, _ in flood))
        self.clock.more_s += 1.0
        return flood

    async def until(self, what: Any) -> None:
        async with asyncio.timeout(5):
            while not what():  # noqa: ASYNC110  any condition
                await asyncio.sleep(0.001)

    def gauges(self) -> tuple[float | None, ...]:
        """Requests that hold a slot, and those that wait for one."""
        names = ("tidegate_inflight", "tidegate_waiting")
        return tuple(self.metrics.registry.get_sample_value(name, {"tier": "small"}) for name in names)

    def metric(self) -> float:
        labels = {"tier": "small", "priority": "interactive"}
        return self.metrics.registry.get_sample_value("tidegate_preempted_total", labels) or 0.0


async def test_a_stream_gives_its_slot_and_goes_on_with_each_word_once() -> None:
    bench, trail = Bench(), Trail()
    flood = await bench.crowded(last={"trail": trail})
    light, task = bench.ask("light")
    await bench.until(lambda: light.texts)
    assert not any(each.done() for _, each in flood), "it did not wait for an end"
    await task
    receipts = [await each for _, each in flood]
    assert [client.texts for client, _ in flood] == [WORDS] * 4, "each in its own piece"
    assert light.texts == WORDS
    assert [each.preempted for each in receipts] == [0, 0, 0, 1]
    for each in receipts:
        assert (each.usage, each.outcome, each.stage) == (Usage(9, len(WORDS)), "completed", "done")
    assert bytes(trail._ids) == bytes(range(len(WORDS))), "what another worker would go on from"
    assert flood[3][0].places, "it was told its place"
    assert (bench.metric(), bench.writer.most_running, bench.queue.inflight) == (1.0, 4, 0)
    assert len(bench.records) == 5


@pytest.mark.parametrize(
    ("changes", "tiers"),
    [
        ({"sampling": Sampling(json_schema="{}")}, {"small"}),
        ({"sampling": Sampling(temperature=0.7, seed=3)}, {"small"}),
        ({}, set()),
    ],
    ids=["a schema", "a seed", "a tier that cannot go on"],
)
async def test_who_cannot_go_on_is_left_alone(changes: dict[str, Any], tiers: set[str]) -> None:
    bench = Bench(tiers)
    flood = await bench.crowded(**changes)
    _, task = bench.ask("light")
    await task
    assert [(await each).preempted for _, each in flood] == [0, 0, 0, 0]
    assert bench.queue.inflight == 0


@pytest.mark.parametrize("after", range(0, 60, 4), ids=str)
async def test_a_client_that_leaves_at_any_moment_leaves_no_slot(after: int) -> None:
    bench = Bench()
    flood = await bench.crowded()
    _, task = bench.ask("light")
    for _ in range(after):
        await asyncio.sleep(0)
    flood[3][1].cancel()
    await asyncio.gather(task, *(each for _, each in flood), return_exceptions=True)
    assert (bench.queue.inflight, bench.queue.num_waiting, bench.writer.num_running) == (0, 0, 0)
    assert len(bench.records) == 5


async def test_the_deadline_counts_while_it_waits_again() -> None:
    bench = Bench()
    bench.writer.gap_s = 0.03
    flood = await bench.crowded(last={"deadline": time.monotonic() + 0.6})
    bench.clock.more_s = 0.3
    _, task = bench.ask("light")
    with pytest.raises(DeadlineExceeded):
        await flood[3][1]
    receipt = bench.records[0]
    assert (receipt.outcome, receipt.cause, receipt.preempted) == ("evicted", "deadline_exceeded", 1)
    assert 0 < receipt.usage.completion_tokens < len(WORDS), "what it got is billed"
    await asyncio.gather(task, *(each for _, each in flood[:3]))
    assert (bench.queue.inflight, bench.queue.num_waiting) == (0, 0)


async def test_who_waits_again_is_not_counted_as_holding_a_slot() -> None:
    bench = Bench()
    flood = await bench.crowded()
    assert bench.gauges() == (4, 0)
    light, task = bench.ask("light")
    await bench.until(lambda: light.texts)
    assert bench.gauges() == (4, 1)
    await asyncio.gather(task, *(each for _, each in flood), return_exceptions=True)
    assert bench.gauges() == (0, 0)


async def test_batch_gives_way_to_people_and_waits_for_its_turn() -> None:
    bench = Bench()
    jobs = await bench.crowded(priority="batch")
    people = [bench.ask("people") for _ in range(2)]
    await bench.until(lambda: all(client.texts for client, _ in people))
    assert not any(task.done() for _, task in jobs), "they did not wait for an end"
    for _, task in people:
        await task
    done = [await task for _, task in jobs]
    assert sum(each.preempted for each in done) == 2
    assert [client.texts for client, _ in jobs] == [WORDS] * 4
    assert bench.writer.most_running == 4
