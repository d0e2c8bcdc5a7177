"""Puts documents into a real database the way the ingest worker does, with vectors of the test's choice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from gateway.storage import attachments, collections, corpus, files, schema
from gateway.storage.database import Database
from gateway.storage.ids import new_id


def new_collection(database: Database, tenant_id: str, name: str = "docs") -> str:
    with database.write() as conn:
        if conn.execute(sa.select(schema.tenants).where(schema.tenants.c.id == tenant_id)).first() is None:
            conn.execute(sa.insert(schema.tenants), {"id": tenant_id, "name": tenant_id, "created_at": 1})
        return collections.create_collection(conn, tenant_id, name, {}).id


def add_file(
    database: Database,
    tenant_id: str,
    collection_id: str,
    texts: Sequence[str],
    vectors: npt.NDArray[np.float32],
    *,
    filename: str = "notes.md",
    attributes: dict[str, Any] | None = None,
    replaces: str | None = None,
    heading: str = "",
) -> str:
    """A file whose chunks are `texts`, searchable from now on; returns its id. Shapes: vectors [len(texts), D]."""
    file_id, whole = new_id("file-"), "".join(texts)
    with database.write() as conn:
        files.create_file(
            conn,
            tenant_id=tenant_id,
            file_id=file_id,
            filename=filename,
            purpose="assistants",
            num_bytes=len(whole),
            sha256=hashlib.sha256(whole.encode()).hexdigest(),
        )
        attachments.attach_files(
            conn, tenant_id, collection_id, [file_id], attributes or {}, replaces=replaces
        )
        item = corpus.claim(conn, lease_s=60, now=0.5)
        assert item is not None
        assert item.file_id == file_id
        starts = np.cumsum([0, *[len(text) for text in texts]])
        chunks = [
            corpus.NewChunk(int(start), int(start) + len(text), text, heading)
            for start, text in zip(starts[:-1], texts, strict=True)
        ]
        assert corpus.publish(conn, item, chunks, vectors) is not None
    return file_id


def remove_file(database: Database, tenant_id: str, collection_id: str, file_id: str) -> None:
    with database.write() as conn:
        assert attachments.detach_file(conn, tenant_id, collection_id, file_id)


def remove_collection(database: Database, tenant_id: str, collection_id: str) -> None:
    with database.write() as conn:
        assert collections.delete_collection(conn, tenant_id, collection_id)
