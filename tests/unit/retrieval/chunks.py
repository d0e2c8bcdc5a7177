"""Chunks with vectors of the test's choice, and what an index finds among them."""

from __future__ import annotations

import msgspec
import numpy as np

from gateway.errors import InvalidRequest
from gateway.ports import SearchRequest
from gateway.retrieval.index import CorpusIndex
from gateway.storage.changes import ChunkRow, FileRow, RemovalRow, Tail
from gateway.types import DEFAULT_EMBEDDER, Passage, Scope

DIM = 8


def axis(number: int) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[number]


def towards(number: int, closeness: float) -> np.ndarray:
    """Unit vector with that cosine to axis(number)."""
    return (closeness * axis(number) + np.sqrt(1 - closeness**2) * axis(number - 1)).astype(np.float32)


def chunk(
    chunk_id: int,
    vector: np.ndarray,
    *,
    tenant: str = "t",
    collection: str = "c",
    file: str = "f",
    text: str = "",
    epoch: int = 1,
    start: int = 0,
    embedder: str = DEFAULT_EMBEDDER,
) -> ChunkRow:
    return ChunkRow(
        id=chunk_id,
        tenant_id=tenant,
        collection_id=collection,
        file_id=file,
        filename=f"{file}.txt",
        ordinal=chunk_id,
        text=text or f"chunk {chunk_id}",
        start_char=start,
        end_char=start + len(text or f"chunk {chunk_id}"),
        heading="",
        vector=vector.astype("<f4").tobytes(),
        epoch=epoch,
        embedder=embedder,
    )


def index_of(*chunks: ChunkRow) -> CorpusIndex:
    index = CorpusIndex()
    index.apply(Tail(1, list(chunks), [], False))
    return index


def removal(epoch: int, file: str | None = None, *, tenant: str = "t", collection: str = "c") -> Tail:
    return Tail(epoch, [], [RemovalRow(epoch, tenant, collection, file)], False)


def attributes(epoch: int, file: str, values: dict[str, object], *, collection: str = "c") -> FileRow:
    return FileRow("t", collection, file, values, epoch)


def ask(index: CorpusIndex, vector: np.ndarray, text: str = "", **scope: object) -> list[Passage]:
    """Dense only, unless the scope says otherwise."""
    wanted = Scope(**{"tenant_id": "t", "ranking": "dense", **scope})
    (answer,) = index.search([SearchRequest(vector, text, wanted)])
    assert not isinstance(answer, InvalidRequest), answer
    return msgspec.json.decode(answer, type=list[Passage])


def found(index: CorpusIndex, vector: np.ndarray, text: str = "", **scope: object) -> list[int]:
    """Chunk ids of the k best candidates."""
    passages = ask(index, vector, text, **scope)
    return [passage.chunk_id for passage in passages[: scope.get("k", 5)]]
