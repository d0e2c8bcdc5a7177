"""From an upload to a passage: the ingest worker, real embeddings on a real Triton, and its search."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ingest.worker import IngestWorker
from gateway.retrieval.triton_models import TritonEmbedder, TritonRetriever
from gateway.settings import load_settings
from gateway.storage import catalog, keys
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.triton import TritonClient
from gateway.types import Passage, Scope
from tests.fakes.ingest import upload
from tests.fakes.triton_process import MODELS, TritonProcess, free_port, running_triton

GUIDE = """# Harbour guide

## Opening hours

The harbour office is open from seven to noon, on market days until four.

## Tide gate

The gate closes by itself when the sea stands higher than the river behind it.
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'tidegate.db'}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def triton(
    triton_installed: None, models_dir: Path, database: Database, tmp_path: Path
) -> Iterator[TritonProcess]:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "models").symlink_to(models_dir)
    settings = load_settings(
        {},
        var=tmp_path / "var",
        port=free_port(),
        database_url=f"sqlite:///{tmp_path / 'tidegate.db'}",
        chunk_chars=120,
        chunk_overlap_chars=0,
    )
    with running_triton(tmp_path, sorted((MODELS / "retrieval").iterdir()), settings) as process:
        yield process


async def test_an_upload_is_found_by_its_meaning_soon_after_it_is_done(
    triton: TritonProcess, database: Database, tmp_path: Path
) -> None:
    blobs, client = BlobStore(tmp_path / "files"), TritonClient(triton.target)
    with database.write() as conn:
        keys.ensure_tenant(conn, "default")
        collection_id = catalog.create_collection(conn, "default", "docs", {}).id
    file_id = upload(database, blobs, collection_id, "guide.md", GUIDE.encode())
    stop = asyncio.Event()
    worker = IngestWorker(database, blobs, TritonEmbedder(client), triton.settings)
    running = asyncio.create_task(worker.run(stop))
    try:
        await _until_completed(database, collection_id, file_id)
        done = time.monotonic()
        best = (await _passages(client, "When does the barrier shut?"))[0]
        assert time.monotonic() - done < 2.0  # most often a tenth
    finally:
        stop.set()
        await running
        await client.close()
    assert best.heading == "Harbour guide > Tide gate"
    assert (best.file_id, best.filename, best.collection_id) == (file_id, "guide.md", collection_id)
    assert GUIDE[best.start : best.end] == best.text


async def _until_completed(database: Database, collection_id: str, file_id: str) -> None:
    async with asyncio.timeout(30):
        while True:
            with database.read() as conn:
                row = catalog.get_attachment(conn, "default", collection_id, file_id)
            assert row is not None
            if row.status != "in_progress":
                assert row.status == "completed", row.error_message
                return
            await asyncio.sleep(0.02)


async def _passages(client: TritonClient, question: str) -> list[Passage]:
    """As soon as there are any: the index follows the database with a short delay."""
    retriever = TritonRetriever(client)
    async with asyncio.timeout(5):
        while True:
            scope = Scope(tenant_id="default", k=3)
            if found := (await retriever.retrieve(question, scope, timeout_s=5)).passages:
                return found
            await asyncio.sleep(0.02)
