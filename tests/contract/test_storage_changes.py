"""The feed of the search index."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from gateway.storage import catalog, corpus, schema
from tests.contract.storing import (
    ingest,
    new_collection,
    new_file,
    unit_vectors,
)


def test_the_tail_carries_chunks_with_name_and_vector(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    epoch = ingest(conn, collection_id, "file-a", "one")
    found = corpus.tail(conn, 0, limit=9)
    assert (found.epoch, found.more, found.removals) == (epoch, False, [])
    (chunk,) = found.chunks
    assert (chunk.filename, chunk.text, chunk.heading) == ("file-a.md", "one", "Guide")
    assert np.array_equal(np.frombuffer(chunk.vector, "<f4"), unit_vectors(1)[0])
    assert corpus.tail(conn, epoch, limit=9) == corpus.Tail(epoch, [], [], False)
    collection = catalog.get_collection(conn, "default", collection_id)
    assert collection is not None
    assert collection.epoch == epoch


def test_the_tail_never_cuts_an_epoch(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    sizes = [2, 1, 5, 1, 1]
    for number, size in enumerate(sizes):
        new_file(conn, f"file-{number}")
        ingest(conn, collection_id, f"file-{number}", *(f"{number}.{part}" for part in range(size)))
    pages: list[int] = []
    epoch, more = 0, True
    while more:
        found = corpus.tail(conn, epoch, limit=3)
        epoch, more = found.epoch, found.more
        pages.append(len(found.chunks))
    assert pages == [3, 5, 2]


@pytest.mark.parametrize("how", ["detach_file", "delete_file", "delete_collection", "publish again"])
def test_what_leaves_the_corpus_is_in_the_tail_once(conn: sa.Connection, how: str) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    epoch = ingest(conn, collection_id, "file-a", "one", "two")
    if how == "detach_file":
        assert catalog.detach_file(conn, "default", collection_id, "file-a")
    elif how == "delete_file":
        assert catalog.delete_file(conn, "default", "file-a")
    elif how == "delete_collection":
        assert catalog.delete_collection(conn, "default", collection_id)
    else:
        conn.execute(sa.update(schema.collection_files).values(status="failed"))
        ingest(conn, collection_id, "file-a", "three")
    found = corpus.tail(conn, epoch, limit=9)
    (removal,) = found.removals
    assert found.epoch == removal.epoch == epoch + 1
    file_id = None if how == "delete_collection" else "file-a"
    assert (removal.tenant_id, removal.collection_id, removal.file_id) == ("default", collection_id, file_id)
    assert [chunk.text for chunk in found.chunks] == (["three"] if how == "publish again" else [])


def test_many_removals_come_in_pages_too(conn: sa.Connection) -> None:
    for number in range(7):
        catalog.delete_collection(conn, "default", new_collection(conn, str(number)))
    first = corpus.tail(conn, 0, limit=4)
    assert (len(first.removals), first.epoch, first.more) == (4, 4, True)
    rest = corpus.tail(conn, first.epoch, limit=4)
    assert (len(rest.removals), rest.epoch, rest.more) == (3, 7, False)


def test_chunk_ids_are_never_used_again(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    new_file(conn, "file-b")
    ingest(conn, collection_id, "file-a", "one")
    first = corpus.tail(conn, 0, limit=9).chunks[0].id
    catalog.detach_file(conn, "default", collection_id, "file-a")
    ingest(conn, collection_id, "file-b", "two")
    assert corpus.tail(conn, 0, limit=9).chunks[0].id > first


def test_a_follower_of_the_tail_always_equals_the_table(conn: sa.Connection) -> None:
    rng = np.random.default_rng(7)
    homes = [new_collection(conn, name) for name in ("a", "b")]
    for number in range(4):
        new_file(conn, f"file-{number}")
    mirror: dict[int, corpus.ChunkRow] = {}
    epoch = 0
    for step in range(120):
        home, file_id = homes[rng.integers(2)], f"file-{rng.integers(4)}"
        if catalog.get_attachment(conn, "default", home, file_id) is None:
            ingest(conn, home, file_id, *(f"{step}.{part}" for part in range(rng.integers(4))))
        else:
            catalog.detach_file(conn, "default", home, file_id)
        if rng.random() < 0.4:
            found = corpus.tail(conn, epoch, limit=int(rng.integers(1, 6)))
            epoch = _follow(mirror, found)
    while (found := corpus.tail(conn, epoch, limit=3)).epoch != epoch:
        epoch = _follow(mirror, found)
    table = conn.execute(sa.select(schema.chunks.c.id)).scalars()
    assert sorted(mirror) == sorted(table)


def _follow(mirror: dict[int, corpus.ChunkRow], found: corpus.Tail) -> int:
    for gone in found.removals:
        for chunk in list(mirror.values()):
            if chunk.collection_id == gone.collection_id and gone.file_id in {None, chunk.file_id}:
                del mirror[chunk.id]
    mirror.update({chunk.id: chunk for chunk in found.chunks})
    return found.epoch
