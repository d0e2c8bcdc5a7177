"""Servers that differ: one with a clock, one without full text search, one that hangs, one that asks for a token."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from gateway.errors import UpstreamTimeout, UpstreamUnavailable
from gateway.retrieval.milvus_client import LIVE, Milvus
from gateway.retrieval.milvus_store import MilvusStore
from gateway.storage import schema
from gateway.storage.database import Database
from gateway.storage.epochs import next_epoch
from gateway.types import Scope
from tests.fakes.corpus import add_file, new_collection
from tests.fakes.vector_stores import MilvusLite, MilvusStand, find, texts, unit

Serve = Callable[[type[MilvusServicer]], MilvusStand]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A stand over a server with one text for tenant t1."""
    made: list[tuple[MilvusLite, MilvusStand]] = []

    def make(servicer: type[MilvusServicer]) -> MilvusStand:
        database = Database(f"sqlite:///{tmp_path / 'test.db'}")
        database.migrate()
        docs = new_collection(database, "t1")
        held = ["Herons nest in reeds. ", "Otters eat fish."]
        add_file(database, "t1", docs, held, np.stack([unit(1, 1), unit(1, 1.1)]))
        server = MilvusLite(tmp_path / "data", servicer=servicer)
        made.append((server, MilvusStand(database, server.uri)))
        return made[-1][1]

    yield make
    for server, stand in made:
        stand.close()
        server.stop()


def test_searches_wait_for_the_moment_that_the_state_names_and_the_state_for_all_writes(serve: Serve) -> None:
    asked: list[tuple[str, int]] = []

    class Clocked(MilvusServicer):
        now = 1000

        def AllocTimestamp(self, request: Any, context: Any) -> Any:
            type(self).now += 1
            return milvus_pb2.AllocTimestampResponse(
                status=common_pb2.Status(code=0), timestamp=type(self).now
            )

        def Search(self, request: Any, context: Any) -> Any:
            asked.append(("search", request.guarantee_timestamp))
            return super().Search(request, context)

        def Query(self, request: Any, context: Any) -> Any:
            asked.append(("query", request.guarantee_timestamp))
            return super().Query(request, context)

    stand = serve(Clocked)
    stand.settle()
    moment = stand.milvus.states()[LIVE].timestamp
    assert moment == Clocked.now > 1000
    asked.clear()
    find(stand.store, "t1", unit(1), "herons")
    stand.store.refresh()
    assert asked == [("search", moment), ("search", moment), ("query", 0)]  # 0 = the server's own now


def test_without_full_text_search_words_still_count_among_the_nearest(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain(MilvusServicer):
        def CreateCollection(self, request: Any, context: Any) -> Any:
            wanted = schema_pb2.CollectionSchema()
            wanted.ParseFromString(request.schema)
            if wanted.functions:
                return common_pb2.Status(code=1100, reason="functions are not supported")
            return super().CreateCollection(request, context)

    stand = serve(Plain)
    stand.settle()
    assert not next(iter(stand.milvus.states()[LIVE].tables.values())).is_lexical
    assert texts(find(stand.store, "t1", unit(1, 1)))[0].startswith("Herons")
    found = find(stand.store, "t1", unit(1, 1), "What do otters eat?")
    assert found[0].text.startswith("Otters")
    assert found[0].lexical > 0
    assert texts(find(stand.store, "t1", unit(1, 1), "otters", ranking="lexical")) == ["Otters eat fish."]
    said = [record for record in caplog.records if record.name.startswith("gateway")]
    assert ["no full text search" in record.getMessage() for record in said] == [True]
    assert said[0].levelno == logging.WARNING


def test_a_server_that_hangs_costs_one_timeout_and_then_nothing_until_it_answers(
    serve: Serve,
) -> None:
    is_hanging, let_go = threading.Event(), threading.Event()

    class Hanging(MilvusServicer):
        def Search(self, request: Any, context: Any) -> Any:
            if is_hanging.is_set():
                let_go.wait(10)
            return super().Search(request, context)

    stand = serve(Hanging)
    stand.settle()
    store = MilvusStore(stand.database, Milvus(stand.uri, "", timeout_s=2.0))
    store.refresh()
    is_hanging.set()
    started = time.monotonic()
    with pytest.raises(UpstreamTimeout) as late:
        find(store, "t1", unit(1), "herons")
    assert 1.8 < time.monotonic() - started < 6
    assert late.value.code == "vector_store_timeout"
    started = time.monotonic()
    with pytest.raises(UpstreamUnavailable):
        find(store, "t1", unit(1), "herons")
    assert time.monotonic() - started < 1.5
    is_hanging.clear()
    let_go.set()
    store.refresh()
    assert len(find(store, "t1", unit(1), "herons")) == 2
    store.close()


def test_a_row_that_the_server_refuses_does_not_hold_up_the_others(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Choosy(MilvusServicer):
        def Upsert(self, request: Any, context: Any) -> Any:
            if b"Otters" in request.SerializeToString():
                return milvus_pb2.MutationResult(status=common_pb2.Status(code=1100, reason="no otters"))
            return super().Upsert(request, context)

    stand = serve(Choosy)
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1))) == ["Herons nest in reeds. "]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("gateway")]
    assert said == [
        "Milvus refuses chunk 2: no otters",
        "1 chunks of all-MiniLM-L6-v2 are unusable and are left out",
    ]


def test_a_server_that_fails_for_reasons_of_its_own_loses_no_row(serve: Serve) -> None:
    class Broken(MilvusServicer):
        is_broken = True

        def Upsert(self, request: Any, context: Any) -> Any:
            if self.is_broken and request.collection_name.startswith("tidegate_g"):
                return milvus_pb2.MutationResult(status=common_pb2.Status(code=1800, reason="no such user"))
            return super().Upsert(request, context)

    stand = serve(Broken)
    assert stand.follower.poll() is False
    Broken.is_broken = False
    stand.settle()
    assert len(find(stand.store, "t1", unit(1))) == 2


def test_the_token_is_sent_with_every_call(serve: Serve) -> None:
    seen: set[str] = set()

    class Guarded(MilvusServicer):
        def Search(self, request: Any, context: Any) -> Any:
            seen.update(value for name, value in context.invocation_metadata() if name == "authorization")
            return super().Search(request, context)

    stand = serve(Guarded)
    stand.settle()
    store = MilvusStore(stand.database, Milvus(stand.uri, "root:hush", timeout_s=5))
    store.refresh()
    find(store, "t1", unit(1))
    store.close()
    assert seen == {"cm9vdDpodXNo"}  # base64


def test_old_copies_of_chunks_that_changed_their_embedder_are_deleted(serve: Serve) -> None:
    stand = serve(MilvusServicer)
    stand.settle()
    with stand.database.write() as conn:
        values = {"embedder": "small", "vector": unit(1, dim=8).tobytes(), "epoch": next_epoch(conn)}
        conn.execute(sa.update(schema.chunks).values(values))
    stand.settle()
    assert stand.store.num_chunks == 4  # whoever still searches at the older epoch finds them
    stand.purge()
    assert stand.store.num_chunks == 2
    assert len(find(stand.store, "t1", unit(1, dim=8), embedder="small")) == 2
    assert find(stand.store, "t1", unit(1)) == []
    assert stand.store.embedders(Scope(tenant_id="t1")) == ["small"]
