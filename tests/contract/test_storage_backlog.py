"""What the gauges read of the ingest queue."""

from __future__ import annotations

import sqlalchemy as sa

from gateway.storage import catalog, corpus, schema
from gateway.storage.backlog import Backlog, ingest_backlog
from tests.contract.storing import NOW, attach, new_collection, new_file


def test_an_empty_queue_has_no_age(conn: sa.Connection) -> None:
    assert ingest_backlog(conn, NOW) == Backlog(0, 0, 0.0, 0)


def test_files_in_work_and_waiting_are_told_apart_until_the_lease_is_over(conn: sa.Connection) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    item = attach(conn, collection_id, "file-a")
    new_file(conn, "file-b")
    catalog.attach_file(conn, "default", collection_id, "file-b", {})
    conn.execute(sa.update(schema.collection_files).values(created_at=int(NOW) - 60))
    assert ingest_backlog(conn, NOW + 5) == Backlog(2, 1, 65.0, 1)
    assert ingest_backlog(conn, NOW + 11) == Backlog(2, 0, 71.0, 1)
    assert corpus.fail(conn, item, "server_error", "x")
    assert ingest_backlog(conn, NOW + 11) == Backlog(1, 0, 71.0, 0)
