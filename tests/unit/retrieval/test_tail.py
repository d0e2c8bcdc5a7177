"""CorpusTail over a real SQLite file."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import UpstreamUnavailable
from gateway.ports import SearchRequest
from gateway.retrieval import tail as tail_module
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.tail import CorpusTail
from gateway.storage.database import Database
from gateway.types import Scope
from tests.fakes import corpus

DIM = 8
VECTORS = np.eye(DIM, dtype=np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tidegate.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{path}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def index() -> CorpusIndex:
    return CorpusIndex()


@pytest.fixture
def tail(database: Database, index: CorpusIndex) -> CorpusTail:
    return CorpusTail(database, index)


def texts_in(index: CorpusIndex, tenant_id: str = "t") -> set[str]:
    scope = Scope(tenant_id=tenant_id, k=64, ranking="dense")
    (answer,) = index.search([SearchRequest(VECTORS[0], "", scope)])
    assert isinstance(answer, bytes)
    return {passage["text"] for passage in json.loads(answer)}


def test_empty_database_is_caught_up_at_once(tail: CorpusTail, index: CorpusIndex) -> None:
    assert tail.catch_up() == 0
    assert texts_in(index) == set()


def test_files_come_and_go_with_their_epochs(
    database: Database, tail: CorpusTail, index: CorpusIndex
) -> None:
    first, second = corpus.new_collection(database, "t"), corpus.new_collection(database, "t", "more")
    gone = corpus.add_file(database, "t", first, ["a", "b"], VECTORS[:2])
    corpus.add_file(database, "t", first, ["c"], VECTORS[2:3])
    corpus.add_file(database, "t", second, ["d"], VECTORS[3:4])
    tail.catch_up()
    assert texts_in(index) == {"a", "b", "c", "d"}
    corpus.remove_file(database, "t", first, gone)
    tail.catch_up()
    assert texts_in(index) == {"c", "d"}
    corpus.remove_collection(database, "t", second)
    tail.catch_up()
    assert texts_in(index) == {"c"}


def test_late_starter_ends_where_a_follower_ends(
    database: Database, tail: CorpusTail, index: CorpusIndex
) -> None:
    collection = corpus.new_collection(database, "t")
    for number in range(6):
        file_id = corpus.add_file(database, "t", collection, [f"text {number}"], VECTORS[:1])
        if number % 2:
            corpus.remove_file(database, "t", collection, file_id)
        tail.catch_up()
    late = CorpusIndex()
    CorpusTail(database, late).catch_up()
    assert texts_in(late) == texts_in(index) == {"text 0", "text 2", "text 4"}
    assert late.epoch == index.epoch


def test_long_history_is_read_in_pages(
    database: Database, tail: CorpusTail, index: CorpusIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "PAGE_CHUNKS", 2)
    collection = corpus.new_collection(database, "t")
    for number in range(7):
        corpus.add_file(database, "t", collection, [f"{number}a", f"{number}b", f"{number}c"], VECTORS[:3])
    tail.catch_up()
    assert index.num_chunks == 21
    assert index.epoch == 7


def test_outage_keeps_the_last_generation_and_is_logged_once(
    database: Database,
    tail: CorpusTail,
    index: CorpusIndex,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    collection = corpus.new_collection(database, "t")
    corpus.add_file(database, "t", collection, ["a"], VECTORS[:1])
    assert tail.poll()
    database.close()
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    path.mkdir()  # something that no retry can open as a database
    assert [tail.poll() for _ in range(3)] == [False] * 3
    assert texts_in(index) == {"a"}
    path.rmdir()
    hidden.rename(path)
    corpus.add_file(database, "t", collection, ["b"], VECTORS[1:2])
    assert tail.poll()
    assert texts_in(index) == {"a", "b"}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_unusable_vectors_are_left_out_and_logged(
    database: Database, tail: CorpusTail, index: CorpusIndex, caplog: pytest.LogCaptureFixture
) -> None:
    collection = corpus.new_collection(database, "t")
    corpus.add_file(
        database, "t", collection, ["good", "bad"], np.stack([VECTORS[0], np.zeros(DIM, np.float32)])
    )
    tail.catch_up()
    assert texts_in(index) == {"good"}
    assert "1 chunks" in caplog.text


def test_clock_that_went_back_rebuilds_the_index(
    database: Database, tail: CorpusTail, tmp_path: Path
) -> None:
    index = CorpusIndex()
    collection = corpus.new_collection(database, "t")
    for text in ("a", "b", "c"):
        corpus.add_file(database, "t", collection, [text], VECTORS[:1])
    CorpusTail(database, index).catch_up()
    restored = Database(f"sqlite:///{tmp_path / 'restored.db'}")
    restored.migrate()
    corpus.add_file(restored, "t", corpus.new_collection(restored, "t"), ["restored"], VECTORS[:1])
    assert CorpusTail(restored, index).catch_up() == 1
    restored.close()
    assert texts_in(index) == {"restored"}


def test_waiting_for_a_database_that_never_comes_ends_with_its_error(
    tmp_path: Path, index: CorpusIndex
) -> None:
    tail = CorpusTail(Database(f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}"), index)
    with pytest.raises(UpstreamUnavailable):
        tail.wait_for_database(0.0)


def test_thread_makes_new_files_searchable_and_stops(
    database: Database, tail: CorpusTail, index: CorpusIndex
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=tail.run, args=(stop,))
    thread.start()
    collection = corpus.new_collection(database, "t")
    for number in range(3):
        corpus.add_file(database, "t", collection, [f"text {number}"], VECTORS[:1])
        assert tail.sync(5.0)
        assert f"text {number}" in texts_in(index)
    stop.set()
    thread.join(5.0)
    assert not thread.is_alive()


def test_sync_gives_up_in_time_when_nobody_follows(database: Database, tail: CorpusTail) -> None:
    corpus.add_file(database, "t", corpus.new_collection(database, "t"), ["a"], VECTORS[:1])
    assert not tail.sync(0.01)
