"""A file that takes an older one's place, and equal bytes that need no work."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa

from gateway.errors import InvalidRequest, NotFound
from gateway.storage import catalog, corpus, schema
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from tests.contract.storing import NOW, attach, ingest, new_chunks, new_collection, new_file, unit_vectors

RECIPE = "v1 900 150 .md"


def _replace(conn: sa.Connection, collection_id: str, file_id: str, old_id: str) -> None:
    catalog.attach_file(conn, "default", collection_id, file_id, {}, replaces=old_id)


def _publish(conn: sa.Connection, file_id: str, *texts: str) -> int | None:
    item = corpus.claim(conn, lease_s=10, now=NOW)
    assert item is not None
    assert item.file_id == file_id
    return corpus.publish(conn, item, new_chunks(*texts), unit_vectors(len(texts)))


def _texts(conn: sa.Connection) -> list[str]:
    return sorted(conn.execute(sa.select(schema.chunks.c.text)).scalars())


def _attached(conn: sa.Connection, collection_id: str) -> list[str]:
    rows, _ = catalog.list_attachments(conn, "default", collection_id, limit=9, order="asc")
    return sorted(row.file_id for row in rows)


@pytest.fixture
def collection_id(conn: sa.Connection) -> str:
    """Holds `file-old` with two chunks; `file-new` waits outside."""
    collection_id = new_collection(conn)
    for name in ("old", "new", "newer"):
        new_file(conn, f"file-{name}", filename="guide.md")
    ingest(conn, collection_id, "file-old", "old one", "old two")
    return collection_id


def test_the_new_file_comes_and_the_old_one_goes_in_one_epoch(
    conn: sa.Connection, collection_id: str
) -> None:
    before = corpus.current_epoch(conn)
    _replace(conn, collection_id, "file-new", "file-old")
    assert _texts(conn) == ["old one", "old two"]
    epoch = _publish(conn, "file-new", "new one")
    found = corpus.tail(conn, before, limit=99)
    assert found.epoch == epoch == before + 1
    assert [chunk.text for chunk in found.chunks] == ["new one"]
    assert [removal.file_id for removal in found.removals] == ["file-old"]
    assert _attached(conn, collection_id) == ["file-new"]
    assert catalog.get_file(conn, "default", "file-old") is not None


def test_readers_see_the_old_or_the_new_file_never_both_or_neither(database: Database) -> None:
    with database.write() as conn:
        catalog_id = _prepared(conn)
        _replace(conn, catalog_id, "file-new", "file-old")
    with database.write() as writer:
        _publish(writer, "file-new", "new")
        with database.read() as reader:
            assert _texts(reader) == ["old"]
    with database.read() as reader:
        assert _texts(reader) == ["new"]


def _prepared(conn: sa.Connection) -> str:
    conn.execute(sa.insert(schema.tenants), {"id": "default", "name": "default", "created_at": 1})
    collection_id = new_collection(conn)
    for name in ("old", "new"):
        new_file(conn, f"file-{name}")
    ingest(conn, collection_id, "file-old", "old")
    return collection_id


def test_the_old_file_stays_when_the_new_one_fails(conn: sa.Connection, collection_id: str) -> None:
    _replace(conn, collection_id, "file-new", "file-old")
    item = corpus.claim(conn, lease_s=10, now=NOW)
    assert item is not None
    corpus.fail(conn, item, "unsupported_file", "No.")
    assert _texts(conn) == ["old one", "old two"]
    catalog.attach_file(
        conn, "default", collection_id, "file-new", {}
    )  # another try remembers what it is for
    _publish(conn, "file-new", "new one")
    assert _texts(conn) == ["new one"]


def test_a_replacement_of_a_replacement_takes_out_both(conn: sa.Connection, collection_id: str) -> None:
    _replace(conn, collection_id, "file-new", "file-old")
    item = corpus.claim(conn, lease_s=10, now=NOW)
    assert item is not None
    _replace(conn, collection_id, "file-newer", "file-new")
    _publish(conn, "file-newer", "newest")
    assert corpus.publish(conn, item, new_chunks("late"), unit_vectors(1)) is None
    assert (_texts(conn), _attached(conn, collection_id)) == (["newest"], ["file-newer"])


@pytest.mark.parametrize("how", ["delete_file", "detach_file"])
def test_a_version_in_the_middle_that_leaves_keeps_nothing_alive(
    conn: sa.Connection, collection_id: str, how: str
) -> None:
    _replace(conn, collection_id, "file-new", "file-old")
    _replace(conn, collection_id, "file-newer", "file-new")
    if how == "delete_file":
        catalog.delete_file(conn, "default", "file-new")
    else:
        catalog.detach_file(conn, "default", collection_id, "file-new")
    _publish(conn, "file-newer", "newest")
    assert (_texts(conn), _attached(conn, collection_id)) == (["newest"], ["file-newer"])


def test_a_replacement_that_leaves_before_it_is_searchable_leaves_the_old_file(
    conn: sa.Connection, collection_id: str
) -> None:
    _replace(conn, collection_id, "file-new", "file-old")
    catalog.delete_file(conn, "default", "file-new")
    assert (_texts(conn), _attached(conn, collection_id)) == (["old one", "old two"], ["file-old"])


def test_of_two_files_that_replace_each_other_one_stays(conn: sa.Connection, collection_id: str) -> None:
    _replace(conn, collection_id, "file-new", "file-old")
    _replace(conn, collection_id, "file-newer", "file-new")
    _replace(conn, collection_id, "file-new", "file-newer")
    claimed = [corpus.claim(conn, lease_s=10, now=NOW) for _ in range(2)]
    for item in claimed:
        assert item is not None
        corpus.publish(conn, item, new_chunks(item.file_id), unit_vectors(1))
    assert _attached(conn, collection_id) == [
        "file-new",
        "file-old",
    ]  # the last word on `file-new` was the other one


def test_a_searchable_file_takes_the_place_at_once(conn: sa.Connection, collection_id: str) -> None:
    ingest(conn, collection_id, "file-new", "new one")
    before = corpus.current_epoch(conn)
    _replace(conn, collection_id, "file-new", "file-old")
    assert _attached(conn, collection_id) == ["file-new"]
    assert [gone.file_id for gone in corpus.tail(conn, before, limit=9).removals] == ["file-old"]


def test_an_old_file_that_has_left_meanwhile_is_no_obstacle(conn: sa.Connection, collection_id: str) -> None:
    _replace(conn, collection_id, "file-new", "file-old")
    catalog.delete_file(conn, "default", "file-old")
    assert _publish(conn, "file-new", "new one") is not None
    assert _texts(conn) == ["new one"]


def test_other_collections_keep_the_old_file(conn: sa.Connection, collection_id: str) -> None:
    other = new_collection(conn, "other")
    ingest(conn, other, "file-old", "old elsewhere")
    _replace(conn, collection_id, "file-new", "file-old")
    _publish(conn, "file-new", "new one")
    assert _texts(conn) == ["new one", "old elsewhere"]
    assert _attached(conn, other) == ["file-old"]


@pytest.mark.parametrize("old_id", ["file-unknown", "file-newer", "file-theirs", "\0", "x" * 500])
def test_only_a_file_of_the_collection_can_be_replaced(
    conn: sa.Connection, collection_id: str, old_id: str
) -> None:
    new_file(conn, "file-theirs", "other")
    with pytest.raises(NotFound, match="to replace") as caught:
        _replace(conn, collection_id, "file-new", old_id)
    assert (caught.value.code, caught.value.param) == ("file_not_found", "replaces")
    assert _attached(conn, collection_id) == ["file-old"]


@pytest.mark.parametrize(
    ("file_ids", "words"), [(["file-new", "file-newer"], "one file"), (["file-old"], "itself")]
)
def test_a_replacement_that_cannot_be_is_refused(
    conn: sa.Connection, collection_id: str, file_ids: list[str], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        catalog.attach_files(conn, "default", collection_id, file_ids, {}, replaces="file-old")
    assert caught.value.param == "replaces"


def test_files_of_one_batch_are_listed_by_it(conn: sa.Connection, collection_id: str) -> None:
    files = ["file-new", "file-newer"]
    catalog.attach_files(conn, "default", collection_id, files, {}, batch_id="vsfb_1")
    rows, _ = catalog.list_attachments(
        conn, "default", collection_id, batch_id="vsfb_1", limit=9, order="asc"
    )
    assert {row.file_id for row in rows} == set(files)
    again = catalog.attach_files(conn, "default", collection_id, ["file-old"], {}, batch_id="vsfb_2")
    assert [(row.status, row.batch_id) for row in again] == [("completed", "vsfb_2")]


# Equal bytes


def _ingest_by(conn: sa.Connection, collection_id: str, file_id: str, recipe: str | None) -> None:
    item = attach(conn, collection_id, file_id)
    chunks = [corpus.NewChunk(0, 3, "one", "Guide", 1), corpus.NewChunk(4, 7, "two", "Guide", 2)]
    assert corpus.publish(conn, item, chunks, unit_vectors(2), recipe) is not None


def _copy(conn: sa.Connection, item: corpus.WorkItem, recipe: str = RECIPE) -> int | None:
    source = corpus.equal_file(conn, item, recipe)
    return None if source is None else corpus.publish_copy(conn, item, source, recipe)


def test_equal_bytes_become_searchable_by_a_copy_in_sql(conn: sa.Connection) -> None:
    home, other = new_collection(conn), new_collection(conn, "other")
    new_file(conn, "file-a")
    new_file(conn, "file-b")
    _ingest_by(conn, home, "file-a", RECIPE)
    assert _copy(conn, attach(conn, other, "file-b")) == 2
    first, second = (corpus.tail(conn, epoch, limit=1).chunks for epoch in (0, 1))
    assert [chunk.id for chunk in second] == sorted(chunk.id for chunk in second)
    moved = {"collection_id": other, "file_id": "file-b", "filename": "file-b.md", "epoch": 2}
    expected = [
        msgspec.structs.replace(old, id=new.id, **moved) for old, new in zip(first, second, strict=True)
    ]
    assert second == expected
    rows = [
        catalog.get_attachment(conn, "default", *place) for place in ((home, "file-a"), (other, "file-b"))
    ]
    assert len({(row and row.status, row and row.num_chunks, row and row.usage_bytes) for row in rows}) == 1


@pytest.mark.parametrize(
    "difference",
    [
        "bytes",
        "recipe",
        "no recipe",
        "tenant",
        "failed",
        "embedder",
        "chunks of a change of embedder",
        "gone",
    ],
)
def test_what_is_not_equal_is_not_copied(conn: sa.Connection, difference: str) -> None:
    home, other = new_collection(conn), new_collection(conn, "other")
    new_file(conn, "file-a")
    tenant_id = "other" if difference == "tenant" else "default"
    new_file(conn, "file-b", tenant_id, sha256=("cd" if difference == "bytes" else "ab") * 32)
    _ingest_by(conn, home, "file-a", None if difference == "no recipe" else RECIPE)
    table = schema.collection_files
    if difference == "failed":
        conn.execute(sa.update(table).values(status="failed"))
    if difference == "embedder":
        conn.execute(
            sa.update(schema.collections).where(schema.collections.c.id == home).values(embedder="b")
        )
    if tenant_id == "other":
        other = new_collection(conn, "theirs", "other")
    catalog.attach_file(conn, tenant_id, other, "file-b", {})
    item = corpus.claim(conn, lease_s=10, now=NOW)
    assert item is not None
    source = corpus.equal_file(conn, item, "another" if difference == "recipe" else RECIPE)
    if difference == "gone":
        catalog.delete_file(conn, "default", "file-a")
    if difference == "chunks of a change of embedder":
        conn.execute(sa.update(schema.chunks).where(schema.chunks.c.ordinal == 0).values(embedder="b"))
    before = corpus.current_epoch(conn)
    assert source is None or corpus.publish_copy(conn, item, source, RECIPE) is None
    assert (source is None) == (difference not in {"gone", "chunks of a change of embedder"})
    assert corpus.current_epoch(conn) == before
    assert corpus.publish(conn, item, new_chunks("new"), unit_vectors(1)) is not None


def test_a_copy_by_a_worker_that_lost_its_lease_changes_nothing(conn: sa.Connection) -> None:
    home = new_collection(conn)
    new_file(conn, "file-a")
    new_file(conn, "file-b")
    _ingest_by(conn, home, "file-a", RECIPE)
    item = attach(conn, home, "file-b")
    assert corpus.claim(conn, lease_s=10, now=NOW + 11) is not None
    assert _copy(conn, item) is None
    assert len(_texts(conn)) == 2


def test_a_large_file_is_published_whole(conn: sa.Connection) -> None:
    home = new_collection(conn)
    new_file(conn, "file-a")
    number = corpus.INSERT_ROWS + 7
    vectors = np.tile(unit_vectors(1), (number, 1))
    vectors[:, 1] = np.arange(number)
    texts = [f"chunk {n}" for n in range(number)]
    assert corpus.publish(conn, attach(conn, home, "file-a"), new_chunks(*texts), vectors) == 1
    found = sorted(corpus.tail(conn, 0, limit=1).chunks, key=lambda chunk: chunk.ordinal)
    assert [chunk.text for chunk in found] == texts
    assert [np.frombuffer(chunk.vector, "<f4")[1] for chunk in found] == list(range(number))


def test_a_copied_text_is_the_other_files_text(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    blobs.write_text("default", "file-a", "tide")
    assert blobs.copy_text("default", "file-a", "file-b")
    assert blobs.read_text("default", "file-b") == "tide"
    assert not blobs.copy_text("default", "file-unknown", "file-c")
    assert blobs.read_text("default", "file-c") is None
