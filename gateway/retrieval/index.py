"""Vectors of all tenants in memory, as searchable generations. Pure: no I/O, no clock, no Triton.

One flat table of vectors per (tenant, collection), searched exactly by FAISS. A generation is never changed once
published: searches take the current one without a lock, the single updater builds the next and swaps it in whole,
so a query sees an epoch entirely or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import msgspec
import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidRequest
from gateway.types import Passage, Scope

if TYPE_CHECKING:
    from gateway.storage.corpus import ChunkRow, Tail

MAX_K = 64
OVERFETCH = 8  # rows beyond k, so that identical texts can be collapsed without a second search
FIRST_CAPACITY = 64

Vectors = npt.NDArray[np.float32]
Key = tuple[str, str]  # tenant, collection


class Entry(NamedTuple):
    """What is kept of a chunk beside its vector."""

    chunk_id: int
    file_id: str
    epoch: int
    text_hash: int
    fragment: bytes  # JSON of types.Passage up to the value of its last field, score


@dataclass(frozen=True)
class Table:
    """One collection: the first `count` rows of append-only buffers, which the next generation may share and extend."""

    vectors: Vectors  # [capacity, D]
    entries: list[Entry]
    rows: dict[int, int]  # chunk id -> row; the updater's own, searches never look
    count: int

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """Scores and rows, each [len(queries), min(k, count)], best first."""
        # The number of threads belongs to the calling thread. On tables that fit here a second one costs more than
        # it brings, and its spinning takes the core from the embedding model.
        faiss.omp_set_num_threads(1)
        return faiss.knn(queries, self.vectors[: self.count], min(k, self.count), faiss.METRIC_INNER_PRODUCT)


@dataclass(frozen=True)
class Generation:
    epoch: int = 0
    tenants: Mapping[str, Mapping[str, Table]] = field(default_factory=dict)


class CorpusIndex:
    """The searchable corpus. One thread may `apply` while any number search."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._generation = Generation()

    @property
    def epoch(self) -> int:
        return self._generation.epoch

    @property
    def num_chunks(self) -> int:
        tenants = self._generation.tenants.values()
        return sum(table.count for tables in tenants for table in tables.values())

    def apply(self, tail: Tail) -> int:
        """Take changes in and publish them as one generation; returns how many vectors were unusable and left out.

        Idempotent and independent of order: a removal takes rows older than itself, a chunk id replaces itself.
        """
        adds, num_bad = self._readable(tail.chunks)
        removals: dict[Key, dict[str | None, int]] = defaultdict(dict)
        for removal in tail.removals:
            epochs = removals[removal.tenant_id, removal.collection_id]
            epochs[removal.file_id] = max(removal.epoch, epochs.get(removal.file_id, 0))
        old = self._generation
        tenants = dict(old.tenants)
        for key in adds.keys() | removals.keys():
            tenant_id, collection_id = key
            tables = dict(tenants.get(tenant_id, {}))
            table = _next_table(
                tables.pop(collection_id, None), adds.get(key, []), removals.get(key, {}), self.dim
            )
            if table.count:
                tables[collection_id] = table
            tenants[tenant_id] = tables
            if not tables:
                del tenants[tenant_id]
        self._generation = Generation(max(tail.epoch, old.epoch), tenants)
        return num_bad

    def adopt(self, other: CorpusIndex) -> None:
        """Publish what another index holds, in place of all that is here."""
        self._generation = other._generation

    def search(self, requests: Sequence[tuple[Vectors, Scope]]) -> list[bytes | InvalidRequest]:
        """For each request the JSON list of its passages, best first, or what is wrong with that request.

        Equal texts are given once, by their best copy. Ties go to the lower chunk id. An unknown or foreign
        collection finds nothing. Shapes: each embedding [D], any length > 0.
        """
        generation = self._generation
        answers: list[bytes | InvalidRequest] = [b"[]"] * len(requests)
        queries = np.zeros((len(requests), self.dim), np.float32)
        wanted: dict[Key, list[int]] = defaultdict(list)
        tables: dict[Key, Table] = {}
        for number, (embedding, scope) in enumerate(requests):
            try:
                queries[number] = _unit(embedding, self.dim)
                _check_k(scope.k)
            except InvalidRequest as error:
                answers[number] = error
                continue
            of_tenant = generation.tenants.get(scope.tenant_id, {})
            for collection_id in dict.fromkeys(scope.collections) if scope.collections else of_tenant:
                if collection_id in of_tenant:
                    key = (scope.tenant_id, collection_id)
                    tables[key] = of_tenant[collection_id]
                    wanted[key].append(number)
        hits: dict[int, list[Hit]] = defaultdict(list)
        for key, numbers in wanted.items():
            limits = {number: requests[number][1].k for number in numbers}
            for number, found in _search_table(tables[key], queries, limits).items():
                hits[number] += found
        for number, found in hits.items():
            answers[number] = _passages(found, requests[number][1].k)
        return answers

    def _readable(self, chunks: Sequence[ChunkRow]) -> tuple[dict[Key, list[tuple[Entry, Vectors]]], int]:
        adds: dict[Key, list[tuple[Entry, Vectors]]] = defaultdict(list)
        num_bad = 0
        for chunk in chunks:
            try:
                vector = _unit(np.frombuffer(chunk.vector, "<f4"), self.dim)
            except (InvalidRequest, ValueError):
                num_bad += 1
                continue
            adds[chunk.tenant_id, chunk.collection_id].append((_entry(chunk), vector))
        return adds, num_bad


class Hit(NamedTuple):
    """Sorts best first."""

    negative_score: float
    chunk_id: int
    entry: Entry


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_K:
        raise InvalidRequest(f"k must be between 1 and {MAX_K}, not {k}.", param="k")


def _unit(embedding: Vectors, dim: int) -> Vectors:
    """The vector at length 1. Raises: InvalidRequest for a wrong size, zero, NaN and infinity."""
    if embedding.shape != (dim,):
        raise InvalidRequest(f"The embedding must have {dim} numbers, not shape {list(embedding.shape)}.")
    square = float(np.dot(embedding, embedding))
    if not 0.0 < square < float("inf"):  # false for NaN too
        raise InvalidRequest("The embedding must be finite and not zero.")
    return embedding if abs(square - 1.0) < 1e-6 else embedding / np.float32(square**0.5)


def _entry(chunk: ChunkRow) -> Entry:
    passage = Passage(
        chunk_id=chunk.id,
        collection_id=chunk.collection_id,
        file_id=chunk.file_id,
        filename=chunk.filename,
        ordinal=chunk.ordinal,
        heading=chunk.heading,
        start=chunk.start_char,
        end=chunk.end_char,
        text=chunk.text,
        score=0.0,
    )
    fragment = msgspec.json.encode(passage).removesuffix(b"0.0}")
    return Entry(chunk.id, chunk.file_id, chunk.epoch, hash(chunk.text), fragment)


def _next_table(
    table: Table | None,
    adds: list[tuple[Entry, Vectors]],
    removals: Mapping[str | None, int],
    dim: int,
) -> Table:
    """The collection after these changes. The given table stays as it is for searches under way."""

    def is_removed(entry: Entry) -> bool:
        return entry.epoch < max(removals.get(entry.file_id, 0), removals.get(None, 0))

    table = table or Table(np.empty((0, dim), np.float32), [], {}, 0)
    fresh = {entry.chunk_id: (entry, vector) for entry, vector in adds if not is_removed(entry)}
    replaced = fresh.keys() & table.rows.keys()
    if removals or replaced:
        kept = [
            row
            for row, entry in enumerate(table.entries[: table.count])
            if entry.chunk_id not in replaced and not is_removed(entry)
        ]
        if len(kept) < table.count:
            table = _compacted(table, kept)
    return _extended(table, list(fresh.values())) if fresh else table


def _compacted(table: Table, kept: list[int]) -> Table:
    entries = [table.entries[row] for row in kept]
    rows = {entry.chunk_id: row for row, entry in enumerate(entries)}
    return Table(np.ascontiguousarray(table.vectors[kept]), entries, rows, len(kept))


def _extended(table: Table, adds: list[tuple[Entry, Vectors]]) -> Table:
    """Appends behind the rows that searches can see; buffers grow by doubling, so adding costs what is added."""
    vectors, start, count = table.vectors, table.count, table.count + len(adds)
    if count > len(vectors):
        vectors = np.empty((max(count, 2 * start, FIRST_CAPACITY), vectors.shape[1]), np.float32)
        vectors[:start] = table.vectors[:start]
    del table.entries[start:]  # what an apply that failed midway may have left
    for row, (entry, vector) in enumerate(adds, start):
        vectors[row] = vector
        table.entries.append(entry)
        table.rows[entry.chunk_id] = row
    return Table(vectors, table.entries, table.rows, count)


def _search_table(table: Table, queries: Vectors, limits: Mapping[int, int]) -> dict[int, list[Hit]]:
    """Hits of the queries numbered in `limits` (number -> k), all in one FAISS call."""
    numbers = list(limits)
    fetch = max(limits.values()) + OVERFETCH
    found: dict[int, list[Hit]] = {}
    while numbers:
        scores, rows = table.search(queries[numbers], fetch)
        short = []
        for number, row_scores, row_numbers in zip(numbers, scores.tolist(), rows.tolist(), strict=True):
            hits = _distinct(table, row_scores, row_numbers)
            found[number] = hits
            if len(hits) < limits[number] and fetch < table.count:
                short.append(number)
        numbers, fetch = short, fetch * 4
    return found


def _distinct(table: Table, scores: list[float], rows: list[int]) -> list[Hit]:
    best: dict[int, Hit] = {}
    for score, row in zip(scores, rows, strict=True):
        if row < 0:  # FAISS pads with -1
            break
        entry = table.entries[row]
        hit = Hit(-score, entry.chunk_id, entry)
        known = best.get(entry.text_hash)
        if known is None or hit < known:
            best[entry.text_hash] = hit
    return list(best.values())


def _passages(hits: list[Hit], k: int) -> bytes:
    hits.sort()
    chosen: dict[int, Hit] = {}
    for hit in hits:
        chosen.setdefault(hit.entry.text_hash, hit)
        if len(chosen) == k:
            break
    parts: list[Any] = [b"%s%.6f}" % (hit.entry.fragment, -hit.negative_score) for hit in chosen.values()]
    return b"[" + b",".join(parts) + b"]"
