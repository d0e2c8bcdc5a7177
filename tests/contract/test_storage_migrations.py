"""A database of the first release, with data in it, becomes one of this release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from gateway.storage import catalog, corpus
from gateway.storage.database import Database
from gateway.types import DEFAULT_EMBEDDER
from tests.contract.conftest import DATABASES
from tests.contract.storing import NOW, new_chunks, unit_vectors

OLD_ROWS: dict[str, dict[str, Any]] = {
    "tenants": {"id": "default", "name": "default", "created_at": 1},
    "collections": {
        "id": "vs_1", "tenant_id": "default", "name": "docs", "metadata": '{"a": 1}', "epoch": 1, "created_at": 1
    },
    "files": {
        "id": "file-1", "tenant_id": "default", "filename": "guide.md", "purpose": "assistants", "num_bytes": 3,
        "sha256": "ab" * 32, "created_at": 1,
    },
    "collection_files": {
        "collection_id": "vs_1", "file_id": "file-1", "tenant_id": "default", "status": "completed",
        "attributes": '{"year": 2024}', "num_chunks": 1, "chunks_done": 1, "usage_bytes": 9, "attempts": 1,
        "lease_until": 0.0, "created_at": 1,
    },
    "chunks": {
        "tenant_id": "default", "collection_id": "vs_1", "file_id": "file-1", "ordinal": 0, "text": "one",
        "start_char": 0, "end_char": 3, "heading": "Guide", "epoch": 1,
    },
    "removals": {"epoch": 1, "tenant_id": "default", "collection_id": "vs_0", "file_id": None},
}  # fmt: skip


@pytest.fixture(params=DATABASES)
def old(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """At revision 0001, with a row in each table that the next one changes."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        url = postgres.new_database(migrated=False)
    database = Database(url)
    with monkeypatch.context() as patch:
        patch.setattr("gateway.storage.database.HEAD", "0001")
        database.migrate()
    with database.write() as conn:
        for table, row in OLD_ROWS.items():
            values = row | ({"vector": unit_vectors(1)[0].tobytes()} if table == "chunks" else {})
            names = ", ".join(values)
            conn.execute(
                sa.text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})"),
                values,
            )
        conn.execute(sa.text("UPDATE corpus_clock SET epoch = 1"))
    yield database
    database.close()


def test_what_was_stored_is_found_again_and_work_goes_on(old: Database) -> None:
    old.migrate()
    with old.write() as conn:
        found = corpus.tail(conn, 0, limit=9)
        (chunk,) = found.chunks
        assert (chunk.text, chunk.page, chunk.embedder) == ("one", 0, DEFAULT_EMBEDDER)
        assert np.array_equal(np.frombuffer(chunk.vector, "<f4"), unit_vectors(1)[0])
        assert len(found.removals) == 1
        collection = catalog.get_collection(conn, "default", "vs_1")
        assert collection is not None
        assert (collection.metadata, collection.embedder, collection.next_embedder) == (
            {"a": 1},
            DEFAULT_EMBEDDER,
            None,
        )
        row = catalog.get_attachment(conn, "default", "vs_1", "file-1")
        assert row is not None
        assert (row.status, row.attributes, row.replaces, row.epoch) == ("completed", {"year": 2024}, None, 0)
        _replace(conn)
        assert [each.text for each in corpus.tail(conn, 1, limit=9).chunks] == ["two"]


def _replace(conn: sa.Connection) -> None:
    catalog.create_file(
        conn, tenant_id="default", file_id="file-2", filename="guide.md", purpose="assistants", num_bytes=3,
        sha256="cd" * 32,
    )  # fmt: skip
    catalog.attach_file(conn, "default", "vs_1", "file-2", {}, replaces="file-1")
    item = corpus.claim(conn, lease_s=10, now=NOW)
    assert item is not None
    assert corpus.publish(conn, item, new_chunks("two"), unit_vectors(1)) == 2
