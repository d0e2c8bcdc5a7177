"""What the routes need, handed over once by the composition root. No globals, no app-level state."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.admission.quota import Limiter
from gateway.admission.redis_queue import RedisQueue
from gateway.api.alert_memory import AlertMemory, PartOrders
from gateway.api.auth import Authenticator
from gateway.api.repeats import Repeats
from gateway.caching.vectors import RememberedVectors
from gateway.chat import ChatPipeline
from gateway.embedding.tokens import SentenceTokenizer
from gateway.generation.upstream_generator import UpstreamGenerator
from gateway.lag import LoopLag
from gateway.lifecycle import Lifecycle
from gateway.memory import MemoryGuard
from gateway.metrics import Metrics
from gateway.pipeline.memory_parts import remembered_vectors
from gateway.pipeline.pressure import PressureWatch
from gateway.ports import QueuedEmbedder, QueuedRetriever
from gateway.request_id import RequestIds
from gateway.settings import Settings
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.storage.handovers import Handovers
from gateway.storage.recorder import Recorder
from gateway.storage.shared_note import SharedNote
from gateway.tiering.versions import Versions
from gateway.tracing.spans import Tracer

log = logging.getLogger("tidegate.api")


@dataclass
class Services:
    settings: Settings
    lifecycle: Lifecycle
    metrics: Metrics
    database: Database
    blobs: BlobStore
    redis: Redis
    auth: Authenticator
    pipeline: ChatPipeline
    retriever: QueuedRetriever
    embedder: QueuedEmbedder
    tokens: SentenceTokenizer
    recorder: Recorder
    limits: Limiter
    pressure: PressureWatch
    ladder_orders: SharedNote
    lag: LoopLag = field(default_factory=LoopLag)
    memory: MemoryGuard = field(default_factory=MemoryGuard)
    upstreams: dict[str, UpstreamGenerator] = field(default_factory=dict)
    shared_queues: dict[str, RedisQueue] = field(default_factory=dict)  # by tier
    parts: dict[str, str] = field(default_factory=dict)  # name -> ok / one sentence, for /health/ready
    collection_ids: dict[Any, tuple[float, list[str]]] = field(default_factory=dict)
    versions: Versions = field(default_factory=lambda: Versions({}, percent=1, port=0))
    request_ids: RequestIds = field(default_factory=RequestIds)
    repeats: Repeats[Any] = field(default_factory=Repeats)  # of chat requests over HTTP
    tracer: Tracer | None = None  # None: traces are off
    part_orders: PartOrders | None = None  # None: somebody else starts and stops the processes
    alert_memory: AlertMemory = field(init=False)
    handovers: Handovers = field(init=False)
    vectors: RememberedVectors = field(init=False)  # of texts that callers have embedded

    def __post_init__(self) -> None:
        self.handovers = Handovers(self.redis)
        self.vectors = remembered_vectors(self.settings, self.embedder, self.metrics)
        self.alert_memory = AlertMemory(self.redis)

    async def tell_keys_changed(self) -> None:
        """Make the other workers read keys and rights anew. Redis away: they do so within the keys' time to live."""
        await self._tell("tidegate:keys")

    async def wake_ingest(self) -> None:
        """Tell the ingest worker that there is work. Redis away: it finds the work by itself a moment later."""
        await self._tell("tidegate:ingest")

    async def _tell(self, channel: str) -> None:
        """Best effort: whoever listens also looks by itself."""
        try:
            async with asyncio.timeout(0.05):
                await self.redis.publish(channel, b"1")
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("nobody told on %s: %s", channel, error)
