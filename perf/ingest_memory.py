"""Resident memory of the ingest worker while it takes in many chunks. The vectors are made up: only memory is measured.

`python -m perf.ingest_memory NUM_CHUNKS` prints the figures; as `python -m perf.ingest_memory work URL FILES` it is the
worker that is measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import psutil
import sqlalchemy as sa

from gateway.ingest.worker import IngestWorker
from gateway.settings import Settings
from gateway.storage import catalog, keys, schema
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.storage.ids import new_id
from gateway.tensors import EMBEDDING_DIM
from gateway.types import DEFAULT_EMBEDDER
from perf.ingest_texts import documents

LOOK_S = 0.1
LIMIT_S = 1800.0
LARGE_SHARE = 0.3  # of the chunks come in one large file
CHUNKS_PER_DOCUMENT = 25  # about


class Memory(msgspec.Struct):
    """resident_mib: (chunks done so far, MiB) at each tenth of the way. The children that read files are not in it."""

    num_chunks: int
    peak_mib: float
    resident_mib: list[tuple[int, float]]


class _MadeUp:
    """ports.Embedder without a model."""

    async def embed(
        self, texts: Sequence[str], *, role: str, timeout_s: float, embedder: str = DEFAULT_EMBEDDER
    ) -> npt.NDArray[np.float32]:
        return np.full((len(texts), EMBEDDING_DIM), EMBEDDING_DIM**-0.5, np.float32)


def measure_memory(num_chunks: int) -> Memory:
    """About num_chunks through a worker process: one large file, the rest in small ones."""
    with tempfile.TemporaryDirectory(prefix="tidegate-memory-") as folder:
        url, files = f"sqlite:///{folder}/memory.db", Path(folder) / "files"
        database = Database(url)
        database.migrate()
        _fill(database, BlobStore(files), num_chunks)
        worker = subprocess.Popen([sys.executable, "-m", "perf.ingest_memory", "work", url, str(files)])
        try:
            return _watch(database, psutil.Process(worker.pid))
        finally:
            worker.terminate()
            worker.wait(30)
            database.close()


def _fill(database: Database, blobs: BlobStore, num_chunks: int) -> None:
    made = documents(max(2, num_chunks // CHUNKS_PER_DOCUMENT), seed=77)
    names = list(made)
    num_large = int(len(names) * LARGE_SHARE)
    large = b"\n\n".join(made.pop(name) for name in names[:num_large])
    with database.write() as conn:
        keys.ensure_tenant(conn, "default")
        collection = catalog.create_collection(conn, "default", "memory", {}).id
        for name, data in [("large.md", large), *made.items()]:
            file_id = new_id("file-")
            writer = blobs.open_writer("default", file_id)
            writer.write(data)
            writer.commit()
            catalog.create_file(
                conn,
                tenant_id="default",
                file_id=file_id,
                filename=name,
                purpose="assistants",
                num_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
            catalog.attach_file(conn, "default", collection, file_id, {})


def _watch(database: Database, worker: psutil.Process) -> Memory:
    table = schema.collection_files.c
    done = sa.select(sa.func.coalesce(sa.func.sum(table.num_chunks), 0)).where(table.status == "completed")
    left = (
        sa.select(sa.func.count()).select_from(schema.collection_files).where(table.status == "in_progress")
    )
    seen: list[tuple[int, float]] = []
    deadline = time.monotonic() + LIMIT_S
    while True:
        with database.read() as conn:
            num_done, num_left = int(conn.execute(done).scalar_one()), int(conn.execute(left).scalar_one())
        seen.append((num_done, worker.memory_info().rss / 2**20))
        if not num_left:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"{num_left} files are not ingested after {LIMIT_S:g} s")
        time.sleep(LOOK_S)
    return Memory(num_done, max(mib for _, mib in seen), _tenths(seen, num_done))


def _tenths(seen: list[tuple[int, float]], total: int) -> list[tuple[int, float]]:
    marks = [total * part // 10 for part in range(11)]
    return [next(look for look in seen if look[0] >= mark) for mark in marks]


async def _work(url: str, files: Path) -> None:
    worker = IngestWorker(Database(url), BlobStore(files), _MadeUp(), Settings())
    await worker.run(asyncio.Event())


if __name__ == "__main__":
    if sys.argv[1] == "work":
        asyncio.run(_work(sys.argv[2], Path(sys.argv[3])))
    else:
        print(measure_memory(int(sys.argv[1])))
