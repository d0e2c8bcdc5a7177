"""Changes collections to other embedders in the background, behind the files that wait for ingest.

Everything that is done is in SQL (`storage.reembedding`), so it may be killed at any moment and goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import sqlalchemy as sa

from gateway.errors import TidegateError, UpstreamProtocolError
from gateway.ingest.embedded_text import embedded_text
from gateway.ports import Embedder
from gateway.settings import Settings
from gateway.storage import corpus, reembedding
from gateway.storage.database import Database
from gateway.storage.reembedding import Job, LackingChunk

log = logging.getLogger("tidegate.reembed")

POLL_S = 1.0
BUSY_S = 0.5  # between two looks while files wait for ingest
RETRY_S = 5.0
EMBED_TIMEOUT_S = 300.0  # the model gives way to questions, so a batch may take long
PAGE_BATCHES = 4
SWITCH_CHUNKS = 2000  # in one transaction: other writers wait for it
SWITCH_PAUSE_S = 0.05  # for them, between two of ours

T = TypeVar("T")


class Reembedder:
    """Any number may share one database: each begins at another place, and what two have done is kept once."""

    def __init__(self, database: Database, embedder: Embedder, settings: Settings) -> None:
        self._database = database
        self._embedder = embedder
        self._page = PAGE_BATCHES * settings.ingest_batch
        self._places: dict[Job, int] = {}  # the id after which to look on
        self._said: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set or the task is cancelled; raises nothing else."""
        while not stop.is_set():
            pause_s = POLL_S
            try:
                if await self._step():
                    continue
            except TidegateError as error:
                pause_s = RETRY_S
                self._say(f"{error.code}: {error.detail or error.message}")
            except Exception:
                pause_s = RETRY_S
                log.exception("re-embedding failed; next try in %g s", RETRY_S)
            await asyncio.sleep(pause_s)

    async def _step(self) -> bool:
        """A page of each job. False when there is nothing to do. Raises: the first error, after the last job."""
        jobs = await self._read(reembedding.reembedding_jobs)
        self._places = {job: place for job, place in self._places.items() if job in jobs}
        errors: list[TidegateError] = []
        for job in jobs:
            try:
                await (self._switch(job) if job.is_built else self._build(job))
            except TidegateError as error:  # of this embedder, perhaps: the others go on
                errors.append(error)
        if errors:
            raise errors[0]
        return bool(jobs)

    async def _build(self, job: Job) -> None:
        if await self._read(lambda conn: corpus.has_work(conn, now=time.time())):
            return await asyncio.sleep(BUSY_S)
        chunks = await self._next_page(job)
        if chunks:
            await self._embed(job, chunks)
        elif await self._write(lambda conn: reembedding.finish_building(conn, job)):
            log.info("%s: every chunk has a vector of %s: switching", job.collection_id, job.embedder)
        self._said.clear()

    async def _next_page(self, job: Job) -> list[LackingChunk]:
        """Chunks without a vector: from a place of our own on, then from the start."""
        if job not in self._places:
            last = await self._read(lambda conn: reembedding.last_chunk_id(conn, job))
            self._places[job] = random.randrange(last + 1)  # noqa: S311 - only to keep two workers apart
            log.info("%s: embedding anew with %s", job.collection_id, job.embedder)
        for place in dict.fromkeys((self._places[job], 0)):
            chunks = await self._lacking(job, place)
            if chunks:
                self._places[job] = chunks[-1].id
                return chunks
        return []

    async def _lacking(self, job: Job, after_id: int) -> list[LackingChunk]:
        return await self._read(
            lambda conn: reembedding.lacking_chunks(conn, job, after_id=after_id, limit=self._page)
        )

    async def _embed(self, job: Job, chunks: list[LackingChunk]) -> None:
        # A batch is padded to its longest text: texts of like length cost least.
        ordered = sorted(chunks, key=lambda chunk: len(chunk.text))
        texts = [embedded_text(chunk.heading, chunk.text) for chunk in ordered]
        vectors = await self._embedder.embed(
            texts, role="passage", timeout_s=EMBED_TIMEOUT_S, embedder=job.embedder
        )
        if len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise UpstreamProtocolError(
                "The model server sent something else than vectors.",
                detail=f"{job.embedder}: shape {vectors.shape} for {len(texts)} texts, or values that are not finite",
            )
        ids = [chunk.id for chunk in ordered]
        await self._write(lambda conn: reembedding.store_next_vectors(conn, job, ids, vectors))

    async def _switch(self, job: Job) -> None:
        count = await self._write(lambda conn: reembedding.switch_some(conn, job, limit=SWITCH_CHUNKS))
        if count < SWITCH_CHUNKS:
            log.info("%s: searched by %s from now on", job.collection_id, job.embedder)
        await asyncio.sleep(SWITCH_PAUSE_S)

    async def _read(self, step: Callable[[sa.Connection], T]) -> T:
        def read() -> T:
            with self._database.read() as conn:
                return step(conn)

        return await asyncio.to_thread(read)

    async def _write(self, step: Callable[[sa.Connection], T]) -> T:
        def write() -> T:
            with self._database.write() as conn:
                return step(conn)

        return await asyncio.to_thread(write)

    def _say(self, trouble: str) -> None:
        """Once, until something works again."""
        if trouble not in self._said:
            log.warning("re-embedding waits: %s", trouble)
        self._said.add(trouble)
