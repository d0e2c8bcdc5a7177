"""What the chat pipeline needs from the outside, as protocols. Adapters live one layer up; fakes in tests/fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidRequest
from gateway.types import DEFAULT_EMBEDDER, Delta, Inquiry, Passage, Scope


class Retrieved(msgspec.Struct, frozen=True):
    """embedding: unit vector of the question [D]. embed_ms includes the network; search_ms is the index alone.

    epoch: everything committed up to here was searched; -1 = not known.
    """

    embedding: npt.NDArray[np.float32]
    passages: list[Passage]
    embed_ms: float
    search_ms: float
    epoch: int = -1


class Retriever(Protocol):
    async def retrieve(
        self,
        text: str,
        scope: Scope,
        *,
        timeout_s: float,
        embedding: npt.NDArray[np.float32] | None = None,
    ) -> Retrieved:
        """Passages for a question, best first. embedding: the text's by scope.embedder, where it is known [D].

        Raises: UpstreamUnavailable, UpstreamTimeout, UpstreamProtocolError.
        """
        ...


class QueuedRetriever(Protocol):
    async def retrieve(
        self,
        text: str,
        scope: Scope,
        *,
        timeout_s: float,
        embedding: npt.NDArray[np.float32] | None = None,
        band: str = "interactive",
    ) -> Retrieved:
        """As a Retriever, behind a line: fair between the tenants of scopes, one band strictly before the other.

        Raises also: Rejected, Evicted, DeadlineExceeded.
        """
        ...


class SearchRequest(NamedTuple):
    """embedding: [D] of scope.embedder, any length > 0. text: the question, for lexical search."""

    embedding: npt.NDArray[np.float32]
    text: str
    scope: Scope


class VectorStore(Protocol):
    """What the model `search` asks: the corpus as one store keeps it. One thread may apply while others search."""

    @property
    def epoch(self) -> int:
        """Everything committed up to here is searchable."""
        ...

    @property
    def num_chunks(self) -> int: ...

    def search(self, requests: Sequence[SearchRequest]) -> list[bytes | InvalidRequest]:
        """For each request the JSON list of its passages, best first, or what is wrong with that request.

        Tenant, collections, embedder and filters bound what is found; an unknown or foreign collection finds nothing.
        The passages are candidates for reranking: single chunks, at least NUM_CANDIDATES of them where there are as
        many, however small k is; copies of a text are given once. Ties go to the lower chunk id.
        Raises: UpstreamError when the store is away.
        """
        ...

    def embedders(self, scope: Scope) -> list[str]:
        """Embedders other than the scope's of which its collections hold chunks, sorted; filters do not matter."""
        ...


class Embedder(Protocol):
    async def embed(
        self, texts: Sequence[str], *, role: str, timeout_s: float, embedder: str = DEFAULT_EMBEDDER
    ) -> npt.NDArray[np.float32]:
        """Unit vectors, shape [len(texts), D], in order. role is `query` or `passage`; embedder: the model's name."""
        ...


class QueuedEmbedder(Protocol):
    async def embed(
        self,
        texts: Sequence[str],
        *,
        role: str,
        timeout_s: float,
        embedder: str = DEFAULT_EMBEDDER,
        tenant: str = "",
    ) -> npt.NDArray[np.float32]:
        """As an Embedder, behind a line that is fair between tenants.

        Raises also: Rejected, Evicted, DeadlineExceeded.
        """
        ...


class Answerer(Protocol):
    """A tier's engine as the pipeline sees it. Leaving the iterator cancels the work on Triton."""

    def answer(
        self, inquiry: Inquiry, passages: Sequence[Passage], *, timeout_s: float
    ) -> AsyncIterator[Delta]:
        """The answer step by step; exactly one delta, the last, has a finish reason.

        Raises: UpstreamError and its subclasses; InvalidRequest (`prompt_too_long`) before the first delta.
        """
        ...


class Gate(Protocol):
    def check(self) -> None:
        """Refuse at once what would not even be tried. Raises: UpstreamUnavailable."""
        ...


class GenerationParams(msgspec.Struct, frozen=True, kw_only=True):
    """max_tokens: new ones, beyond those of the prompt. temperature 0 = greedy.

    seed: None = the engine's choice. ignore_eos: go on to max_tokens (for measurements). json_schema: JSON Schema that
    the output must fit, as JSON; "" = free text; only for an engine that can. priority: 0 comes first, larger ones give
    way; an engine without priorities takes no notice.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    json_schema: str = ""
    priority: int = 0


class TokenStep(msgspec.Struct, frozen=True):
    """Tokens that an engine has just made. finish_reason: "" while running, then `stop` (end token) or `length`."""

    token_ids: list[int]
    finish_reason: str = ""


class EngineLoad(msgspec.Struct, frozen=True):
    """What an engine itself counts right now. kv_usage: 0..1 of its cache."""

    num_running: int
    max_running: int
    kv_usage: float


class Engine(Protocol):
    """What yields tokens: OpenVINO on a CPU, TensorRT-LLM or vLLM on a GPU. Knows ids, never text."""

    def generate(self, prompt_ids: Sequence[int], params: GenerationParams) -> AsyncIterator[TokenStep]:
        """The output tokens of one prompt as they are made; the last step alone has a finish reason.

        Leaving the iterator in any way (break, cancel, aclose) ends the request and frees its slot at the next step.
        Batched continuously with whatever else runs; greedy output does not depend on it.
        Raises: PromptTooLong, InvalidRequest (also for a json_schema where the engine cannot keep to one), EngineFull
        (all slots are taken: nothing queues here), UpstreamError.
        """
        ...

    @property
    def is_broken(self) -> bool:
        """It has failed in a way that nobody knows the state of, and takes nothing any more."""
        ...

    def load(self) -> EngineLoad: ...

    async def close(self) -> None: ...
