"""Bounds in front of Triton's unary models: a few calls in flight, a bounded line behind them, refusal beyond.

Triton's own queues have no bound; without this a flood of questions would pile up inside it. The line is the tiers' own
(`line.py`): tenants share it evenly, bands go one before the other. A tenant's texts to embed are a tenant of their own
in it, so that bulk work holds up nobody else, and not its own tenant's questions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gateway.admission.slots import SlotQueue
from gateway.admission.waiting import Claim
from gateway.ports import Embedder, Retrieved, Retriever
from gateway.types import DEFAULT_EMBEDDER, Scope

OF_EMBEDDING = " embedding"  # behind a tenant's name, which holds no space


class BoundedRetriever:
    """ports.QueuedRetriever: a Retriever behind a SlotQueue."""

    def __init__(self, retriever: Retriever, slots: SlotQueue) -> None:
        self._retriever, self._slots = retriever, slots

    async def retrieve(
        self,
        text: str,
        scope: Scope,
        *,
        timeout_s: float,
        embedding: npt.NDArray[np.float32] | None = None,
        band: str = "interactive",
    ) -> Retrieved:
        deadline = time.monotonic() + timeout_s
        claim = Claim(tenant=scope.tenant_id, size=len(text))
        with await self._slots.acquire(band=band, deadline=deadline, claim=claim):
            left_s = max(deadline - time.monotonic(), 0.001)
            return await self._retriever.retrieve(text, scope, timeout_s=left_s, embedding=embedding)


class BoundedEmbedder:
    """ports.QueuedEmbedder: an Embedder behind a SlotQueue, in which a call costs as much as it has texts."""

    def __init__(self, embedder: Embedder, slots: SlotQueue) -> None:
        self._embedder, self._slots = embedder, slots

    async def embed(
        self,
        texts: Sequence[str],
        *,
        role: str,
        timeout_s: float,
        embedder: str = DEFAULT_EMBEDDER,
        tenant: str = "",
    ) -> npt.NDArray[np.float32]:
        deadline = time.monotonic() + timeout_s
        claim = Claim(tenant=tenant + OF_EMBEDDING, cost=max(1, len(texts)), size=sum(map(len, texts)))
        with await self._slots.acquire(band="interactive", deadline=deadline, claim=claim):
            left_s = max(deadline - time.monotonic(), 0.001)
            return await self._embedder.embed(texts, role=role, timeout_s=left_s, embedder=embedder)
