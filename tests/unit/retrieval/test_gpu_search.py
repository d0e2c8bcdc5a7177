"""Searching on a GPU, with a stand-in for FAISS's own: what goes there, what does not, and what is said without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest

from gateway.retrieval import gpu_search
from gateway.retrieval import table as tables
from gateway.retrieval.gpu_search import MAX_K, RETRY_S, GpuSearch
from gateway.retrieval.index import _is_due
from gateway.retrieval.nearest import VectorRows
from gateway.retrieval.table import new_table
from gateway.settings import SettingsError

DIM = 16


class OnGpu:
    """An index that counts what it is asked."""

    def __init__(self, resources: object, device: int, index: Any) -> None:
        assert device == 0
        self._index = index
        self.num_searches = 0
        seen.append(self)

    def search(self, queries: Any, k: int) -> Any:
        self.num_searches += 1
        assert k <= MAX_K
        return self._index.search(queries, k)


seen: list[OnGpu] = []


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> GpuSearch:
    seen.clear()
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", OnGpu, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    return GpuSearch()


def vectors(count: int, seed: int = 0) -> Any:
    made = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def rows(count: int) -> VectorRows:
    return VectorRows(None, vectors(count), count)


def test_whole_searches_go_to_the_gpu_and_find_what_an_exact_search_finds(gpu: GpuSearch) -> None:
    plain, placed = rows(500), rows(500).in_graph(1, gpu)
    queries = vectors(7, seed=1)
    found = placed.nearest(queries, 10, None)
    assert seen[-1].num_searches == 1
    assert found.rows.tolist() == plain.nearest(queries, 10, None).rows.tolist()


def test_filtered_searches_and_very_many_results_stay_on_the_processor(gpu: GpuSearch) -> None:
    placed = rows(5000).in_graph(1, gpu)
    mask = np.arange(5000) % 3 == 0
    assert (placed.nearest(vectors(1, seed=1), 5, mask).rows % 3 == 0).all()
    assert placed.nearest(vectors(1, seed=1), MAX_K + 1, None).rows.shape == (1, MAX_K + 1)
    assert seen[-1].num_searches == 0


def test_rows_that_come_later_are_searched_beside_and_then_taken_in(gpu: GpuSearch) -> None:
    placed = rows(500).in_graph(1, gpu)
    late = vectors(3, seed=9)
    grown = placed.with_added(late)
    assert grown.nearest(late, 1, None).rows.ravel().tolist() == [500, 501, 502]
    again = grown.in_graph(1, gpu)
    assert again.nearest(late, 1, None).rows.ravel().tolist() == [500, 501, 502]
    assert len(seen) == 2


def test_a_graph_without_its_copy_gets_one_and_is_not_built_anew(
    gpu: GpuSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MIN_GRAPH", 100)
    made = new_table(0, DIM)
    made = tables.replace(made, vectors=rows(500).in_graph(1))
    assert made.is_off_gpu()
    refitted = made.refitted(1, gpu)
    assert not refitted.is_off_gpu()
    assert refitted.vectors.graph is not None
    assert made.vectors.graph is not None
    assert refitted.vectors.graph.index is made.vectors.graph.index


def test_a_graph_stays_where_the_gpu_has_no_room_and_the_copy_is_tried_again_later(
    gpu: GpuSearch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else it would be built anew every minute, for minutes."""

    def full(*_: object) -> None:
        raise RuntimeError("Error: 'err == cudaSuccess' failed: cudaMalloc error out of memory [2]")

    now = [1000.0]
    monkeypatch.setattr(gpu_search, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", full)
    made = rows(500).in_graph(1, gpu)
    assert made.graph is not None
    assert made.graph.on_gpu is None
    assert made.nearest(vectors(3, seed=1), 10, None).rows.shape == (3, 10)
    assert "out of memory" in caplog.text
    table = tables.replace(new_table(0, DIM), vectors=made)
    assert table.is_off_gpu()
    assert not _is_due(table, gpu)
    now[0] += RETRY_S
    assert _is_due(table, gpu)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", OnGpu)
    later = made.in_graph(1, gpu)
    assert later.graph is not None
    assert later.graph.index is made.graph.index
    assert later.graph.on_gpu is not None


def test_a_search_that_the_gpu_cannot_do_is_done_on_the_processor(
    gpu: GpuSearch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    placed = rows(500).in_graph(1, gpu)
    queries = vectors(7, seed=1)

    def full(*_: object) -> None:
        raise RuntimeError("StandardGpuResources: alloc fail type TemporaryMemoryOverflow")

    monkeypatch.setattr(seen[-1], "search", full)
    expected = rows(500).nearest(queries, 10, None).rows
    assert placed.nearest(queries, 10, None).rows.tolist() == expected.tolist()
    assert "TemporaryMemoryOverflow" in caplog.text


def test_a_faiss_without_gpus_is_said_with_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(faiss, "StandardGpuResources"):
        monkeypatch.delattr(faiss, "StandardGpuResources")
    with pytest.raises(SettingsError, match=r"TIDEGATE_SEARCH_DEVICE=gpu: this FAISS was built without GPUs"):
        GpuSearch()


def test_a_machine_without_a_gpu_is_said_too(gpu: GpuSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(SettingsError, match=r"FAISS sees no GPU"):
        GpuSearch()
