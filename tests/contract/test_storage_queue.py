"""The ingest queue and what comes out of it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from gateway.storage import catalog, corpus, schema
from tests.contract.storing import (
    NOW,
    SHA,
    attach,
    ingest,
    new_chunks,
    new_collection,
    new_file,
    unit_vectors,
)


def test_the_oldest_file_is_claimed_first_and_only_once(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    for number in range(3):
        new_file(conn, f"file-{number}")
        catalog.attach_file(conn, "default", collection_id, f"file-{number}", {})
    conn.execute(
        sa.update(schema.collection_files)
        .where(schema.collection_files.c.file_id == "file-2")
        .values(created_at=1)
    )
    claimed = [corpus.claim(conn, lease_s=10, now=NOW) for _ in range(4)]
    assert [item and item.file_id for item in claimed] == ["file-2", "file-0", "file-1", None]
    assert not corpus.has_work(conn, now=NOW)


def test_a_lease_runs_out_and_the_old_holder_can_change_nothing(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    old = attach(conn, collection_id, "file-a")
    new = corpus.claim(conn, lease_s=10, now=NOW + 11)
    assert new is not None
    progress = {"lease_s": 10, "now": NOW + 12, "chunks_done": 1, "num_chunks": 2}
    assert not corpus.renew(conn, old, **progress)
    assert not corpus.fail(conn, old, "server_error", "x")
    assert not corpus.release(conn, old)
    assert corpus.publish(conn, old, new_chunks("old"), unit_vectors(1)) is None
    assert corpus.renew(conn, new, **progress)
    assert corpus.publish(conn, new, new_chunks("new"), unit_vectors(1)) == 1
    assert [chunk.text for chunk in corpus.tail(conn, 0, limit=9).chunks] == ["new"]


def test_a_renewed_lease_outlives_its_first_term_and_tells_progress(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    item = attach(conn, collection_id, "file-a")
    assert corpus.renew(conn, item, lease_s=10, now=NOW + 9, chunks_done=3, num_chunks=7)
    assert corpus.claim(conn, lease_s=10, now=NOW + 11) is None
    row = catalog.get_attachment(conn, "default", collection_id, "file-a")
    assert row is not None
    assert (row.chunks_done, row.num_chunks) == (3, 7)


def test_a_released_item_is_claimable_at_once_and_costs_no_attempt(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    item = attach(conn, collection_id, "file-a")
    assert corpus.release(conn, item)
    again = corpus.claim(conn, lease_s=10, now=NOW)
    assert again is not None
    assert again.attempts == 1


def test_each_death_of_a_worker_makes_the_file_wait_longer(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    catalog.attach_file(conn, "default", collection_id, "file-a", {})
    now, waits = NOW, []
    for attempt in range(1, 6):
        item = corpus.claim(conn, lease_s=10, now=now)
        assert item is not None
        assert item.attempts == attempt
        wait = 0
        while not corpus.has_work(conn, now=now + 10 + wait + 0.5, lease_s=10):
            assert corpus.claim(conn, lease_s=10, now=now + 10 + wait + 0.5) is None
            wait += 10
        waits.append(wait)
        now += 10 + wait + 0.5
    assert waits == [0, 10, 30, 70, 150]


def test_a_file_whose_workers_die_again_and_again_is_failed_in_the_end(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    catalog.attach_file(conn, "default", collection_id, "file-a", {})
    hour = 3600.0
    claims = [
        corpus.claim(conn, lease_s=10, now=NOW + hour * number) for number in range(corpus.MAX_ATTEMPTS + 1)
    ]
    assert [item and item.attempts for item in claims] == [*range(1, corpus.MAX_ATTEMPTS + 1), None]
    row = catalog.get_attachment(conn, "default", collection_id, "file-a")
    assert row is not None
    assert (row.status, row.error_code) == ("failed", "server_error")


def test_handing_back_after_deaths_needs_no_waiting(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    catalog.attach_file(conn, "default", collection_id, "file-a", {})
    for number in range(4):
        item = corpus.claim(conn, lease_s=10, now=NOW + 1000 * number)
    assert item is not None
    assert corpus.release(conn, item)
    again = corpus.claim(conn, lease_s=10, now=NOW + 3001)
    assert again is not None
    assert again.attempts == 4


def test_a_file_that_left_is_not_published(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    item = attach(conn, collection_id, "file-a")
    catalog.detach_file(conn, "default", collection_id, "file-a")
    epoch = corpus.current_epoch(conn)
    assert corpus.publish(conn, item, new_chunks("late"), unit_vectors(1)) is None
    assert corpus.current_epoch(conn) == epoch
    assert corpus.tail(conn, 0, limit=9).chunks == []


def test_vectors_that_do_not_match_the_chunks_are_refused(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    with pytest.raises(ValueError, match="2 chunks"):
        corpus.publish(conn, attach(conn, collection_id, "file-a"), new_chunks("a", "b"), unit_vectors(1))


def test_vectors_are_known_for_equal_bytes_and_equal_names_of_the_tenant(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    ingest(conn, collection_id, "file-a", "one", "two")
    expected = {("Guide", text): unit_vectors(2)[n].tobytes() for n, text in enumerate(("one", "two"))}
    assert corpus.known_vectors(conn, "default", sha256=SHA, filename="x") == expected
    assert corpus.known_vectors(conn, "default", sha256="0", filename="file-a.md") == expected
    assert corpus.known_vectors(conn, "default", sha256="0", filename="x") == {}
    assert corpus.known_vectors(conn, "other", sha256=SHA, filename="file-a.md") == {}
