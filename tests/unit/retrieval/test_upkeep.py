"""Graphs over large tables and the copying of live rows, with small numbers for what is large."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from gateway.filters import Filter
from gateway.retrieval import table
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.table import Table
from gateway.storage.changes import RemovalRow, Tail
from tests.unit.retrieval.chunks import DIM, ask, attributes, axis, chunk, found, removal


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MIN_GRAPH", 200)
    monkeypatch.setattr(table, "MAX_LATE", 50)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def large(count: int = 400) -> CorpusIndex:
    """File f0, f1, ... of ten chunks each, with their number as an attribute."""
    index = CorpusIndex()
    rows = [chunk(n + 1, vector, file=f"f{n // 10}") for n, vector in enumerate(vectors(count))]
    files = [attributes(1, f"f{n}", {"number": n}) for n in range(count // 10)]
    index.apply(Tail(1, rows, [], False, files))
    return index


def the_table(index: CorpusIndex) -> Table:
    return index._generation.tenants["t"]["c"].tables["all-MiniLM-L6-v2"]


def exact(index: CorpusIndex, query: np.ndarray, k: int = 10) -> list[int]:
    held = the_table(index)
    rows = np.flatnonzero(~held.is_dead(held.count))
    scores = held.vectors.taken(rows) @ query
    return held.columns.chunk[rows[np.argsort(-scores, kind="stable")[:k]]].tolist()


def assert_finds_all(index: CorpusIndex) -> None:
    for query in vectors(20, seed=1):
        assert found(index, query, k=10) == exact(index, query)


def test_small_table_has_no_graph() -> None:
    index = large(190)
    assert not index.refit(1)
    assert the_table(index).vectors.graph is None


def test_large_table_gets_a_graph_and_finds_what_it_found() -> None:
    index = large()
    assert_finds_all(index)
    assert index.refit(1)
    assert the_table(index).vectors.num_in_graph == 400
    assert_finds_all(index)
    assert not index.refit(1)


def test_chunks_that_come_after_the_graph_are_found_beside_it() -> None:
    index = large()
    index.refit(1)
    late = [chunk(1000 + n, vector, file="late", epoch=2) for n, vector in enumerate(vectors(30, seed=2))]
    index.apply(Tail(2, late, [], False))
    assert the_table(index).vectors.num_in_graph == 400
    assert_finds_all(index)
    assert not index.refit(1)


def test_graph_takes_late_chunks_in_when_they_are_many() -> None:
    index = large()
    index.refit(1)
    late = [chunk(1000 + n, vector, file="late", epoch=2) for n, vector in enumerate(vectors(60, seed=2))]
    index.apply(Tail(2, late, [], False))
    assert index.refit(1)
    assert the_table(index).vectors.num_in_graph == 460
    assert_finds_all(index)


def test_removed_chunks_are_not_found_in_the_graph() -> None:
    index = large()
    index.refit(1)
    index.apply(removal(2, "f3"))
    assert_finds_all(index)
    for query in the_table(index).vectors.taken(np.arange(30, 40)):
        assert not {31, 32, 33, 34, 35, 36, 37, 38, 39, 40} & set(found(index, query, k=64))


def test_table_of_many_dead_rows_is_copied_without_them() -> None:
    index = large()
    index.refit(1)
    index.apply(Tail(2, [], [RemovalRow(2, "t", "c", f"f{n}") for n in range(10)], False))
    assert the_table(index).count == 400
    assert index.refit(1)
    held = the_table(index)
    assert (held.count, held.num_dead, held.vectors.num_in_graph) == (300, 0, 300)
    assert_finds_all(index)
    assert found(index, axis(0), "5", ranking="lexical") == []
    assert found(index, axis(0), "205", ranking="lexical") == [205]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5], ids=["few", "some", "half"])
def test_filter_finds_all_that_it_allows(share: float) -> None:
    index = large()
    index.refit(1)
    limit = int(40 * share) or 1
    passes = Filter(type="lt", key="number", value=limit)
    allowed = set(range(1, 10 * limit + 1))
    for query in vectors(20, seed=1):
        expected = [one for one in exact(index, query, 400) if one in allowed][:10]
        assert found(index, query, filters=passes, k=10) == expected
        assert {p.chunk_id for p in ask(index, query, "chunk", ranking="hybrid", filters=passes)} <= allowed


class Held(threading.Event):
    """Stands for a long build: it is under way when `begun`, and ends when this is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    build, held = Table.refitted, Held()

    def slow(self: Table, num_threads: int, gpu: None = None) -> Table:
        refitted = build(self, num_threads, gpu)
        held.begun.set()
        assert held.wait(10)
        return refitted

    monkeypatch.setattr(Table, "refitted", slow)
    return held


def during_refit(index: CorpusIndex, held: Held, *tails: Tail) -> None:
    builder = threading.Thread(target=index.refit, args=(1,))
    builder.start()
    assert held.begun.wait(10)
    for tail in tails:
        index.apply(tail)
    held.set()
    builder.join()


def test_changes_during_the_build_are_kept(held: Held) -> None:
    index = large()
    new = [chunk(1000 + n, vector, file="new", epoch=3) for n, vector in enumerate(vectors(5, seed=3))]
    moved = [chunk(7, axis(2), file="f0", text="moved", epoch=4)]
    during_refit(index, held, removal(2, "f9"), Tail(3, new, [], False), Tail(4, moved, [], False))
    held_table = the_table(index)
    assert held_table.vectors.num_in_graph == 400
    assert held_table.num_live == 400 - 10 + 5
    assert ask(index, axis(2), k=1)[0].text == "moved"
    assert_finds_all(index)


def test_changes_while_live_rows_are_copied_are_kept(held: Held) -> None:
    index = large()
    index.apply(Tail(2, [], [RemovalRow(2, "t", "c", f"f{n}") for n in range(10)], False))
    new = [chunk(1000 + n, vector, file="new", epoch=4) for n, vector in enumerate(vectors(5, seed=3))]
    moved = [chunk(201, axis(2), file="f20", text="moved", epoch=5)]
    during_refit(index, held, removal(3, "f30"), Tail(4, new, [], False), Tail(5, moved, [], False))
    assert the_table(index).num_live == 300 - 10 + 5
    assert ask(index, axis(2), k=1)[0].text == "moved"
    assert_finds_all(index)


def test_table_that_was_emptied_during_the_build_stays_empty(held: Held) -> None:
    index = large()
    again = [chunk(2000, axis(1), file="again", epoch=3)]
    during_refit(index, held, removal(2), Tail(3, again, [], False))
    assert found(index, axis(1)) == [2000]
    assert index.num_chunks == 1
