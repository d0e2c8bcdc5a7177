"""What the chat pipeline needs from the outside, as protocols. Adapters live one layer up; fakes in tests/fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.types import Delta, Passage, Scope


class Retrieved(msgspec.Struct, frozen=True):
    """embedding: unit vector of the question [D]. embed_ms includes the network; search_ms is the index alone."""

    embedding: npt.NDArray[np.float32]
    passages: list[Passage]
    embed_ms: float
    search_ms: float


class Retriever(Protocol):
    async def retrieve(self, text: str, scope: Scope, *, timeout_s: float) -> Retrieved:
        """Passages for a question, best first.

        Raises: UpstreamUnavailable, UpstreamTimeout, UpstreamProtocolError.
        """
        ...


class Embedder(Protocol):
    async def embed(self, texts: Sequence[str], *, role: str, timeout_s: float) -> npt.NDArray[np.float32]:
        """Unit vectors, shape [len(texts), D], in order. role is `query` or `passage`."""
        ...


class Answerer(Protocol):
    """A tier's engine as the pipeline sees it. Leaving the iterator cancels the work on Triton."""

    def answer(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int | None, timeout_s: float
    ) -> AsyncIterator[Delta]: ...
