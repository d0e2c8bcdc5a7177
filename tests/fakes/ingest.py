"""An ingest worker on real storage with a scripted embedder; as a process it can be killed.

`python -m tests.fakes.ingest DATABASE_URL FILES_DIR LEASE_S DELAY_S` works until it is killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gateway.ingest.worker import IngestWorker
from gateway.settings import Settings
from gateway.storage import catalog
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.storage.ids import new_id
from gateway.types import DEFAULT_EMBEDDER
from tests.fakes.engines import HashEmbedder


class ScriptedEmbedder:
    """HashEmbedder with knobs: delay_s before each answer; `errors` are raised first, one per call.

    calls counts all of them; max_inflight is the most that ran at once.
    """

    def __init__(self, *, delay_s: float = 0.0, errors: Sequence[Exception] = ()) -> None:
        self.delay_s = delay_s
        self.errors = list(errors)
        self.calls = 0
        self.inflight = 0
        self.max_inflight = 0
        self.texts: list[str] = []
        self.embedders: set[str] = set()
        self._vectors = HashEmbedder()

    async def embed(
        self, texts: Sequence[str], *, role: str, timeout_s: float, embedder: str = DEFAULT_EMBEDDER
    ) -> npt.NDArray[np.float32]:
        self.calls += 1
        self.inflight += 1
        self.max_inflight = max(self.max_inflight, self.inflight)
        try:
            await asyncio.sleep(self.delay_s)
            if self.errors:
                raise self.errors.pop(0)
            self.texts += texts
            self.embedders.add(embedder)
            return await self._vectors.embed(texts, role=role, timeout_s=timeout_s, embedder=embedder)
        finally:
            self.inflight -= 1


def upload(database: Database, blobs: BlobStore, collection_id: str, filename: str, data: bytes) -> str:
    """What the gateway does with an upload of the default tenant, and attaching it; returns the file's id."""
    file_id = new_id("file-")
    writer = blobs.open_writer("default", file_id)
    writer.write(data)
    num_bytes, sha256 = writer.commit()
    assert sha256 == hashlib.sha256(data).hexdigest()
    with database.write() as conn:
        catalog.create_file(
            conn,
            tenant_id="default",
            file_id=file_id,
            filename=filename,
            purpose="assistants",
            num_bytes=num_bytes,
            sha256=sha256,
        )
        catalog.attach_file(conn, "default", collection_id, file_id, {})
    return file_id


async def _work(url: str, files: Path, lease_s: float, delay_s: float) -> None:
    worker = IngestWorker(
        Database(url),
        BlobStore(files),
        ScriptedEmbedder(delay_s=delay_s),
        Settings(ingest_batch=2),
        lease_s=lease_s,
    )
    print("ready", flush=True)
    await worker.run(asyncio.Event())


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    asyncio.run(_work(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
