"""The pipeline over scripted engines: one outcome each, whatever happens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.admission.slots import SlotQueue
from gateway.chat import ChatPipeline, ChatRequest
from gateway.errors import (
    ClientGone,
    DeadlineExceeded,
    InternalError,
    NotFound,
    Rejected,
    TidegateError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.metrics import Metrics
from gateway.tiering.tiers import Tier, TierBook, builtin_tiers
from gateway.types import Citation, Inquiry, Passage, Receipt, Sampling, Tenant, Turn
from tests.fakes.engines import ScriptedAnswerer, ScriptedRetriever


@dataclass
class Bench:
    retriever: ScriptedRetriever = field(default_factory=ScriptedRetriever)
    answerer: ScriptedAnswerer = field(default_factory=ScriptedAnswerer)
    records: list[Receipt] = field(default_factory=list)
    text: str = ""
    stages: list[str] = field(default_factory=list)
    leave_at_delta: int | None = None
    num_deltas: int = 0
    tiers: list[Tier] = field(default_factory=lambda: builtin_tiers(2, 2))

    def __post_init__(self) -> None:
        self.queue = SlotQueue(2, max_waiting=0, ttl_s=1, clock=time.monotonic)
        self.metrics = Metrics()
        self.pipeline = ChatPipeline(
            retriever=self.retriever,
            answerers={tier.name: self.answerer for tier in self.tiers},
            tiers=TierBook(self.tiers),
            queues={tier.name: self.queue for tier in self.tiers},
            record=self,
            metrics=self.metrics,
        )

    def record(self, tenant: Tenant, receipt: Receipt) -> None:
        self.records.append(receipt)

    def chosen(self, tier: str) -> None:
        self.stages.append(tier)

    async def stage(self, name: str) -> None:
        self.stages.append(name)

    def waiting(self, position: int, eta_s: float) -> None:
        self.stages.append(f"waiting {position}")

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        if self.num_deltas == self.leave_at_delta:
            raise ClientGone("left")
        self.num_deltas += 1
        self.text += text

    async def run(self, **changes: Any) -> Receipt:
        now = time.monotonic()
        request = ChatRequest(
            **{
                "id": "chatcmpl-1",
                "tenant": Tenant("t"),
                "model": "fast",
                "question": "what?",
                "received": now,
                "deadline": now + 5,
                "created": 1,
            }
            | changes
        )
        return await self.pipeline.run(request, self)


async def test_a_good_request_completes_with_every_stage_timed() -> None:
    bench = Bench()
    receipt = await bench.run()
    assert receipt.outcome == "completed"
    assert receipt.stage == "done"
    assert bench.records == [receipt]
    assert "[1]" in bench.text
    assert bench.queue.inflight == 0
    assert min(receipt.embed_ms, receipt.search_ms, receipt.queue_ms, receipt.ttft_ms, receipt.total_ms) >= 0


@pytest.mark.parametrize(
    ("setup", "changes", "error", "outcome", "cause"),
    [
        ({}, {"model": "nope"}, NotFound, "rejected", "model_not_found"),
        ({"full": True}, {}, Rejected, "rejected", "capacity"),
        (
            {"retriever": UpstreamUnavailable("away")},
            {},
            UpstreamUnavailable,
            "failed",
            "upstream_unavailable",
        ),
        (
            {"answerer": UpstreamUnavailable("away")},
            {},
            UpstreamUnavailable,
            "failed",
            "upstream_unavailable",
        ),
        ({"retriever": UpstreamTimeout("slow")}, {}, UpstreamTimeout, "failed", "upstream_timeout"),
        ({"retriever": ValueError("bug")}, {}, InternalError, "failed", "internal_error"),
        ({"late": True}, {}, DeadlineExceeded, "rejected", "deadline_exceeded"),
        ({"leave": 1}, {}, ClientGone, "evicted", "client_gone"),
    ],
    ids=["model", "full", "retriever", "answerer", "timeout", "bug", "deadline", "leaves"],
)
async def test_every_way_to_fail_has_one_outcome_and_gives_the_slot_back(
    setup: dict[str, Any], changes: dict[str, Any], error: type[TidegateError], outcome: str, cause: str
) -> None:
    bench = Bench(leave_at_delta=setup.get("leave"))
    bench.retriever.fail_with = setup.get("retriever")
    bench.answerer.fail_with = setup.get("answerer")
    held = []
    if setup.get("full"):
        held = [await bench.queue.acquire(band="batch", deadline=float("inf")) for _ in range(2)]
    if setup.get("late"):
        changes = {"deadline": time.monotonic() - 1, "has_own_deadline": True}
    with pytest.raises(error):
        await bench.run(**changes)
    for permit in held:
        permit.release()
    assert [(record.outcome, record.cause) for record in bench.records] == [(outcome, cause)]
    assert bench.queue.inflight == 0
    counted = bench.metrics.registry.get_sample_value(
        "tidegate_requests_total",
        {"outcome": outcome, "cause": cause, "tier": bench.records[0].tier or "none"},
    )
    assert counted == 1


async def test_the_tier_is_asked_with_the_conversation_and_the_sampling() -> None:
    bench = Bench()
    history, sampling = [Turn("user", "Hi"), Turn("assistant", "Hello")], Sampling(temperature=0.5, seed=7)
    await bench.run(history=history, sampling=sampling)
    (asked,) = bench.answerer.inquiries
    assert asked == Inquiry(question="what?", history=history, sampling=sampling, pin=asked.pin)


TALK = [Turn("user", "What is a tide gate?"), Turn("assistant", "A tide gate lets water through. [1]")]


async def test_a_follow_up_is_searched_for_and_quoted_as_what_it_means() -> None:
    bench = Bench()
    receipt = await bench.run(model="auto", question="Why?", history=TALK)
    asked = "Why: A tide gate lets water through?"
    assert bench.retriever.texts == [asked]
    assert bench.answerer.inquiries[0].question == asked
    assert (receipt.question, receipt.question_reason) == (asked, "follow-up: asked of the answer before")
    assert receipt.tier == "deep"  # for what it means, not for its one word


async def test_who_writes_is_asked_in_the_callers_own_words_and_has_the_conversation() -> None:
    bench = Bench(tiers=[*builtin_tiers(2, 2), Tier("small", "Writes.", 5, 2, context_tokens=4096)])
    receipt = await bench.run(model="small", question="How does it work?", history=TALK)
    assert bench.retriever.texts == ["How does a tide gate work?"]
    (asked,) = bench.answerer.inquiries
    meant = "How does a tide gate work?"
    assert asked == Inquiry(question="How does it work?", meant=meant, history=TALK, pin=asked.pin)
    assert receipt.question == "How does a tide gate work?"


async def test_a_question_that_stands_alone_is_told_nowhere_twice() -> None:
    bench = Bench()
    receipt = await bench.run(question="Who is the mayor of Denver?", history=TALK)
    assert bench.retriever.texts == ["Who is the mayor of Denver?"]
    assert (receipt.question, receipt.question_reason, receipt.conversation) == ("", "", "")


async def test_marks_that_were_taken_out_are_counted_for_their_tier() -> None:
    bench = Bench()
    bench.answerer.num_unsupported = 3
    receipt = await bench.run(conversation="conv_1")
    assert receipt.unsupported_citations == 3
    assert receipt.conversation == "conv_1"
    counted = bench.metrics.registry.get_sample_value(
        "tidegate_unsupported_citations_total", {"tier": "fast"}
    )
    assert counted == 3


async def test_the_receipt_says_which_passages_the_tier_had_room_for() -> None:
    bench = Bench()
    bench.answerer.num_passages = 1
    receipt = await bench.run()
    assert [passage["in_prompt"] for passage in receipt.passages] == [True, False]


@pytest.mark.parametrize("after", range(12), ids=str)
async def test_a_cancel_at_any_await_leaves_one_record_and_no_slot(after: int) -> None:
    bench = Bench()
    bench.answerer.texts = ["a", "b", "c"]
    task = asyncio.create_task(bench.run())
    for _ in range(after):
        await asyncio.sleep(0)
    task.cancel()
    try:
        receipt = await task
        assert receipt.outcome == "completed"
    except asyncio.CancelledError:
        if after:
            assert [record.cause for record in bench.records] == ["client_gone"]
    assert len(bench.records) == (1 if after else 0)
    assert bench.queue.inflight == 0
    assert bench.answerer.started == bench.answerer.finished + bench.answerer.cancelled
