"""A pipeline with an answer memory over scripted engines and a real SQLite database."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.admission.slots import SlotQueue
from gateway.caching.answers import Answers
from gateway.caching.corpus_watch import CorpusWatch
from gateway.caching.shared import SharedStore
from gateway.caching.threshold import Thresholds
from gateway.chat import ChatPipeline, ChatRequest
from gateway.metrics import Metrics
from gateway.pipeline.remember import AnswerMemory, Edition
from gateway.storage.database import Database
from gateway.storage.epochs import next_epoch
from gateway.storage.schema import removals
from gateway.tiering.tiers import Tier, TierBook, builtin_tiers
from gateway.tiering.versions import Met, one_version
from gateway.types import Receipt, Tenant
from tests.fakes.engines import ScriptedAnswerer, ScriptedRetriever
from tests.fakes.pipelines import ListeningSink

EDITIONS = {"fast": Edition("1"), "deep": Edition("1"), "writer": Edition("w", 0.0)}


class MemoryBench:
    """One worker's pipeline. `changed` is what ingest does: the corpus has another epoch. Nothing is left to luck:
    without a `chance` of the test's own no hit is checked and lives have no spread."""

    def __init__(
        self,
        folder: Path,
        *,
        shared: SharedStore | None = None,
        num_slots: int = 2,
        thresholds: Thresholds | None = None,
        version_met: Callable[[str, int], Met] = one_version,
        chance: Callable[[], float] = lambda: 0.5,
        **options: Any,
    ) -> None:
        self.database = Database(f"sqlite:///{folder / 'tidegate.db'}")
        self.database.migrate()
        self.retriever, self.answerer = ScriptedRetriever(epoch=0), ScriptedAnswerer()
        self.metrics, self.records = Metrics(), list[Receipt]()
        self.answers = Answers(max_bytes=2**22, shared=shared)
        self.watch = CorpusWatch(self.database)
        self.memory = AnswerMemory(
            self.answers,
            self.watch,
            thresholds or Thresholds(0.005),
            self.metrics,
            editions=EDITIONS,
            chance=chance,
            **options,
        )
        self.tiers = [
            *builtin_tiers(num_slots, num_slots),
            Tier("writer", "Writes.", 5, 2, context_tokens=4096),
        ]
        self.queue = SlotQueue(num_slots, max_waiting=1000, ttl_s=30, clock=time.monotonic)
        self.pipeline = ChatPipeline(
            retriever=self.retriever,
            answerers={tier.name: self.answerer for tier in self.tiers},
            tiers=TierBook(self.tiers),
            queues={tier.name: self.queue for tier in self.tiers},
            record=self,
            metrics=self.metrics,
            memory=self.memory,
            version_met=version_met,
        )
        self._number = 0

    def record(self, tenant: Tenant, receipt: Receipt) -> None:
        self.records.append(receipt)

    async def ask(self, question: str = "What is a tide gate?", **changes: Any) -> Receipt:
        return await self.into(ListeningSink(), question, **changes)

    async def into(
        self, sink: ListeningSink, question: str = "What is a tide gate?", **changes: Any
    ) -> Receipt:
        return await self.pipeline.run(self.request(question, **changes), sink)

    def request(self, question: str, **changes: Any) -> ChatRequest:
        self._number += 1
        now = time.monotonic()
        fields: dict[str, Any] = {
            "id": f"chatcmpl-{self._number}",
            "tenant": Tenant("acme"),
            "model": "fast",
            "question": question,
            "received": now,
            "deadline": now + 20,
            "created": 1,
        } | changes
        return ChatRequest(**fields)

    async def changed(self, collection_id: str = "vs_1", tenant_id: str = "acme") -> int:
        """A change in a collection is committed; the watch has looked, and search knows it too."""
        with self.database.write() as conn:
            epoch = next_epoch(conn)
            row = {
                "epoch": epoch,
                "tenant_id": tenant_id,
                "collection_id": collection_id,
                "file_id": "file-x",
            }
            conn.execute(removals.insert(), row)
        await self.watch.look()
        self.retriever.epoch = epoch
        return epoch

    def close(self) -> None:
        self.database.close()
