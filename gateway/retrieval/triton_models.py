"""The retrieval ports on Triton: `retrieve` answers a question with passages, `embed` turns texts into vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.errors import UpstreamProtocolError
from gateway.ports import Retrieved
from gateway.retrieval.several_embedders import OtherEmbedders, fuse
from gateway.tensors import EMBED, EMBEDDING_DIM, RERANK, RETRIEVE, SEARCH, Model
from gateway.triton import Outputs, TritonClient, Value
from gateway.types import DEFAULT_EMBEDDER, Passage, Scope

Vectors = npt.NDArray[np.float32]


MAX_ROUNDS = 3  # of a search that falls into the moment when a collection changes its embedder


class _Answer(NamedTuple):
    """Of one call. others: embedders, beside the one asked with, of which the scope holds chunks."""

    embedding: npt.NDArray[np.float32]
    passages: list[Passage]
    others: list[str]
    search_ms: float
    epoch: int


class TritonRetriever:
    """ports.Retriever over the ensemble `retrieve`; over its parts `search` and `rerank` where the vector is known.

    One call, as long as the collections asked have one embedder; else one for each, and their answers are fused.
    """

    def __init__(self, client: TritonClient) -> None:
        self._client = client
        self._encode_scope = msgspec.json.Encoder().encode
        self._decode_passages = msgspec.json.Decoder(list[Passage]).decode
        self._decode_names = msgspec.json.Decoder(list[str]).decode
        self._others = OtherEmbedders()

    async def retrieve(
        self, text: str, scope: Scope, *, timeout_s: float, embedding: Vectors | None = None
    ) -> Retrieved:
        started, deadline = time.perf_counter(), time.monotonic() + timeout_s

        async def ask(embedder: str) -> _Answer:
            asked = msgspec.structs.replace(scope, embedder=embedder)
            left_s = max(deadline - time.monotonic(), 0.0)
            if embedding is not None and embedder == scope.embedder:
                return await self._ask_by_vector(text, embedding, asked, left_s)
            return await self._ask(text, asked, left_s)

        expected = self._others.expected(scope)
        first, others = await _ask_at_once(ask, scope.embedder, expected)
        for _ in range(MAX_ROUNDS):
            missing = [name for name in first.others if name not in others]
            others |= dict(zip(missing, await asyncio.gather(*map(ask, missing)), strict=True))
            if not first.others or any(answer.passages for answer in (first, *others.values())):
                break
            first, others = await ask(scope.embedder), {}  # the chunks may have moved on between two calls
        self._others.remember(scope, first.others)
        answers = [first, *others.values()]
        elapsed_ms = (time.perf_counter() - started) * 1000.0
        search_ms = max(answer.search_ms for answer in answers)
        passages = fuse([answer.passages for answer in answers], scope.k)
        epoch = min(answer.epoch for answer in answers)
        return Retrieved(first.embedding, passages, max(elapsed_ms - search_ms, 0.0), search_ms, epoch)

    async def _ask(self, text: str, scope: Scope, timeout_s: float) -> _Answer:
        inputs: dict[str, Value] = {"text": text, "scope": self._encode_scope(scope)}
        if scope.embedder != DEFAULT_EMBEDDER:
            inputs["embedder"] = scope.embedder.encode()
        outputs = await self._client.infer(RETRIEVE, inputs, timeout_s=timeout_s)
        return self._answer(_vectors(outputs, 1)[0], outputs)

    async def _ask_by_vector(self, text: str, embedding: Vectors, scope: Scope, timeout_s: float) -> _Answer:
        """Two short calls in place of the ensemble, which would embed the text again."""
        deadline, encoded = time.monotonic() + timeout_s, self._encode_scope(scope)
        inputs: dict[str, Value] = {"embedding": embedding[None], "text": text, "scope": encoded}
        found = await self._client.infer(SEARCH, inputs, timeout_s=timeout_s)
        if len(found["passages"]) != 1:
            raise _malformed("search: more than one row for one question")
        candidates: dict[str, Value] = {
            "text": text,
            "candidates": cast(bytes, found["passages"][0]),
            "scope": encoded,
        }
        left_s = max(deadline - time.monotonic(), 0.0)
        ranked = await self._client.infer(RERANK, candidates, timeout_s=left_s)
        return self._answer(embedding, found | {"passages": ranked["passages"]})

    def _answer(self, embedding: Vectors, outputs: Outputs) -> _Answer:
        passages, search_ms, others = outputs["passages"], outputs["search_ms"], outputs["embedders"]
        epoch = outputs["epoch"]
        if not len(passages) == len(search_ms) == len(others) == len(epoch) == 1:
            raise _malformed("retrieve: more than one row for one question")
        try:
            return _Answer(
                embedding,
                self._decode_passages(cast(bytes, passages[0])),
                self._decode_names(cast(bytes, others[0])),
                float(cast(Vectors, search_ms).flat[0]),
                int(cast(npt.NDArray[np.int64], epoch).flat[0]),
            )
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _malformed(f"retrieve: passages or embedders: {error}") from error


async def _ask_at_once(
    ask: Callable[[str], Awaitable[_Answer]], embedder: str, others: Sequence[str]
) -> tuple[_Answer, dict[str, _Answer]]:
    """The answer of the embedder, and those of the others that turn out to be needed."""
    if not others:  # nearly always: no task
        return await ask(embedder), {}
    first, *more = await asyncio.gather(*map(ask, (embedder, *others)), return_exceptions=True)
    if isinstance(first, BaseException):
        raise first
    found = {name: answer for name, answer in zip(others, more, strict=True) if name in first.others}
    failed = next((answer for answer in found.values() if isinstance(answer, BaseException)), None)
    if failed is not None:
        raise failed
    return first, cast(dict[str, _Answer], found)


class TritonEmbedder:
    """ports.Embedder over `embed`: batches as large as the model takes, at most `max_inflight` of a call at once.

    model: EMBED, or EMBED_PASSAGES where nobody waits for the answer.
    """

    def __init__(self, client: TritonClient, *, model: Model = EMBED, max_inflight: int = 4) -> None:
        self._client = client
        self._model = model
        self._max_inflight = max_inflight

    async def embed(
        self, texts: Sequence[str], *, role: str, timeout_s: float, embedder: str = DEFAULT_EMBEDDER
    ) -> Vectors:
        encoded = [text.encode() for text in texts]
        size = self._model.max_batch_size
        batches = [encoded[start : start + size] for start in range(0, len(encoded), size)]
        if len(batches) <= 1:  # the chat path: no task, no semaphore
            found = [await self._embed_batch(batch, role, timeout_s, embedder) for batch in batches]
        else:
            found = await self._embed_all(batches, role, timeout_s, embedder)
        if len({batch.shape[1] for batch in found}) > 1:
            raise _malformed("embed: vectors of several lengths")
        return np.concatenate(found) if found else np.empty((0, EMBEDDING_DIM), np.float32)

    async def _embed_all(
        self, batches: list[list[bytes]], role: str, timeout_s: float, embedder: str
    ) -> list[Vectors]:
        turn = asyncio.Semaphore(self._max_inflight)
        deadline = time.monotonic() + timeout_s

        async def one(batch: list[bytes]) -> Vectors:
            async with turn:
                left_s = max(deadline - time.monotonic(), 0.0)
                return await self._embed_batch(batch, role, left_s, embedder)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(batch)) for batch in batches]
        except ExceptionGroup as failed:  # the first failure cancelled the others
            raise failed.exceptions[0]  # noqa: B904 - it keeps the cause that it came with
        return [task.result() for task in tasks]

    async def _embed_batch(self, texts: list[bytes], role: str, timeout_s: float, embedder: str) -> Vectors:
        inputs: dict[str, Value] = {"text": texts, "role": [role.encode()] * len(texts)}
        if embedder != DEFAULT_EMBEDDER:
            inputs["embedder"] = [embedder.encode()] * len(texts)
        outputs = await self._client.infer(self._model, inputs, timeout_s=timeout_s, batch=len(texts))
        return _vectors(outputs, len(texts))


def _vectors(outputs: Outputs, count: int) -> Vectors:
    vectors = cast(Vectors, outputs["embedding"])
    if vectors.ndim != 2 or len(vectors) != count or not vectors.shape[1]:
        raise _malformed(f"embedding has shape {vectors.shape}, expected {count} rows")
    return vectors


def _malformed(detail: str) -> UpstreamProtocolError:
    return UpstreamProtocolError("The model server gave a malformed answer.", detail=detail)
