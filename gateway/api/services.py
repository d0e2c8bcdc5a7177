"""What the routes need, handed over once by the composition root. No globals, no app-level state."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.api.auth import Authenticator
from gateway.chat import ChatPipeline
from gateway.embedding.tokens import SentenceTokenizer
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics
from gateway.ports import Embedder, Retriever
from gateway.settings import Settings
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.storage.recorder import Recorder

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
    retriever: Retriever
    embedder: Embedder
    tokens: SentenceTokenizer
    recorder: Recorder
    parts: dict[str, str] = field(default_factory=dict)  # name -> ok / one sentence, for /health/ready
    collection_ids: dict[Any, tuple[float, list[str]]] = field(default_factory=dict)

    async def wake_ingest(self) -> None:
        """Tell the ingest worker that there is work. Redis away: it finds the work by itself a moment later."""
        try:
            async with asyncio.timeout(0.05):
                await self.redis.publish("tidegate:ingest", b"1")
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("ingest not woken: %s", error)
