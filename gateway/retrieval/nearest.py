"""Vectors of one table and the nearest among them: exact by FAISS, through a graph where one covers them. Pure.

Rows are append-only: a graph covers the first ones, an ordinary buffer holds those after it, which are searched
exactly beside the graph.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from gateway.retrieval.columns import grown
from gateway.retrieval.gpu_search import MAX_K, GpuCopy, GpuSearch

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Of the rows: fewer than these are copied together rather than skipped among the others.
GATHERED_SHARE = 1 / 16
GRAPH_SHARE = 0.25  # of the graph's rows must be allowed, else it would wander among the others
# Candidates kept while walking a graph of 100,000; three times as many for ten times the rows. What a walk misses is
# mostly a whole neighbourhood, which more candidates find and a more careful graph alone does not: recall@10 over a
# million (perf/search.py) with 16, 24 and 32 links is 0.89, 0.93, 0.93 by 512 candidates, 0.97, 0.97, 0.98 by 1,536.
EF_SEARCH = 512
GRAPH_LINKS = 24
EF_CONSTRUCTION = 100

log = logging.getLogger(__name__)

_faiss: Any = faiss  # its stubs lack the half of what is used here


class Nearest(NamedTuple):
    """Shapes: scores [Q, K], rows [Q, K], best first; row -1 = no more."""

    scores: Vectors
    rows: Ints


@dataclass(frozen=True)
class Graph:
    """index: FAISS's HNSW over `vectors`, whose memory it owns. Never changed once searched.

    on_gpu: the same vectors there, which are searched instead where every row may be found.
    """

    index: Any
    vectors: Vectors
    on_gpu: GpuCopy | None = None

    def extended(self, more: Vectors, num_threads: int) -> Graph:
        """A copy with these rows behind the others: the cost is theirs, and a second of copying for each million."""
        index = _faiss.clone_index(self.index)
        _faiss.omp_set_num_threads(num_threads)
        index.add(more)
        return graph_of(index)


def new_graph(vectors: Vectors, num_threads: int) -> Graph:
    """Two minutes for a million vectors on two cores. Shapes: [N, D]."""
    index = _faiss.IndexHNSWFlat(vectors.shape[1], GRAPH_LINKS, _faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    _faiss.omp_set_num_threads(num_threads)
    index.add(vectors)
    return graph_of(index)


def graph_of(index: Any) -> Graph:
    flat = _faiss.downcast_index(index.storage)
    memory = _faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return Graph(index, memory.reshape(flat.ntotal, flat.d))


@dataclass(frozen=True)
class VectorRows:
    """later: [capacity, D], of which the rows from the graph's end to `count` are in use."""

    graph: Graph | None
    later: Vectors
    count: int

    @property
    def num_in_graph(self) -> int:
        return 0 if self.graph is None else len(self.graph.vectors)

    def with_added(self, vectors: Vectors) -> VectorRows:
        """Behind the rows that searches can see. Shapes: [N, D]."""
        start, count = self.count - self.num_in_graph, self.count + len(vectors)
        later = grown(self.later, start, count - self.num_in_graph)
        later[start : start + len(vectors)] = vectors
        return VectorRows(self.graph, later, count)

    def in_graph(self, num_threads: int, gpu: GpuSearch | None = None) -> VectorRows:
        """All rows covered by a graph, with a copy on the GPU where there is one that has room."""
        late = self.later[: self.count - self.num_in_graph]
        if self.graph is None:
            graph = new_graph(late, num_threads)
        else:
            graph = self.graph.extended(late, num_threads) if len(late) or gpu is None else self.graph
        if gpu is not None:
            graph = replace(graph, on_gpu=gpu.copy_of(graph.vectors))
        return VectorRows(graph, np.empty((0, late.shape[1]), np.float32), self.count)

    def taken(self, rows: Ints) -> Vectors:
        """Copies of these. Shapes: [N] -> [N, D]."""
        if self.graph is None:
            return self.later[rows]
        out = np.empty((len(rows), self.later.shape[1]), np.float32)
        is_early = rows < self.num_in_graph
        out[is_early] = self.graph.vectors[rows[is_early]]
        out[~is_early] = self.later[rows[~is_early] - self.num_in_graph]
        return out

    def nearest(self, queries: Vectors, k: int, mask: Mask | None) -> Nearest:
        """mask: [count] rows allowed; None = all. Shapes: queries [Q, D], C-contiguous."""
        # The number of threads belongs to the calling thread. On tables searched here a second one costs more than
        # it brings, and its spinning takes the core from the embedding model.
        _faiss.omp_set_num_threads(1)
        if mask is not None:
            num_allowed = int(np.count_nonzero(mask))
            if num_allowed < self.count * GATHERED_SHARE:
                return self._among(np.flatnonzero(mask), queries, k)
            mask = mask if num_allowed < self.count else None
        split = self.num_in_graph
        late_mask = None if mask is None else mask[split:]
        late = _exact(self.later[: self.count - split], queries, k, late_mask)
        if self.graph is None:
            return late
        early = _in_graph(self.graph, queries, k, None if mask is None else mask[:split])
        return _best_of(early, Nearest(late.scores, np.where(late.rows >= 0, late.rows + split, -1)), k)

    def _among(self, allowed: Ints, queries: Vectors, k: int) -> Nearest:
        found = _exact(self.taken(allowed), queries, k, None)
        return Nearest(found.scores, allowed[found.rows]) if len(allowed) else found


def _exact(vectors: Vectors, queries: Vectors, k: int, mask: Mask | None) -> Nearest:
    k = min(k, len(vectors))
    if not k:
        return Nearest(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
    if mask is None:
        return Nearest(*_faiss.knn(queries, vectors, k, _faiss.METRIC_INNER_PRODUCT))
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    bits = np.packbits(mask, bitorder="little")  # held here while FAISS reads it
    _faiss.knn_inner_product(
        _faiss.swig_ptr(queries),
        _faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(queries),
        len(vectors),
        k,
        _faiss.swig_ptr(scores),
        _faiss.swig_ptr(rows),
        _faiss.IDSelectorBitmap(bits),
    )
    return Nearest(scores, rows)


def _in_graph(graph: Graph, queries: Vectors, k: int, mask: Mask | None) -> Nearest:
    if mask is None and graph.on_gpu is not None and k <= MAX_K:
        try:
            return Nearest(*graph.on_gpu.search(queries, min(k, len(graph.vectors))))
        except RuntimeError as error:  # as where an engine has taken the memory that a large batch needs
            log.warning("a search is done on the processor instead of the GPU: %s", error)
    share = 1.0 if mask is None else float(np.count_nonzero(mask)) / len(mask)
    if share < GRAPH_SHARE:
        return _exact(graph.vectors, queries, k, mask)
    effort = int(max(_ef_search(len(graph.vectors)), 2 * k) / share)
    if mask is None:
        parameters = _faiss.SearchParametersHNSW(efSearch=effort)
    else:
        bits = np.packbits(mask, bitorder="little")
        parameters = _faiss.SearchParametersHNSW(efSearch=effort, sel=_faiss.IDSelectorBitmap(bits))
    return Nearest(*graph.index.search(queries, min(k, len(graph.vectors)), params=parameters))


def _ef_search(num_rows: int) -> int:
    return int(EF_SEARCH * 3.0 ** max(math.log10(num_rows / 100_000), 0.0))


def _best_of(one: Nearest, other: Nearest, k: int) -> Nearest:
    rows = np.concatenate([one.rows, other.rows], axis=1)
    scores = np.where(rows >= 0, np.concatenate([one.scores, other.scores], axis=1), -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Nearest(np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1))
