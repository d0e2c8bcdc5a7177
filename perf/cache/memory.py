"""The service's own answer memory in process, over a real SQLite and, where asked for, a real Redis. No model runs:
evidence is given to it. For what is too fast or too often asked to be measured from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.api.answers import Transcript
from gateway.caching.answers import Answers
from gateway.caching.corpus_watch import CorpusWatch
from gateway.caching.entry import Entry, Piece
from gateway.caching.key import Key
from gateway.caching.shared import SharedStore
from gateway.caching.threshold import Thresholds
from gateway.metrics import Metrics
from gateway.pipeline.remember import HITS, AnswerMemory, Edition
from gateway.pipeline.request import ChatRequest, Evidence, Sink
from gateway.pipeline.route import Route
from gateway.storage.database import Database
from gateway.tiering.tiers import builtin_tiers
from gateway.types import Citation, Outcome, Receipt, Tenant

BUDGET = 0.005
ROUTE = Route(builtin_tiers(2, 2)[0])
DAY_S = 86_400.0


class Ours:
    """One worker's memory."""

    def __init__(self, memory: AnswerMemory) -> None:
        self.memory = memory
        self._number = 0

    async def remember(self, tenant: str, question: str, evidence: Evidence, cites: list[Citation]) -> None:
        """As if the question had been answered with `said(question)`."""
        key, now = await self.key(tenant, question), time.time()
        vector = b"" if evidence.embedding is None else evidence.embedding.tobytes()
        entry = Entry(
            tenant_id=tenant, scope=key.scope, digest=key.digest, question=question,
            pieces=[Piece(said(question), cites)], passages=evidence.passages, tier=ROUTE.tier.name, edition="1",
            finish_reason="stop", prompt_tokens=10, completion_tokens=10, epoch=0, created=now,
            expires=now + DAY_S, vector=vector,
        )  # fmt: skip
        self.memory.answers.keep(key, entry)

    async def key(self, tenant: str, question: str) -> Key:
        recall = await self.memory.recall(self._request(tenant, question, "refresh"), ROUTE)
        assert recall is not None
        return recall.key

    async def ask(self, tenant: str, question: str, evidence: Evidence) -> tuple[str, str]:
        """The verdict and the answer; empty where a new one would be made. evidence: what retrieval finds for it."""
        request, receipt, sink = self._request(tenant, question), _receipt(), Transcript()
        recall = await self.memory.recall(request, ROUTE)
        if recall is None:
            return "off", ""

        async def work(into: Sink, made: Receipt) -> None:
            await self.memory.by_evidence(recall, ROUTE, evidence, into, made)

        await self.memory.answer(recall, sink, receipt, work)
        return (receipt.cache, sink.text) if receipt.cache in HITS else ("miss", "")

    def _request(self, tenant: str, question: str, cache: str = "use") -> ChatRequest:
        self._number += 1
        now = time.monotonic()
        return ChatRequest(
            id=f"chatcmpl-{self._number}", tenant=Tenant(tenant), model="fast", question=question, cache=cache,
            received=now, deadline=now + 30, created=1,
        )  # fmt: skip


def said(question: str) -> str:
    return "answer to: " + question


def _receipt() -> Receipt:
    return Receipt(id="chatcmpl-0", created=1, outcome=Outcome.FAILED, tier=ROUTE.tier.name)


@asynccontextmanager
async def ours(
    folder: Path, *, shared: SharedStore | None = None, max_bytes: int = 2**28
) -> AsyncIterator[Ours]:
    """Nothing is refreshed early or checked on the way: what is measured is what was asked."""
    database = Database(f"sqlite:///{folder / 'tidegate.db'}")
    database.migrate()
    watch = CorpusWatch(database)
    await watch.look()
    memory = AnswerMemory(
        Answers(max_bytes=max_bytes, shared=shared),
        watch,
        Thresholds(BUDGET),
        Metrics(),
        editions={ROUTE.tier.name: Edition("1")},
        chance=lambda: 1.0,
    )
    looking = asyncio.create_task(watch.run())
    try:
        yield Ours(memory)
    finally:
        looking.cancel()
        await memory.answers.settle()
        database.close()
