"""Readers between two steps: while milvus-lite flushes, after a deletion, in a search that takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.engine import collection as lite_collection
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from gateway.errors import UpstreamTimeout
from gateway.retrieval.milvus_client import LIVE, Milvus
from gateway.retrieval.milvus_store import MAX_VIEW_S, MilvusStore
from gateway.storage.database import Database
from gateway.types import Scope
from tests.fakes.corpus import add_file, new_collection, remove_file
from tests.fakes.vector_stores import MilvusLite, MilvusStand, find, texts, unit

Serve = Callable[[type[MilvusServicer]], MilvusStand]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    made: list[tuple[MilvusLite, MilvusStand]] = []

    def make(servicer: type[MilvusServicer]) -> MilvusStand:
        database = Database(f"sqlite:///{tmp_path / 'test.db'}")
        database.migrate()
        server = MilvusLite(tmp_path / "data", servicer=servicer)
        made.append((server, MilvusStand(database, server.uri)))
        return made[-1][1]

    yield make
    for server, stand in made:
        stand.close()
        server.stop()


class Clocked(MilvusServicer):
    """Tells a clock, one later each time, and remembers what time it was when rows were deleted."""

    now = 1000
    deleted = 0

    def AllocTimestamp(self, request: Any, context: Any) -> Any:
        type(self).now += 1
        return milvus_pb2.AllocTimestampResponse(status=common_pb2.Status(code=0), timestamp=self.now)

    def Delete(self, request: Any, context: Any) -> Any:
        type(self).deleted = self.now
        return super().Delete(request, context)


def one(text: str, stand: MilvusStand, docs: str, **options: Any) -> str:
    return add_file(stand.database, "t1", docs, [text], np.stack([unit(1)]), **options)


def test_a_flush_of_milvus_lite_brings_no_deleted_row_back_and_hides_none(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = serve(MilvusServicer)
    docs = new_collection(stand.database, "t1")
    old = one("Old version.", stand, docs)
    stand.settle()
    (table,) = stand.milvus.table_names()
    stand.milvus.seal(table)
    one("New version.", stand, docs, replaces=old)
    seen: list[list[str]] = []
    new_log = lite_collection.WAL

    def looked_at(**options: Any) -> Any:
        """Made in the middle of a flush: what was in memory is out of it, and not yet on disk."""
        stand.store.refresh()
        for ranking in ("dense", "lexical"):
            seen.append(texts(find(stand.store, "t1", unit(1), "version", ranking=ranking)))
        return new_log(**options)

    monkeypatch.setattr(lite_collection, "WAL", looked_at)
    stand.settle()
    stand.purge()
    one("Something else.", stand, docs)
    stand.follower.catch_up()
    stand.milvus.seal(table)
    assert [each for each in seen if len(each) != 1] == []
    assert seen == [["Old version."]] * 2 + [["New version."]] * 4
    stand.store.refresh()
    assert sorted(texts(find(stand.store, "t1", unit(1)))) == ["New version.", "Something else."]


def test_who_leaves_it_to_milvus_to_hide_deleted_rows_asks_for_the_moment_after_the_deletion(
    serve: Serve,
) -> None:
    stand = serve(Clocked)
    docs = new_collection(stand.database, "t1")
    file_id = one("Gone.", stand, docs)
    stand.settle()
    remove_file(stand.database, "t1", docs, file_id)
    stand.settle()
    before = stand.milvus.states()[LIVE]
    stand.purge()
    after = stand.milvus.states()[LIVE]
    assert (before.purged, after.purged) == (0, 2)
    assert before.timestamp <= Clocked.deleted < after.timestamp


def test_a_search_that_takes_longer_than_what_it_shows_is_kept_gives_no_answer(serve: Serve) -> None:
    stand = serve(MilvusServicer)
    docs = new_collection(stand.database, "t1")
    one("Text.", stand, docs)
    stand.settle()
    now, took = [0.0], [MAX_VIEW_S]

    class Slow(Milvus):
        def _on_table(self, method: str, *args: Any, **options: Any) -> Any:
            found = super()._on_table(method, *args, **options)
            now[0] += took[0]
            return found

    slow = Slow(stand.uri, "", timeout_s=20)
    store = MilvusStore(stand.database, slow, clock=lambda: now[0])

    def looked(look: Callable[[], object], took_s: float) -> object:
        took[0] = 0.0
        store.refresh()
        took[0] = took_s
        return look()

    def ask() -> list[str]:
        return texts(find(store, "t1", unit(1)))

    def others() -> list[str]:
        return store.embedders(Scope(tenant_id="t1", embedder="small"))

    for look in (ask, others):
        assert looked(look, MAX_VIEW_S) != []
        with pytest.raises(UpstreamTimeout) as late:
            looked(look, MAX_VIEW_S + 0.1)
        assert late.value.code == "vector_store_timeout"
    store.close()
