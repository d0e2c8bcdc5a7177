"""A pipeline over tiers of scripted engines, and a client that keeps what it is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.admission.slots import SlotQueue
from gateway.chat import ChatPipeline, ChatRequest
from gateway.metrics import Metrics
from gateway.tiering.tiers import Tier, TierBook
from gateway.types import Citation, Passage, Receipt, Tenant
from tests.fakes.engines import ScriptedAnswerer, ScriptedRetriever


@dataclass
class ListeningSink:
    """gap_s: how long it takes for each delta. chosen_tiers, stages, places: in the order in which it was told."""

    texts: list[str] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    chosen_tiers: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    gap_s: float = 0.0
    started: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def chosen(self, tier: str) -> None:
        self.chosen_tiers.append(tier)

    async def stage(self, name: str) -> None:
        self.stages.append(name)

    def waiting(self, position: int, eta_s: float) -> None:
        self.places.append(position)

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        if self.gap_s:
            await asyncio.sleep(self.gap_s)
        self.texts.append(text)
        self.citations += citations
        self.started.set()


class TiersBench:
    """Tiers with an answerer and a queue of one slot each. options: further parts of the pipeline."""

    def __init__(self, tiers: Sequence[Tier], **options: Any) -> None:
        self.retriever, self.sink = ScriptedRetriever(), ListeningSink()
        self.answerers = {tier.name: ScriptedAnswerer(texts=[f"by {tier.name}"]) for tier in tiers}
        self.queues = {
            tier.name: SlotQueue(1, max_waiting=0, ttl_s=1, clock=time.monotonic) for tier in tiers
        }
        self.metrics, self.records = Metrics(), list[Receipt]()
        self.pipeline = ChatPipeline(
            retriever=self.retriever,
            answerers=self.answerers,
            tiers=TierBook(tiers),
            queues=self.queues,
            record=self,
            metrics=self.metrics,
            **options,
        )

    def record(self, tenant: Tenant, receipt: Receipt) -> None:
        self.records.append(receipt)

    async def run(self, model: str, tenant: Tenant | None = None, **changes: Any) -> Receipt:
        """Into a sink of its own, which is `sink` from then on."""
        self.sink = ListeningSink()
        return await self.pipeline.run(request_of(model, tenant, **changes), self.sink)


def request_of(model: str, tenant: Tenant | None = None, **changes: Any) -> ChatRequest:
    """A plain question of now, with five seconds to go."""
    now = time.monotonic()
    fields = {"id": "chatcmpl-1", "question": "what?", "received": now, "deadline": now + 5, "created": 1}
    return ChatRequest(**{"tenant": tenant or Tenant("t"), "model": model} | fields | changes)
