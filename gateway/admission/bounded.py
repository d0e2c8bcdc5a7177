"""Bounds in front of Triton's unary models: a few calls in flight, a bounded line behind them, refusal beyond.

Triton's own queues have no bound; without this a flood of questions would pile up inside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gateway.admission.slots import SlotQueue
from gateway.ports import Embedder, Retrieved, Retriever
from gateway.types import DEFAULT_EMBEDDER, Scope


class BoundedRetriever:
    """ports.Retriever behind a SlotQueue. Raises also: Rejected, Evicted, DeadlineExceeded."""

    def __init__(self, retriever: Retriever, slots: SlotQueue) -> None:
        self._retriever, self._slots = retriever, slots

    async def retrieve(self, text: str, scope: Scope, *, timeout_s: float) -> Retrieved:
        deadline = time.monotonic() + timeout_s
        with await self._slots.acquire(band="interactive", deadline=deadline):
            left_s = max(deadline - time.monotonic(), 0.001)
            return await self._retriever.retrieve(text, scope, timeout_s=left_s)


class BoundedEmbedder:
    """ports.Embedder behind a SlotQueue; bulk work, so it stands behind questions in a shared one."""

    def __init__(self, embedder: Embedder, slots: SlotQueue) -> None:
        self._embedder, self._slots = embedder, slots

    async def embed(
        self, texts: Sequence[str], *, role: str, timeout_s: float, embedder: str = DEFAULT_EMBEDDER
    ) -> npt.NDArray[np.float32]:
        deadline = time.monotonic() + timeout_s
        with await self._slots.acquire(band="standard", deadline=deadline):
            left_s = max(deadline - time.monotonic(), 0.001)
            return await self._embedder.embed(texts, role=role, timeout_s=left_s, embedder=embedder)
