"""A collection on its way to another embedder: never half, never lost, called off at will."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from gateway.errors import Conflict
from gateway.storage import catalog, corpus, reembedding, schema
from gateway.storage.reembedding import Job, Progress
from gateway.tensors import EMBEDDING_DIM
from gateway.types import DEFAULT_EMBEDDER
from tests.contract.storing import NOW, attach, ingest, new_chunks, new_collection, new_file, unit_vectors

SMALL = 8  # dimensions of the other embedder


def _small(number: int) -> Any:
    return np.tile(np.eye(SMALL, dtype=np.float32)[:1], (number, 1))


@pytest.fixture
def collection_id(conn: sa.Connection) -> str:
    """Five chunks in two files."""
    collection_id = new_collection(conn)
    for name in ("a", "b", "late"):
        new_file(conn, f"file-{name}", sha256=name[0] * 64)
    ingest(conn, collection_id, "file-a", "one", "two", "three")
    ingest(conn, collection_id, "file-b", "four", "five")
    return collection_id


@pytest.fixture
def job(conn: sa.Connection, collection_id: str) -> Job:
    row = catalog.start_reembedding(conn, "default", collection_id, "small")
    assert row is not None
    assert (row.embedder, row.next_embedder) == (DEFAULT_EMBEDDER, "small")
    (job,) = reembedding.reembedding_jobs(conn)
    assert job == Job("default", collection_id, "small", is_built=False)
    return job


def _build(conn: sa.Connection, job: Job, limit: int = 99) -> int:
    chunks = reembedding.lacking_chunks(conn, job, after_id=0, limit=limit)
    assert reembedding.store_next_vectors(conn, job, [chunk.id for chunk in chunks], _small(len(chunks)))
    return len(chunks)


def _embedders(conn: sa.Connection) -> list[str]:
    return list(conn.execute(sa.select(schema.chunks.c.embedder).order_by(schema.chunks.c.id)).scalars())


def _switch(conn: sa.Connection) -> None:
    (job,) = reembedding.reembedding_jobs(conn)
    assert job.is_built
    while reembedding.switch_some(conn, job, limit=2):
        pass


def test_while_it_is_built_the_old_vectors_are_searched(conn: sa.Connection, job: Job) -> None:
    before = corpus.tail(conn, 0, limit=99)
    assert _build(conn, job, limit=2) == 2
    progress = catalog.reembedding_progress(conn, "default", [job.collection_id])
    assert progress == {job.collection_id: Progress(2, 5)}
    assert not reembedding.finish_building(conn, job)
    assert _build(conn, job) == 3
    assert corpus.tail(conn, 0, limit=99) == before


def test_the_switch_gives_the_same_chunks_with_other_vectors(conn: sa.Connection, job: Job) -> None:
    before = corpus.tail(conn, 0, limit=99)
    _build(conn, job)
    assert reembedding.finish_building(conn, job)
    _switch(conn)
    after = corpus.tail(conn, before.epoch, limit=99)
    assert after.removals == []
    assert [(chunk.id, chunk.text) for chunk in after.chunks] == [
        (each.id, each.text) for each in before.chunks
    ]
    assert {(chunk.embedder, len(chunk.vector)) for chunk in after.chunks} == {("small", 4 * SMALL)}
    row = catalog.get_collection(conn, "default", job.collection_id)
    assert row is not None
    assert (row.embedder, row.next_embedder, row.epoch) == ("small", None, after.epoch)
    assert conn.execute(sa.select(schema.next_vectors)).all() == []
    assert reembedding.reembedding_jobs(conn) == []
    assert catalog.reembedding_progress(conn, "default", [job.collection_id]) == {}


def test_a_switch_of_many_chunks_goes_in_slices_with_an_epoch_each(conn: sa.Connection, job: Job) -> None:
    _build(conn, job)
    reembedding.finish_building(conn, job)
    before = corpus.current_epoch(conn)
    (built,) = reembedding.reembedding_jobs(conn)
    assert reembedding.switch_some(conn, built, limit=2) == 2
    assert _embedders(conn) == ["small"] * 2 + [DEFAULT_EMBEDDER] * 3
    assert [reembedding.switch_some(conn, built, limit=2) for _ in range(3)] == [2, 1, 0]
    assert corpus.current_epoch(conn) == before + 3


def test_a_file_published_meanwhile_is_built_too(conn: sa.Connection, job: Job) -> None:
    _build(conn, job)
    ingest(conn, job.collection_id, "file-late", "six")
    assert not reembedding.finish_building(conn, job)
    assert [chunk.text for chunk in reembedding.lacking_chunks(conn, job, after_id=0, limit=9)] == ["six"]
    _build(conn, job)
    assert reembedding.finish_building(conn, job)
    _switch(conn)
    assert _embedders(conn) == ["small"] * 6


def test_a_file_read_before_the_switch_and_published_after_it_is_done_again(
    conn: sa.Connection, job: Job
) -> None:
    item = attach(conn, job.collection_id, "file-late")
    assert item.embedder == DEFAULT_EMBEDDER
    _build(conn, job)
    reembedding.finish_building(conn, job)
    epoch = corpus.current_epoch(conn)
    assert corpus.publish(conn, item, new_chunks("six"), unit_vectors(1)) is None
    assert corpus.current_epoch(conn) == epoch
    again = corpus.claim(conn, lease_s=10, now=NOW)
    assert again is not None
    assert (again.embedder, again.attempts) == ("small", 1)
    assert corpus.publish(conn, again, new_chunks("six"), _small(1)) is not None
    _switch(conn)
    assert _embedders(conn) == ["small"] * 6


@pytest.mark.parametrize("how", ["cancel", "back to the present one"])
def test_a_change_that_is_being_built_can_be_called_off(conn: sa.Connection, job: Job, how: str) -> None:
    _build(conn, job)
    if how == "cancel":
        assert catalog.cancel_reembedding(conn, "default", job.collection_id)
    else:
        assert catalog.start_reembedding(conn, "default", job.collection_id, DEFAULT_EMBEDDER) is not None
    assert conn.execute(sa.select(schema.next_vectors)).all() == []
    assert not reembedding.store_next_vectors(conn, job, [1], _small(1))
    assert not reembedding.finish_building(conn, job)
    assert not catalog.cancel_reembedding(conn, "default", job.collection_id)
    assert reembedding.reembedding_jobs(conn) == []
    assert set(_embedders(conn)) == {DEFAULT_EMBEDDER}


def test_another_target_begins_anew_and_late_vectors_of_the_first_are_refused(
    conn: sa.Connection, job: Job
) -> None:
    _build(conn, job, limit=2)
    catalog.start_reembedding(conn, "default", job.collection_id, "third")
    assert not reembedding.store_next_vectors(conn, job, [1], _small(1))
    (new,) = reembedding.reembedding_jobs(conn)
    assert new.embedder == "third"
    assert len(reembedding.lacking_chunks(conn, new, after_id=0, limit=9)) == 5


def test_asking_again_for_the_same_embedder_keeps_what_is_built(conn: sa.Connection, job: Job) -> None:
    _build(conn, job)
    catalog.start_reembedding(conn, "default", job.collection_id, "small")
    assert reembedding.lacking_chunks(conn, job, after_id=0, limit=9) == []


def test_no_other_change_starts_in_the_middle_of_the_switch(conn: sa.Connection, job: Job) -> None:
    _build(conn, job)
    reembedding.finish_building(conn, job)
    with pytest.raises(Conflict) as caught:
        catalog.start_reembedding(conn, "default", job.collection_id, "third")
    assert caught.value.code == "reembedding_switching"
    assert not catalog.cancel_reembedding(conn, "default", job.collection_id)
    _switch(conn)
    row = catalog.start_reembedding(conn, "default", job.collection_id, DEFAULT_EMBEDDER)
    assert row is not None
    assert (row.embedder, row.next_embedder) == ("small", DEFAULT_EMBEDDER)


def test_two_workers_on_one_page_keep_each_vector_once(conn: sa.Connection, job: Job) -> None:
    ids = [chunk.id for chunk in reembedding.lacking_chunks(conn, job, after_id=0, limit=9)]
    assert reembedding.store_next_vectors(conn, job, ids, _small(5))
    assert reembedding.store_next_vectors(conn, job, ids, _small(5))
    assert reembedding.finish_building(conn, job)
    assert not reembedding.finish_building(conn, job)


@pytest.mark.parametrize("when", ["before its vector", "after its vector", "in the switch"])
def test_a_file_that_leaves_meanwhile_is_gone(conn: sa.Connection, job: Job, when: str) -> None:
    page = [chunk.id for chunk in reembedding.lacking_chunks(conn, job, after_id=0, limit=9)]
    if when != "before its vector":
        reembedding.store_next_vectors(conn, job, page, _small(5))
    if when == "in the switch":
        reembedding.finish_building(conn, job)
    catalog.delete_file(conn, "default", "file-a")
    if when == "before its vector":
        reembedding.store_next_vectors(conn, job, page, _small(5))
    if when != "in the switch":
        assert reembedding.finish_building(conn, job)
    _switch(conn)
    assert _embedders(conn) == ["small"] * 2


def test_a_collection_that_is_deleted_meanwhile_ends_the_job(conn: sa.Connection, job: Job) -> None:
    page = reembedding.lacking_chunks(conn, job, after_id=0, limit=9)
    _build(conn, job)
    catalog.delete_collection(conn, "default", job.collection_id)
    assert not reembedding.store_next_vectors(conn, job, [chunk.id for chunk in page], _small(5))
    assert not reembedding.finish_building(conn, job)
    assert reembedding.switch_some(conn, job, limit=9) == 0
    assert reembedding.reembedding_jobs(conn) == []
    assert conn.execute(sa.select(schema.next_vectors)).all() == []


def test_the_bytes_that_a_file_uses_follow_its_vectors(conn: sa.Connection, job: Job) -> None:
    before = catalog.count_files(conn, [job.collection_id])[job.collection_id].usage_bytes
    _build(conn, job)
    reembedding.finish_building(conn, job)
    after = catalog.count_files(conn, [job.collection_id])[job.collection_id].usage_bytes
    assert after - before == 5 * 4 * (SMALL - EMBEDDING_DIM)


def test_an_empty_collection_changes_at_once(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    catalog.start_reembedding(conn, "default", collection_id, "small")
    (job,) = reembedding.reembedding_jobs(conn)
    assert reembedding.last_chunk_id(conn, job) == 0
    assert reembedding.finish_building(conn, job)
    assert reembedding.reembedding_jobs(conn) == []


def test_a_new_collection_may_begin_with_another_embedder(conn: sa.Connection) -> None:
    collection_id = catalog.create_collection(conn, "default", "docs", {}, "small").id
    new_file(conn, "file-a")
    item = attach(conn, collection_id, "file-a")
    assert item.embedder == "small"
    corpus.publish(conn, item, new_chunks("one"), _small(1))
    assert _embedders(conn) == ["small"]


def test_vectors_of_another_embedder_are_not_known(conn: sa.Connection, collection_id: str) -> None:
    known = {"sha256": "a" * 64, "filename": "x"}
    assert corpus.known_vectors(conn, "default", **known, embedder="small") == {}
    assert len(corpus.known_vectors(conn, "default", **known)) == 3
