"""Short words for what the storage tests do all the time, in one transaction of the tenant `default`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import sqlalchemy as sa

from gateway.storage import catalog, corpus, schema
from gateway.storage.corpus import NewChunk
from gateway.storage.database import Database
from gateway.tensors import EMBEDDING_DIM

NOW = 1_000.0
SHA = "ab" * 32


def new_file(conn: sa.Connection, file_id: str, tenant_id: str = "default", **values: Any) -> catalog.FileRow:
    row = {"filename": f"{file_id}.md", "purpose": "assistants", "num_bytes": 5, "sha256": SHA} | values
    return catalog.create_file(conn, tenant_id=tenant_id, file_id=file_id, **row)


def new_chunks(*texts: str) -> list[NewChunk]:
    return [NewChunk(0, len(text), text, "Guide") for text in texts]


def unit_vectors(number: int) -> Any:
    return np.eye(EMBEDDING_DIM, dtype=np.float32)[:number]


def attach(conn: sa.Connection, collection_id: str, file_id: str) -> corpus.WorkItem:
    catalog.attach_file(conn, "default", collection_id, file_id, {})
    item = corpus.claim(conn, lease_s=10, now=NOW)
    assert item is not None
    assert item.file_id == file_id
    return item


def ingest(conn: sa.Connection, collection_id: str, file_id: str, *texts: str) -> int:
    epoch = corpus.publish(
        conn, attach(conn, collection_id, file_id), new_chunks(*texts), unit_vectors(len(texts))
    )
    assert epoch is not None
    return epoch


def new_collection(conn: sa.Connection, name: str = "docs", tenant_id: str = "default") -> str:
    return catalog.create_collection(conn, tenant_id, name, {}).id


def everything(conn: sa.Connection) -> dict[str, list[Any]]:
    return {table.name: list(conn.execute(sa.select(table))) for table in schema.metadata.sorted_tables}


def migrate_at_once(url: str, num: int = 4) -> None:
    """That many processes would: all end well, and the tables are there."""
    databases = [Database(url) for _ in range(num)]
    with ThreadPoolExecutor(num) as threads:
        for migrated in [threads.submit(database.migrate) for database in databases]:
            migrated.result(60)
    with databases[0].read() as conn:
        assert corpus.current_epoch(conn) == 0
    for database in databases:
        database.close()
