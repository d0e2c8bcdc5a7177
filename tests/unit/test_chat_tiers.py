"""Tier, escalation and ladder through the pipeline: what a request gives up, and that the receipt tells it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.admission.slots import SlotQueue
from gateway.chat import ChatPipeline
from gateway.errors import NotFound, Rejected, UpstreamUnavailable
from gateway.pipeline.pressure import PressureWatch
from gateway.ports import Retrieved
from gateway.tiering.ladder import Orders, Step
from gateway.tiering.ladders import Ladders, Line
from gateway.tiering.pressure import Reading
from gateway.tiering.tiers import Tier, TierBook, builtin_tiers
from gateway.types import Sampling, Scope, Tenant
from tests.fakes.engines import ScriptedRetriever, passage
from tests.fakes.pipelines import TiersBench
from tests.unit.test_chat import Bench

WRITES = Tier("small", "Writes.", 8, 2, context_tokens=4096)
COMPARE = "Compare Envoy and Redis"
THIN = [passage(1, "The mill ground flour for the valley.", score=0.1)]


class FailsAtSecond(ScriptedRetriever):
    error: Exception = UpstreamUnavailable("away")

    async def retrieve(self, text: str, scope: Scope, *, timeout_s: float, **known: Any) -> Retrieved:
        found = await super().retrieve(text, scope, timeout_s=timeout_s, **known)
        if self.started > 1:
            raise self.error
        return found


def pinned(*steps: Step, forbidden: tuple[Step, ...] = ()) -> Bench:
    bench = Bench(tiers=[*builtin_tiers(2, 2), WRITES])
    bench.retriever.passages = [passage(number, f"Fact {number} is here.") for number in range(1, 15)]
    bench.pipeline.ladders.orders = Orders(list(steps), list(forbidden)).checked()
    return bench


def counted(bench: Bench, name: str, **labels: str) -> float:
    return bench.metrics.registry.get_sample_value(f"tidegate_{name}_total", labels) or 0.0


async def test_without_pressure_nothing_is_given_up() -> None:
    bench = pinned()
    receipt = await bench.run(model="auto", question=COMPARE)
    assert (receipt.tier, receipt.degraded) == ("deep", [])
    assert bench.retriever.scopes[0].k == 12
    assert bench.retriever.scopes[0].rerank
    assert counted(bench, "tier_choices", tier="deep", reason="complex") == 1


async def test_fewer_passages_are_half_of_them_and_no_second_hop() -> None:
    bench = pinned(Step.FEWER_PASSAGES)
    receipt = await bench.run(model="deep", question=COMPARE)
    assert [scope.k for scope in bench.retriever.scopes] == [6]
    assert (receipt.degraded, receipt.hops) == (["fewer_passages"], 1)
    assert counted(bench, "degraded", step="fewer_passages", tier="deep") == 1


async def test_a_step_that_changes_nothing_is_not_told() -> None:
    bench = pinned(Step.FEWER_PASSAGES, Step.EXTRACTIVE_ONLY, Step.SMALLER_TIER)
    receipt = await bench.run(model="fast", top_k=2)
    assert bench.retriever.scopes[0].k == 2
    assert receipt.degraded == []


async def test_without_reranking_the_search_is_told_so() -> None:
    bench = pinned(Step.NO_RERANK)
    receipt = await bench.run()
    assert not bench.retriever.scopes[0].rerank
    assert receipt.degraded == ["no_rerank"]


async def test_auto_goes_to_the_smallest_tier_and_a_name_is_obeyed() -> None:
    bench = pinned(Step.SMALLER_TIER)
    receipt = await bench.run(model="auto", question=COMPARE)
    assert (receipt.tier, receipt.degraded) == ("fast", ["smaller_tier"])
    assert receipt.tier_reason.endswith("; deep is under load (smaller_tier)")
    assert counted(bench, "tier_choices", tier="fast", reason="ladder") == 1
    by_name = await bench.run(model="deep", question=COMPARE)
    assert (by_name.tier, by_name.degraded, by_name.tier_reason) == ("deep", [], "asked for by name")


async def test_the_receipt_tells_steps_in_the_ladders_order() -> None:
    bench = pinned(Step.SMALLER_TIER, Step.FEWER_PASSAGES, Step.NO_RERANK, Step.SHORTER_ANSWERS)
    receipt = await bench.run(model="auto", question=COMPARE)
    assert receipt.degraded == ["fewer_passages", "no_rerank", "smaller_tier", "shorter_answers"]


@pytest.mark.parametrize(
    ("asked", "given", "degraded"),
    [(None, 128, ["shorter_answers"]), (500, 128, ["shorter_answers"]), (50, 50, [])],
    ids=["default", "long", "short-anyway"],
)
async def test_what_writes_gets_fewer_tokens(asked: int | None, given: int, degraded: list[str]) -> None:
    bench = pinned(Step.SHORTER_ANSWERS)
    receipt = await bench.run(model="small", sampling=Sampling(max_tokens=asked))
    assert bench.answerer.inquiries[0].sampling.max_tokens == given
    assert receipt.degraded == degraded


async def test_what_quotes_is_told_to_be_short() -> None:
    bench = pinned(Step.SHORTER_ANSWERS)
    receipt = await bench.run(model="fast", sampling=Sampling(max_tokens=500))
    inquiry = bench.answerer.inquiries[0]
    assert (inquiry.is_short, inquiry.sampling.max_tokens) == (True, 500)
    assert receipt.degraded == ["shorter_answers"]


async def test_what_writes_is_quoted_instead_even_where_it_was_asked_for_by_name() -> None:
    bench = pinned(Step.EXTRACTIVE_ONLY)
    receipt = await bench.run(model="small")
    assert (receipt.tier, receipt.degraded) == ("fast", ["extractive_only"])


async def test_a_tenant_that_has_no_tier_that_quotes_keeps_its_own() -> None:
    bench = pinned(Step.EXTRACTIVE_ONLY)
    receipt = await bench.run(model="small", tenant=Tenant("t", tiers=("small",)))
    assert (receipt.tier, receipt.degraded) == ("small", [])


async def test_the_last_step_refuses_with_the_wait_and_a_record() -> None:
    bench = pinned(Step.REFUSE)
    with pytest.raises(Rejected, match="takes no batch requests") as refused:
        await bench.run(priority="batch")
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    assert (refused.value.delay_s() or 0) >= 1
    (record,) = bench.records
    assert (record.outcome, record.cause, record.degraded) == ("rejected", "overloaded", ["refuse"])
    assert bench.retriever.started == 0
    assert counted(bench, "degraded", step="refuse", tier="fast") == 1


@pytest.mark.parametrize(
    ("floor", "degraded"),
    [("", ["fewer_passages", "no_rerank"]), ("fewer_passages", ["fewer_passages"]), ("none", [])],
    ids=["no-floor", "floor", "spared"],
)
async def test_a_tenants_floor_holds(floor: str, degraded: list[str]) -> None:
    bench = pinned(Step.FEWER_PASSAGES, Step.NO_RERANK)
    receipt = await bench.run(tenant=Tenant("t", floor=floor))
    assert receipt.degraded == degraded


async def test_thin_evidence_of_fast_goes_on_to_deep_before_anything_is_sent() -> None:
    bench = pinned()
    bench.retriever.passages = THIN
    receipt = await bench.run(model="auto", question="Who conquered Peru?")
    assert receipt.tier == "deep"
    assert receipt.tier_reason.endswith("; fast found too little, so deep looks again")
    assert [scope.k for scope in bench.retriever.scopes][:2] == [5, 12]
    assert receipt.hops >= 2
    assert bench.stages == ["fast", "retrieving", "deep", "generating"]  # what the sink was told
    assert counted(bench, "tier_choices", tier="deep", reason="thin_evidence") == 1


@pytest.mark.parametrize("error", [UpstreamUnavailable("away"), Rejected("full")], ids=repr)
async def test_a_second_look_that_fails_leaves_the_first_one_to_answer(error: Exception) -> None:
    retriever = FailsAtSecond(passages=THIN)
    retriever.error = error
    bench = Bench(retriever=retriever)
    receipt = await bench.run(model="auto", question="Who conquered Peru?")
    assert (receipt.outcome, receipt.tier, bench.retriever.started) == ("completed", "fast", 2)
    assert "looks again" not in receipt.tier_reason


class FillsAtSecond(ScriptedRetriever):
    """While it looks for the second time, somebody else takes the slots of the tier that is to answer."""

    queue: SlotQueue

    async def retrieve(self, text: str, scope: Scope, *, timeout_s: float, **known: Any) -> Retrieved:
        found = await super().retrieve(text, scope, timeout_s=timeout_s, **known)
        while self.started > 1 and not self.queue.is_crowded:
            await self.queue.acquire(band="interactive", deadline=time.monotonic() + 9)
        return found


@pytest.mark.parametrize(
    ("max_waiting", "deadline_s", "why"),
    [(0, 9.0, "deep has no room (overloaded)"), (9, 1.5, "deep has no room (overloaded)")],
    ids=["full", "not-in-time"],
)
async def test_a_better_tier_that_has_no_room_leaves_the_first_one_to_answer(
    max_waiting: int, deadline_s: float, why: str
) -> None:
    bench = TiersBench(builtin_tiers(2, 2))
    retriever = FillsAtSecond(passages=THIN)
    retriever.queue = SlotQueue(1, max_waiting=max_waiting, ttl_s=9, clock=lambda: now[0])
    now = [0.0]
    permit = await retriever.queue.acquire(band="batch", deadline=9.0)
    now[0] = 3.0
    permit.release()  # whoever waits does so for 3 s
    bench.queues["deep"] = retriever.queue
    bench.pipeline = ChatPipeline(
        retriever=retriever,
        answerers=bench.answerers,
        tiers=TierBook(builtin_tiers(2, 2)),
        queues=bench.queues,
        record=bench,
        metrics=bench.metrics,
        clock=lambda: now[0],
    )
    receipt = await bench.run(
        "auto", question="Who conquered Peru?", received=now[0], deadline=now[0] + deadline_s
    )
    assert (bench.sink.text, receipt.tier, receipt.outcome) == ("by fast", "fast", "completed")
    assert receipt.tier_reason.endswith(f"so deep looks again; {why}, so fast answers")
    assert (bench.queues["fast"].inflight, len(bench.records)) == (0, 1)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"model": "fast"}, ()),
        ({"tenant": Tenant("t", tiers=("fast",))}, ()),
        ({}, (Step.NO_RERANK,)),
    ],
    ids=["by-name", "not-allowed", "under-load"],
)
async def test_thin_evidence_stays_where_it_is(changes: dict[str, Any], steps: tuple[Step, ...]) -> None:
    bench = pinned(*steps)
    bench.retriever.passages = THIN
    receipt = await bench.run(**{"model": "auto", "question": "Who conquered Peru?"} | changes)
    assert receipt.tier == "fast"


async def test_a_tier_that_the_tenant_may_not_use_is_not_there() -> None:
    bench = pinned()
    with pytest.raises(NotFound, match="choose from: auto, fast"):
        await bench.run(model="deep", tenant=Tenant("t", tiers=("fast",)))
    receipt = await bench.run(model="auto", question=COMPARE, tenant=Tenant("t", tiers=("fast",)))
    assert receipt.tier == "fast"


async def test_pressure_of_a_full_line_takes_the_band_behind_it_down_and_calm_brings_it_back() -> None:
    now = [0.0]
    queue = SlotQueue(1, max_waiting=99, ttl_s=99, clock=lambda: now[0])
    bench, ladders = Bench(), Ladders(["fast"])
    watch = PressureWatch(
        ladders=ladders, queues={"fast": queue}, metrics=bench.metrics, clock=lambda: now[0]
    )
    permit = await queue.acquire(band="batch", deadline=999.0)
    now[0] = 8.0
    permit.release()  # a slot is held for 8 s
    permit = await queue.acquire(band="batch", deadline=999.0)
    for _ in range(40):
        now[0] += 0.25
        watch.look()
    assert ladders.steps("fast", "interactive")[-1] is Step.SHORTER_ANSWERS  # 8 s of 5 s: 1.6 units
    level = {"tier": "fast", "band": "interactive"}
    assert bench.metrics.registry.get_sample_value("tidegate_ladder_level", level) == 4
    assert bench.metrics.registry.get_sample_value("tidegate_pressure", level) == pytest.approx(1.6)
    permit.release()
    for _ in range(100):
        now[0] += 0.25
        watch.look()
    assert ladders.steps("fast", "interactive") == []


async def test_lag_and_the_line_before_retrieval_press_on_every_tier() -> None:
    bench, ladders = Bench(), Ladders(["fast", "deep"])
    shared = SlotQueue(1, max_waiting=9, ttl_s=9, clock=lambda: 0.0)
    now = [0.0]
    lag_s = [0.0]
    watch = PressureWatch(
        ladders=ladders,
        queues={"fast": bench.queue, "deep": bench.queue},
        metrics=bench.metrics,
        clock=lambda: now[0],
        shared=shared,
        lag_s=lambda: lag_s[0],
    )
    watch.look()
    assert {ladder.pressure for ladder in ladders.lines().values()} == {0.0}
    lag_s[0] = 2.0
    watch.look()
    assert {ladder.pressure for ladder in ladders.lines().values()} == {1.0}
    lag_s[0] = 0.0
    permit = await shared.acquire(band="interactive", deadline=9.0)
    watch.look()
    assert {ladder.pressure for ladder in ladders.lines().values()} == {
        0.2
    }  # 1 s, as nothing was measured yet
    permit.release()


async def test_nobody_is_sent_to_a_smaller_tier_that_takes_nobody() -> None:
    bench = pinned()
    for tick in range(40):
        bench.pipeline.ladders.observe(
            {
                Line("deep", "interactive"): Reading(eta_s=5.0),
                Line("fast", "interactive"): Reading(eta_s=50.0),
            },
            tick / 4,
        )
    receipt = await bench.run(model="auto", question=COMPARE)
    assert (receipt.tier, receipt.degraded) == ("deep", ["fewer_passages", "no_rerank"])


async def in_line(queue: SlotQueue) -> int:
    """How many wait, once all that can run without a slot has run."""
    for _ in range(50):
        await asyncio.sleep(0)
    return queue.num_waiting


async def test_a_flood_of_batch_is_taken_down_and_refused_while_interactive_is_served_in_full() -> None:
    now = [0.0]
    queue = SlotQueue(2, max_waiting=99, ttl_s=999, clock=lambda: now[0])
    bench = pinned()
    bench.pipeline.queues["fast"] = queue  # type: ignore[index]
    watch = PressureWatch(
        ladders=bench.pipeline.ladders,
        queues=bench.pipeline.queues,
        metrics=bench.metrics,
        clock=lambda: now[0],
    )

    def look(seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            now[0] += 0.25
            watch.look()

    permit = await queue.acquire(band="batch", deadline=float("inf"))
    now[0] += 2.0
    permit.release()  # slots are held for 2 s: a line of n behind 2 slots drains in n seconds
    held = [await queue.acquire(band="batch", deadline=float("inf")) for _ in range(2)]
    far = time.monotonic() + 1000
    flood = [asyncio.create_task(bench.run(priority="batch", deadline=far)) for _ in range(6)]
    assert await in_line(queue) == len(flood)
    look(3.0)  # a newcomer of batch would wait 7 s: 1.4 units
    late = asyncio.create_task(bench.run(priority="batch", deadline=far))
    more = [asyncio.create_task(bench.run(priority="batch", deadline=far)) for _ in range(13)]
    assert await in_line(queue) == len(flood) + 1 + len(more)
    look(3.0)  # 21 s: more than four units
    with pytest.raises(Rejected) as refused:
        await bench.run(priority="batch")
    assert (refused.value.code, refused.value.retry_after_s) == ("overloaded", 21.0)
    spared = asyncio.create_task(bench.run(priority="interactive", deadline=far))
    assert await in_line(queue) == len(flood) + len(more) + 2
    for each in held:
        each.release()
    receipts = await asyncio.gather(*flood, *more, late, spared)
    assert receipts[-1].degraded == []
    assert receipts[0].degraded == []  # taken before the pressure rose
    assert receipts[-2].degraded == ["fewer_passages", "no_rerank", "shorter_answers"]
    look(60.0)
    assert (await bench.run(priority="batch")).degraded == []


async def test_a_burst_finds_nothing_for_those_who_get_no_slot() -> None:
    """Two slots and no line: at most as many again retrieve beside those who hold a slot, whoever comes at once."""
    bench = Bench(tiers=[*builtin_tiers(2, 2), WRITES])
    bench.retriever.delay_s = 0.1
    ended = await asyncio.gather(*(bench.run(model="small") for _ in range(9)), return_exceptions=True)
    assert bench.retriever.started == 4
    assert sum(isinstance(each, Rejected) for each in ended) == 7
