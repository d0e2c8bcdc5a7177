"""Follower and store against milvus-lite over its port: crashes, restores, outages, and readers while files change."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from gateway.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from gateway.retrieval import milvus_follower
from gateway.retrieval.milvus_client import BUILDING, LIVE, STATE_TABLE, Milvus
from gateway.retrieval.milvus_follower import MilvusFollower
from gateway.retrieval.milvus_store import MilvusStore
from gateway.storage import schema
from gateway.storage.database import Database
from tests.fakes.corpus import add_file, new_collection, remove_file
from tests.fakes.vector_stores import MilvusLite, MilvusStand, find, texts, unit


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusLite]:
    server = MilvusLite(tmp_path_factory.mktemp("milvus") / "data")
    yield server
    server.stop()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def stand(database: Database, lite: MilvusLite) -> Iterator[MilvusStand]:
    stand = MilvusStand(database, lite.uri)
    stand.empty()
    yield stand
    stand.close()


class Crash(Exception):
    """Stands for kill -9 between two calls of Milvus."""


class CrashingMilvus(Milvus):
    """Dies at the n-th write."""

    def __init__(self, uri: str, num_writes: int) -> None:
        super().__init__(uri, "", timeout_s=20)
        self._left = num_writes

    def _write(self, method: str, *args: Any, **options: Any) -> Any:
        if self._left == 0:
            raise Crash
        self._left -= 1
        return super()._write(method, *args, **options)


def one(text: str, database: Database, docs: str, **options: Any) -> str:
    return add_file(database, "t1", docs, [text], np.stack([unit(1)]), **options)


def test_a_crash_at_any_write_is_made_good_by_the_next_follower_and_never_shows(
    stand: MilvusStand, lite: MilvusLite
) -> None:
    docs = new_collection(stand.database, "t1")
    old = one("Old.", stand.database, docs)
    other = one("Other.", stand.database, docs)
    stand.settle()
    one("New.", stand.database, docs, replaces=old)
    remove_file(stand.database, "t1", docs, other)
    for num_writes in itertools.count():
        milvus = CrashingMilvus(lite.uri, num_writes)
        follower = MilvusFollower(stand.database, milvus, grace_s=0)
        try:
            follower.catch_up()
            follower.purge()
        except Crash:
            stand.store.refresh()
            seen = sorted(texts(find(stand.store, "t1", unit(1))))
            assert seen in (["Old.", "Other."], ["New."]), num_writes
        else:
            break
        finally:
            milvus.close()
    assert num_writes == 3  # died before the rows, before the state, before the deletion
    stand.store.refresh()
    assert texts(find(stand.store, "t1", unit(1))) == ["New."]
    assert stand.store.num_chunks == 1


def test_readers_see_the_old_file_or_the_new_one_never_both_or_neither(stand: MilvusStand) -> None:
    docs = new_collection(stand.database, "t1")
    current = one("Version 0.", stand.database, docs)
    stand.settle()
    over, seen, wrong = threading.Event(), set(), []

    def follow() -> None:
        while not over.is_set():
            stand.follower.poll()

    stand.follower._grace_s = 2.0
    store = MilvusStore(stand.database, Milvus(stand.uri, "", timeout_s=20), max_view_s=1.8)

    def look() -> None:
        while not over.is_set():
            store.poll()
            for ranking in ("dense", "hybrid"):
                try:
                    found = texts(find(store, "t1", unit(1), "version", ranking=ranking))
                except UpstreamTimeout:  # a busy machine: it took longer than rows are kept
                    continue
                seen.update(found)
                if len(found) != 1:
                    wrong.append(found)

    threads = [threading.Thread(target=follow), *(threading.Thread(target=look) for _ in range(2))]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 13):
            current = one(f"Version {number}.", stand.database, docs, replaces=current)
            wait_until(lambda number=number: f"Version {number}." in seen, 60)
            # So that some are written after others were deleted.
            wait_until(lambda number=number: stand.milvus.states()[LIVE].purged >= number - 6, 60)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    store.close()
    assert wrong == []
    assert len(seen) == 13


def test_a_removal_shows_within_a_second_through_the_threads_that_serve(
    stand: MilvusStand, lite: MilvusLite
) -> None:
    docs = new_collection(stand.database, "t1")
    file_id = one("Gone soon.", stand.database, docs)
    stand.settle()
    over = threading.Event()

    def follow() -> None:
        while not over.wait(milvus_follower.POLL_S):
            stand.follower.poll()

    follower = threading.Thread(target=follow)
    follower.start()
    store = MilvusStore(stand.database, Milvus(lite.uri, "", timeout_s=20))
    store.start(10)
    assert len(find(store, "t1", unit(1))) == 1
    remove_file(stand.database, "t1", docs, file_id)
    started = time.monotonic()
    wait_until(lambda: find(store, "t1", unit(1)) == [])
    assert time.monotonic() - started < 1.0
    over.set()
    follower.join()
    store.close()


def test_what_was_removed_is_deleted_after_the_grace_and_not_before(
    database: Database, lite: MilvusLite, stand: MilvusStand
) -> None:
    now = [0.0]
    follower = MilvusFollower(database, stand.milvus, grace_s=10, clock=lambda: now[0])
    docs = new_collection(database, "t1")
    file_id = one("Gone.", database, docs)
    follower.catch_up()
    remove_file(database, "t1", docs, file_id)
    follower.catch_up()
    now[0] = 9.9
    follower.purge()
    stand.store.refresh()
    assert (stand.store.num_chunks, find(stand.store, "t1", unit(1))) == (1, [])
    now[0] = 10.0
    follower.purge()
    assert (stand.store.num_chunks, find(stand.store, "t1", unit(1))) == (0, [])
    assert stand.milvus.states()[LIVE].purged == 2


def test_more_removals_than_go_at_once_are_deleted_in_several_rounds(
    stand: MilvusStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_follower, "MAX_REMOVALS", 2)
    docs = new_collection(stand.database, "t1")
    files = [one(f"Text {number}.", stand.database, docs) for number in range(5)]
    stand.settle()
    for each in files:
        remove_file(stand.database, "t1", docs, each)
    stand.settle()
    for _ in range(5):
        stand.purge()
    assert stand.store.num_chunks == 0
    assert stand.milvus.states()[LIVE].purged == 10


def test_a_rebuild_keeps_the_old_tables_until_the_new_ones_are_complete(stand: MilvusStand) -> None:
    docs = new_collection(stand.database, "t1")
    for number in range(3):
        one(f"Text {number}.", stand.database, docs)
    stand.settle()
    old_tables = stand.milvus.table_names()
    with stand.database.write() as conn:
        conn.execute(sa.delete(schema.chunks).where(schema.chunks.c.epoch == 3))
        conn.execute(sa.update(schema.corpus_clock).values(epoch=2))
    assert len(find(stand.store, "t1", unit(1))) == 3
    stand.settle()
    assert len(find(stand.store, "t1", unit(1))) == 2
    states = stand.milvus.states()
    assert BUILDING not in states
    assert states[LIVE].generation == 2
    stand.purge()
    assert not set(old_tables) & set(stand.milvus.table_names())


def test_a_table_that_somebody_dropped_is_built_again(stand: MilvusStand) -> None:
    docs = new_collection(stand.database, "t1")
    one("First.", stand.database, docs)
    stand.settle()
    for name in stand.milvus.table_names():
        stand.milvus.drop_table(name)
    with pytest.raises(UpstreamUnavailable):
        find(stand.store, "t1", unit(1))
    one("Second.", stand.database, docs)
    stand.settle()
    assert sorted(texts(find(stand.store, "t1", unit(1)))) == ["First.", "Second."]


def test_a_state_that_somebody_dropped_is_written_again(stand: MilvusStand) -> None:
    docs = new_collection(stand.database, "t1")
    one("First.", stand.database, docs)
    stand.settle()
    stand.milvus.drop_table(STATE_TABLE)
    stand.follower.forget()
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1))) == ["First."]


def test_searches_say_that_nothing_was_written_yet(stand: MilvusStand) -> None:
    stand.milvus.drop_table(STATE_TABLE)
    assert stand.store.poll() is False
    with pytest.raises(UpstreamUnavailable) as refused:
        find(stand.store, "t1", unit(1))
    assert refused.value.code == "vector_store_unavailable"
    assert (stand.store.epoch, stand.store.num_chunks) == (0, 0)


def test_a_state_older_than_the_grace_is_not_searched_by(database: Database, stand: MilvusStand) -> None:
    now = [0.0]
    stand.settle()
    store = MilvusStore(database, stand.milvus, clock=lambda: now[0])
    store.refresh()
    now[0] = 5.0
    assert find(store, "t1", unit(1)) == []
    now[0] = 5.1
    with pytest.raises(UpstreamUnavailable):
        find(store, "t1", unit(1))
    store.refresh()
    assert find(store, "t1", unit(1)) == []


def test_an_outage_fails_searches_at_once_and_ends_by_itself(
    stand: MilvusStand, lite: MilvusLite, caplog: pytest.LogCaptureFixture
) -> None:
    docs = new_collection(stand.database, "t1")
    one("Before.", stand.database, docs)
    stand.settle()
    lite.stop()
    try:
        started = time.monotonic()
        with pytest.raises(UpstreamError) as first:
            find(stand.store, "t1", unit(1), "before")
        with pytest.raises(UpstreamUnavailable):
            find(stand.store, "t1", unit(1), "before")
        assert time.monotonic() - started < 3
        assert first.value.code.startswith("vector_store_")
        one("During.", stand.database, docs)
        assert [stand.follower.poll(), stand.follower.poll()] == [False, False]
        assert [stand.store.poll(), stand.store.poll()] == [False, False]
        said = [record.message for record in caplog.records if record.name.startswith("gateway")]
        assert (
            len([line for line in said if "Milvus" in line]) == 2
        )  # the store's one line and the follower's
    finally:
        lite.start()
    wait_until(lambda: stand.follower.poll() and stand.store.poll())
    assert sorted(texts(find(stand.store, "t1", unit(1)))) == ["Before.", "During."]


def test_a_follower_that_starts_before_milvus_waits_for_it(stand: MilvusStand, lite: MilvusLite) -> None:
    docs = new_collection(stand.database, "t1")
    one("Text.", stand.database, docs)
    lite.stop()
    try:
        milvus = Milvus(lite.uri, "", timeout_s=1)
        follower = MilvusFollower(stand.database, milvus)
        assert follower.poll() is False
    finally:
        lite.start()
    wait_until(follower.poll)
    assert milvus.states()[LIVE].epoch == 1
    milvus.close()


def test_a_server_that_dies_with_its_data_is_filled_again(database: Database, tmp_path: Path) -> None:
    server = MilvusLite(tmp_path / "first")
    stand = MilvusStand(database, server.uri)
    docs = new_collection(database, "t1")
    one("Text.", database, docs)
    stand.settle()
    server.stop()
    assert stand.follower.poll() is False
    fresh = MilvusLite(tmp_path / "second", port=server.port)
    wait_until(lambda: stand.follower.poll() and stand.store.poll())
    assert texts(find(stand.store, "t1", unit(1))) == ["Text."]
    stand.close()
    fresh.stop()


def test_a_file_opened_by_milvus_lite_itself_serves_one_process(database: Database, tmp_path: Path) -> None:
    stand = MilvusStand(database, str(tmp_path / "own.db"))
    one("Text.", database, new_collection(database, "t1"))
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1))) == ["Text."]
    stand.close()


def test_large_files_are_written_in_several_calls(
    stand: MilvusStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_follower, "BATCH_ROWS", 3)
    monkeypatch.setattr(milvus_follower, "PAGE_CHUNKS", 4)
    docs = new_collection(stand.database, "t1")
    held = [f"Part {chr(97 + number) * (number + 1)}. " for number in range(10)]
    add_file(stand.database, "t1", docs, held, np.stack([unit(1, 0.1 * number) for number in range(10)]))
    one("Another file.", stand.database, docs)
    stand.settle()
    assert stand.store.num_chunks == 11


def test_a_text_longer_than_a_field_is_cut_at_a_whole_character(stand: MilvusStand) -> None:
    docs = new_collection(stand.database, "t1")
    one("é" * 40_000, stand.database, docs)
    stand.settle()
    (found,) = find(stand.store, "t1", unit(1))
    assert found.text == "é" * 32_767
    assert found.end - found.start == 32_767


def wait_until(is_so: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
