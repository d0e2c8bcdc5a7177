"""The retrieval ports on Triton: `retrieve` answers a question with passages, `embed` turns texts into vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.errors import UpstreamProtocolError
from gateway.ports import Retrieved
from gateway.tensors import EMBED, EMBEDDING_DIM, RETRIEVE
from gateway.triton import Outputs, TritonClient, Value
from gateway.types import Passage, Scope

Vectors = npt.NDArray[np.float32]


class TritonRetriever:
    """ports.Retriever over the ensemble `retrieve`."""

    def __init__(self, client: TritonClient) -> None:
        self._client = client
        self._encode_scope = msgspec.json.Encoder().encode
        self._decode_passages = msgspec.json.Decoder(list[Passage]).decode

    async def retrieve(self, text: str, scope: Scope, *, timeout_s: float) -> Retrieved:
        started = time.perf_counter()
        inputs: dict[str, Value] = {"text": text, "scope": self._encode_scope(scope)}
        outputs = await self._client.infer(RETRIEVE, inputs, timeout_s=timeout_s)
        elapsed_ms = (time.perf_counter() - started) * 1000.0
        passages, search_ms = outputs["passages"], outputs["search_ms"]
        if len(passages) != 1 or len(search_ms) != 1:
            raise _malformed("retrieve: more than one row for one question")
        try:
            decoded = self._decode_passages(cast(bytes, passages[0]))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _malformed(f"retrieve: passages: {error}") from error
        took_ms = float(cast(Vectors, search_ms).flat[0])
        return Retrieved(_vectors(outputs, 1)[0], decoded, max(elapsed_ms - took_ms, 0.0), took_ms)


class TritonEmbedder:
    """ports.Embedder over `embed`: batches as large as the model takes, at most `max_inflight` of a call at once."""

    def __init__(self, client: TritonClient, *, max_inflight: int = 4) -> None:
        self._client = client
        self._max_inflight = max_inflight

    async def embed(self, texts: Sequence[str], *, role: str, timeout_s: float) -> Vectors:
        encoded = [text.encode() for text in texts]
        size = EMBED.max_batch_size
        batches = [encoded[start : start + size] for start in range(0, len(encoded), size)]
        if len(batches) <= 1:  # the chat path: no task, no semaphore
            found = [await self._embed_batch(batch, role, timeout_s) for batch in batches]
        else:
            found = await self._embed_all(batches, role, timeout_s)
        return np.concatenate([np.empty((0, EMBEDDING_DIM), np.float32), *found])

    async def _embed_all(self, batches: list[list[bytes]], role: str, timeout_s: float) -> list[Vectors]:
        turn = asyncio.Semaphore(self._max_inflight)
        deadline = time.monotonic() + timeout_s

        async def one(batch: list[bytes]) -> Vectors:
            async with turn:
                return await self._embed_batch(batch, role, max(deadline - time.monotonic(), 0.0))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(batch)) for batch in batches]
        except ExceptionGroup as failed:  # the first failure cancelled the others
            raise failed.exceptions[0]  # noqa: B904 - it keeps the cause that it came with
        return [task.result() for task in tasks]

    async def _embed_batch(self, texts: list[bytes], role: str, timeout_s: float) -> Vectors:
        inputs: dict[str, Value] = {"text": texts, "role": [role.encode()] * len(texts)}
        outputs = await self._client.infer(EMBED, inputs, timeout_s=timeout_s, batch=len(texts))
        return _vectors(outputs, len(texts))


def _vectors(outputs: Outputs, count: int) -> Vectors:
    vectors = cast(Vectors, outputs["embedding"])
    if vectors.shape != (count, EMBEDDING_DIM):
        raise _malformed(f"embedding has shape {vectors.shape}, expected {(count, EMBEDDING_DIM)}")
    return vectors


def _malformed(detail: str) -> UpstreamProtocolError:
    return UpstreamProtocolError("The model server gave a malformed answer.", detail=detail)
