"""Many threads on one database: nothing is done twice, nobody waits for ever, and the feed tells of all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from gateway.storage import catalog, corpus, keys, reembedding, schema
from gateway.storage.database import Database
from tests.contract.storing import NOW, new_chunks, new_collection, new_file, unit_vectors

NUM_FILES = 12


@pytest.fixture
def collection_id(database: Database) -> str:
    """Twelve files wait in it."""
    with database.write() as conn:
        keys.ensure_tenant(conn, "default")
        collection_id = new_collection(conn)
        for number in range(NUM_FILES):
            new_file(conn, f"file-{number}")
            catalog.attach_file(conn, "default", collection_id, f"file-{number}", {})
    return collection_id


def _in_threads(number: int, work: Callable[[int], Any]) -> list[Any]:
    """What each call returned; raises what one of them raised."""
    together = threading.Barrier(number)

    def run(index: int) -> Any:
        together.wait(10)
        return work(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


def _claim_and_publish(database: Database) -> str | None:
    with database.write() as conn:
        item = corpus.claim(conn, lease_s=60, now=NOW)
    if item is None:
        return None
    with database.write() as conn:
        corpus.publish(conn, item, new_chunks(item.file_id, "more"), unit_vectors(2))
    return item.file_id


def test_workers_never_claim_the_same_file(database: Database, collection_id: str) -> None:
    def work(_: int) -> list[str]:
        return list(iter(lambda: _claim_and_publish(database), None))

    done = [file_id for part in _in_threads(4, work) for file_id in part]
    assert sorted(done) == sorted(f"file-{number}" for number in range(NUM_FILES))
    with database.read() as conn:
        assert corpus.current_epoch(conn) == NUM_FILES
        assert len(corpus.tail(conn, 0, limit=99).chunks) == 2 * NUM_FILES


def _change(database: Database, collection_id: str, rng: np.random.Generator) -> None:
    """One of the changes that go on in a busy service."""
    file_id = f"file-{rng.integers(NUM_FILES)}"
    kind = rng.integers(6)
    if kind <= 1:
        _claim_and_publish(database)
        return
    with database.write() as conn:
        if kind == 2:
            catalog.detach_file(conn, "default", collection_id, file_id)
        elif kind == 3:
            catalog.attach_file(conn, "default", collection_id, file_id, {"n": int(rng.integers(9))})
        elif kind == 4:
            other = catalog.create_collection(conn, "default", "other", {}).id
            catalog.attach_file(conn, "default", other, file_id, {})
            catalog.delete_collection(conn, "default", other)
        else:
            catalog.update_attributes(conn, "default", collection_id, file_id, {"n": 1})


def test_changes_from_all_sides_end_well_and_a_follower_has_them_all(
    database: Database, collection_id: str
) -> None:
    followed: dict[int, corpus.ChunkRow] = {}
    stop = threading.Event()

    def follow() -> None:
        epoch = 0
        while True:
            last = stop.is_set()
            with database.read() as conn:
                found = corpus.tail(conn, epoch, limit=3)
            for gone in found.removals:
                for chunk in list(followed.values()):
                    if chunk.collection_id == gone.collection_id and gone.file_id in {None, chunk.file_id}:
                        del followed[chunk.id]
            followed.update({chunk.id: chunk for chunk in found.chunks})
            if last and found.epoch == epoch:
                return
            epoch = found.epoch

    follower = threading.Thread(target=follow)
    follower.start()

    def work(index: int) -> None:
        rng = np.random.default_rng(index)
        for _ in range(25):
            _change(database, collection_id, rng)

    try:
        _in_threads(4, work)
    finally:
        stop.set()
        follower.join(30)
    with database.read() as conn:
        assert sorted(followed) == sorted(conn.execute(sa.select(schema.chunks.c.id)).scalars())


@pytest.fixture
def built(database: Database, collection_id: str) -> Iterator[str]:
    while _claim_and_publish(database):
        pass
    with database.write() as conn:
        catalog.start_reembedding(conn, "default", collection_id, "small")
    return collection_id


def test_workers_that_change_the_embedder_together_with_deletes_lose_nothing(
    database: Database, built: str
) -> None:
    def work(index: int) -> None:
        if index == 3:
            for number in range(0, NUM_FILES, 3):
                with database.write() as conn:
                    catalog.delete_file(conn, "default", f"file-{number}")
            return
        while True:
            with database.read() as conn:
                jobs = reembedding.reembedding_jobs(conn)
            if not jobs:
                return
            _advance(database, jobs[0])

    _in_threads(4, work)
    with database.read() as conn:
        rows = conn.execute(sa.select(schema.chunks.c.file_id, schema.chunks.c.embedder)).all()
        assert conn.execute(sa.select(schema.next_vectors)).all() == []
    assert len(rows) == 2 * (NUM_FILES - 4)
    assert {embedder for _, embedder in rows} == {"small"}


def _advance(database: Database, job: reembedding.Job) -> None:
    with database.write() as conn:
        if job.is_built:
            reembedding.switch_some(conn, job, limit=5)
            return
        chunks = reembedding.lacking_chunks(conn, job, after_id=0, limit=5)
        if chunks:
            vectors = np.ones((len(chunks), 4), np.float32) / 2
            reembedding.store_next_vectors(conn, job, [chunk.id for chunk in chunks], vectors)
        else:
            reembedding.finish_building(conn, job)
