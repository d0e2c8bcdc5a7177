"""Collections, files and files in collections."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from gateway.errors import InvalidRequest, NotFound
from gateway.storage import catalog, corpus
from gateway.tensors import EMBEDDING_DIM
from tests.contract.storing import (
    NOW,
    attach,
    ingest,
    new_collection,
    new_file,
)


def test_refs_are_ids_or_names_in_the_order_given(conn: sa.Connection) -> None:
    first, second = new_collection(conn, "first"), new_collection(conn, "second")
    found = catalog.find_collections(conn, "default", ["second", first, second])
    assert [row.id for row in found] == [second, first, second]


def test_a_missing_ref_is_named(conn: sa.Connection) -> None:
    with pytest.raises(NotFound, match="`nowhere`"):
        catalog.find_collections(conn, "default", [new_collection(conn), "nowhere"])


def test_an_ambiguous_name_is_refused_but_its_ids_work(conn: sa.Connection) -> None:
    first, _ = new_collection(conn, "twin"), new_collection(conn, "twin")
    with pytest.raises(InvalidRequest, match="2 collections"):
        catalog.find_collections(conn, "default", ["twin"])
    assert catalog.find_collections(conn, "default", [first])[0].id == first


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_cover_a_list_once_in_order(conn: sa.Connection, order: str) -> None:
    made = [new_collection(conn, str(number)) for number in range(7)]
    seen: list[str] = []
    after, more = None, True
    while more:
        rows, more = catalog.list_collections(conn, "default", limit=3, order=order, after=after)
        seen += [row.id for row in rows]
        after = seen[-1]
    assert seen == (made if order == "asc" else made[::-1])


def test_before_gives_the_page_that_came_before(conn: sa.Connection) -> None:
    made = [new_collection(conn, str(number)) for number in range(6)]
    rows, more = catalog.list_collections(conn, "default", limit=2, order="asc", before=made[4])
    assert ([row.id for row in rows], more) == (made[2:4], True)
    rows, more = catalog.list_collections(conn, "default", limit=4, order="desc", before=made[3])
    assert ([row.id for row in rows], more) == ([made[5], made[4]], False)


def test_an_unknown_cursor_is_refused(conn: sa.Connection) -> None:
    theirs = new_collection(conn, "theirs", "other")
    for cursor in ("vs_unknown", theirs):
        with pytest.raises(InvalidRequest, match="after"):
            catalog.list_collections(conn, "default", limit=2, after=cursor)


def test_an_update_changes_only_what_is_given(conn: sa.Connection) -> None:
    made = catalog.create_collection(conn, "default", "docs", {"a": 1})
    catalog.update_collection(conn, "default", made.id, name="papers")
    row = catalog.update_collection(conn, "default", made.id, metadata={})
    assert row is not None
    assert (row.name, row.metadata) == ("papers", {})
    assert catalog.update_collection(conn, "default", "vs_unknown", name="x") is None


def test_files_are_listed_by_purpose(conn: sa.Connection) -> None:
    mine, _ = new_file(conn, "file-a"), new_file(conn, "file-b", purpose="batch")
    assert catalog.list_files(conn, "default", purpose="assistants", limit=5) == ([mine], False)


def test_attaching_twice_changes_nothing(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    first = catalog.attach_file(conn, "default", collection_id, "file-a", {"year": 2024})
    assert catalog.attach_file(conn, "default", collection_id, "file-a", {}) == first
    assert first.status == "in_progress"


def test_a_failed_file_is_queued_again_by_attaching_it(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    item = attach(conn, collection_id, "file-a")
    corpus.fail(conn, item, "unsupported_file", "No.")
    failed = catalog.get_attachment(conn, "default", collection_id, "file-a")
    assert failed is not None
    assert (failed.status, failed.error_code, failed.error_message) == ("failed", "unsupported_file", "No.")
    again = catalog.attach_file(conn, "default", collection_id, "file-a", {})
    assert (again.status, again.error_code, again.attempts) == ("in_progress", None, 0)
    assert corpus.claim(conn, lease_s=10, now=NOW) is not None


def test_counts_and_statuses_follow_the_ingest(conn: sa.Connection) -> None:
    collection_id, empty = new_collection(conn), new_collection(conn, "empty")
    for name in ("a", "b", "c", "unattached"):
        new_file(conn, f"file-{name}", sha256=name[0] * 64)
    ingest(conn, collection_id, "file-a", "one", "two")
    corpus.fail(conn, attach(conn, collection_id, "file-b"), "server_error", "x")
    catalog.attach_file(conn, "default", collection_id, "file-c", {})
    counts = catalog.count_files(conn, [collection_id, empty])
    usage = len("onetwo") + 2 * EMBEDDING_DIM * 4
    assert counts[collection_id] == catalog.FileCounts(1, 1, 1, 0, 3, usage)
    assert counts[empty] == catalog.FileCounts()


def test_a_batch_is_attached_in_a_few_statements(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    ids = [f"file-{number:03d}" for number in range(500)]
    for file_id in ids:
        new_file(conn, file_id)
    catalog.attach_file(conn, "default", collection_id, ids[7], {})
    statements: list[str] = []
    sa.event.listen(conn, "before_cursor_execute", lambda *args: statements.append(args[2]))
    rows = catalog.attach_files(conn, "default", collection_id, [*ids, ids[0]], {"year": 2024})
    assert len(statements) <= 8
    assert [row.file_id for row in rows] == ids
    assert {(row.status, row.attributes["year"]) for row in rows} == {("in_progress", 2024)}
    assert [catalog.get_attachment(conn, "default", collection_id, each) for each in ids[5:9]] == rows[5:9]


def test_a_batch_queues_anew_what_had_failed_and_leaves_the_rest(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    for name in ("a", "b"):
        new_file(conn, f"file-{name}", sha256=name[0] * 64)
    ingest(conn, collection_id, "file-a", "one")
    corpus.fail(conn, attach(conn, collection_id, "file-b"), "server_error", "x")
    rows = catalog.attach_files(conn, "default", collection_id, ["file-b", "file-a"], {})
    assert [(row.status, row.error_code) for row in rows] == [("in_progress", None), ("completed", None)]


@pytest.mark.parametrize("missing", ["file-unknown", "file-theirs"])
def test_a_batch_with_a_missing_file_names_it_and_attaches_nothing(conn: sa.Connection, missing: str) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    new_file(conn, "file-theirs", "other")
    with pytest.raises(NotFound, match=missing) as caught:
        catalog.attach_files(conn, "default", collection_id, ["file-a", missing, "file-later"], {})
    assert caught.value.code == "file_not_found"
    assert catalog.list_attachments(conn, "default", collection_id, limit=9) == ([], False)
