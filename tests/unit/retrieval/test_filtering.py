"""Metadata filters of a search: attributes by file, their updates, and filters that let hardly anything pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import UpstreamUnavailable
from gateway.filters import Filter
from gateway.ports import SearchRequest
from gateway.retrieval import files, query
from gateway.retrieval.index import CorpusIndex
from gateway.storage.changes import RemovalRow, Tail
from gateway.types import Scope
from tests.unit.retrieval.chunks import DIM, ask, attributes, axis, chunk, found, removal

NEW = Filter(type="gte", key="year", value=2020)


def dated(*years: int) -> CorpusIndex:
    """File f0, f1, ... of two chunks each."""
    rng, index = np.random.default_rng(0), CorpusIndex()
    rows = [
        chunk(2 * n + m + 1, rng.standard_normal(DIM), file=f"f{n}")
        for n in range(len(years))
        for m in (0, 1)
    ]
    index.apply(Tail(1, rows, [], False, [attributes(1, f"f{n}", {"year": y}) for n, y in enumerate(years)]))
    return index


def both(index: CorpusIndex, given: Filter) -> set[int]:
    """What is found by vectors and what is found by words, which must be the same."""
    dense = set(found(index, axis(0), filters=given, k=64))
    assert set(found(index, axis(0), "chunk", filters=given, k=64, ranking="lexical")) == dense
    assert set(found(index, axis(0), "chunk", filters=given, k=64, ranking="hybrid")) == dense
    return dense


def test_only_files_that_pass_are_found() -> None:
    assert both(dated(2019, 2020, 2021), NEW) == {3, 4, 5, 6}


def test_filter_that_nothing_passes_finds_nothing() -> None:
    assert both(dated(2019, 2018), NEW) == set()


def test_changed_attributes_apply_without_new_chunks() -> None:
    index = dated(2019, 2020)
    assert both(index, NEW) == {3, 4}
    index.apply(Tail(2, [], [], False, [attributes(2, "f0", {"year": 2024}), attributes(2, "f1", {})]))
    assert both(index, NEW) == {1, 2}
    assert index.epoch == 2


def test_older_attributes_do_not_come_back() -> None:
    index = dated(2019)
    index.apply(Tail(5, [], [], False, [attributes(5, "f0", {"year": 2024})]))
    index.apply(Tail(6, [], [], False, [attributes(3, "f0", {"year": 1999})]))
    assert both(index, NEW) == {1, 2}


def test_attributes_of_other_collections_and_tenants_do_not_count() -> None:
    index = dated(2019)
    other = [attributes(2, "f0", {"year": 2024}, collection="d")]
    index.apply(Tail(2, [chunk(50, axis(0), collection="d", file="f0", epoch=2)], [], False, other))
    assert both(index, NEW) == {50}


def test_file_without_attributes_passes_only_what_the_missing_pass() -> None:
    index = dated(2019)
    index.apply(Tail(2, [chunk(9, axis(0), file="plain", epoch=2)], [], False))
    assert both(index, NEW) == set()
    assert both(index, Filter(type="ne", key="year", value=2019)) == {9}


def test_attributes_survive_a_replacement_in_the_same_epoch() -> None:
    index = dated(2021)
    row = chunk(9, axis(0), file="f0", text="chunk anew", epoch=2)
    index.apply(Tail(2, [row], [RemovalRow(2, "t", "c", "f0")], False, [attributes(2, "f0", {"year": 2022})]))
    assert both(index, NEW) == {9}


def test_removed_file_is_not_found_under_a_filter_that_was_asked_before() -> None:
    index = dated(2020, 2021)
    assert both(index, NEW) == {1, 2, 3, 4}
    index.apply(removal(2, "f0"))
    assert both(index, NEW) == {3, 4}


def test_many_different_filters_are_each_answered_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILTERS_KEPT", 2)
    index = dated(*range(2000, 2010))
    for _ in range(2):
        for number, year in enumerate(range(2000, 2010)):
            assert both(index, Filter(type="eq", key="year", value=year)) == {2 * number + 1, 2 * number + 2}


def test_filter_over_more_files_than_a_lexical_query_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MAX_FILES_NAMED", 3)
    monkeypatch.setattr(query, "OVERFETCH", 0)
    monkeypatch.setattr(query, "NUM_CANDIDATES", 1)
    index = dated(*[2000 + n for n in range(40)])
    last = Filter(type="gte", key="year", value=2035)
    assert set(found(index, axis(0), "chunk", filters=last, k=1, ranking="lexical")) <= set(range(71, 81))
    assert found(index, axis(0), "chunk", filters=last, k=1, ranking="lexical") != []


def test_batch_with_different_filters_gives_each_its_own() -> None:

    index = dated(2019, 2020)
    scopes = [Scope(tenant_id="t", filters=given) for given in (NEW, None, NEW)]
    answers = index.search([SearchRequest(axis(0), "chunk", scope) for scope in scopes])
    assert answers[0] == answers[2] != answers[1]


def test_words_that_the_disk_does_not_take_leave_the_old_generation(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    index = CorpusIndex(folder)
    index.apply(Tail(1, [chunk(1, axis(0))], [], False))
    shutil.rmtree(folder)
    with pytest.raises(UpstreamUnavailable, match="away"):
        index.apply(Tail(2, [chunk(2, axis(0), epoch=2)], [RemovalRow(2, "t", "c", "f")], False))
    assert (index.epoch, index.num_chunks) == (1, 1)
    assert ask(index, axis(0))[0].chunk_id == 1
