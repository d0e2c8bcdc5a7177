"""Takes files off the queue and makes them searchable.

Owns the order of the steps, the lease and what happens when a step fails. SQL, parsing and chunking run in
threads; the event loop only waits for Triton. A worker may be killed at any moment: until the one transaction
of `corpus.publish` nothing of a file is visible, and afterwards all of it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gateway.errors import (
    TidegateError,
    Unprocessable,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.ingest.reading import Limits
from gateway.ingest.sandbox import read_limited
from gateway.ports import Embedder
from gateway.settings import Settings
from gateway.storage import corpus
from gateway.storage.blobs import BlobStore
from gateway.storage.corpus import NewChunk, WorkItem
from gateway.storage.database import Database
from gateway.tensors import EMBEDDING_DIM

log = logging.getLogger("tidegate.ingest")

POLL_S = 0.25
HEARTBEAT_S = 1.0  # how often the lease is renewed and a client sees progress
EMBED_TIMEOUT_S = 60.0
NUM_LANES = 2  # files at once, and embedding calls in flight over all of them
MAX_REFUSALS = 5  # of one batch by a Triton that is there; an absent one is waited for without end
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0

Vectors = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass
class _Progress:
    chunks_done: int = 0
    num_chunks: int = 0


class IngestWorker:
    """Works on the queue until told to stop. Any number of workers may share one database.

    clock: unix seconds. lease_s: how long a file waits for another worker when this one is killed.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        embedder: Embedder,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        *,
        lease_s: float = 15.0,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._embedder = embedder
        self._settings = settings
        self._clock = clock
        self._lease_s = lease_s
        self._embed_slots = asyncio.Semaphore(NUM_LANES)
        self._is_database_down = False

    async def run(self, stop: asyncio.Event, wake: asyncio.Event | None = None) -> None:
        """Until `stop` is set; what is being worked on then goes back to the queue. `wake`: look at once."""
        wake = wake or asyncio.Event()
        stopping = asyncio.create_task(stop.wait())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(NUM_LANES):
                    group.create_task(self._lane(stopping, wake))
        finally:
            stopping.cancel()

    async def _lane(self, stopping: asyncio.Task[bool], wake: asyncio.Event) -> None:
        while not stopping.done():
            wake.clear()  # before the look, so that news during it is not lost
            item = await self._next_item()
            if item is not None:
                await self._work_on(item, stopping)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), POLL_S)

    async def _next_item(self) -> WorkItem | None:
        try:
            item = await asyncio.to_thread(self._claim)
        except UpstreamUnavailable as error:
            if not self._is_database_down:
                log.warning("ingest: waiting for the database: %s", error.detail)
            self._is_database_down = True
            return None
        self._is_database_down = False
        return item

    async def _work_on(self, item: WorkItem, stopping: asyncio.Task[bool]) -> None:
        """One file, from its claim to its end or back into the queue. Raises nothing but cancellation."""
        name = f"{item.file_id} ({item.filename!r}) in {item.collection_id}"
        began = time.monotonic()
        try:
            done = await self._index(item, stopping)
        except TidegateError as error:
            if stopping.done():  # it only stopped trying
                return await self._release(item)
            log.warning("ingest: %s failed: %s: %s %s", name, error.code, error.message, error.detail)
            await self._fail(item, error.code, error.message, stopping)
        except Exception:
            log.exception("ingest: %s failed", name)
            message = "The file could not be processed; the log has the reason."
            await self._fail(item, "server_error", message, stopping)
        else:
            log.info("ingest: %s: %s in %.2f s", name, done, time.monotonic() - began)

    async def _index(self, item: WorkItem, stopping: asyncio.Task[bool]) -> str:
        """Returns what became of it, for the log. Raises whatever makes the file fail."""
        progress, beat_s = _Progress(), min(HEARTBEAT_S, self._lease_s / 3)
        preparing = asyncio.create_task(self._prepare(item, progress))
        try:
            while not preparing.done():
                await asyncio.wait({preparing, stopping}, timeout=beat_s, return_when=asyncio.FIRST_COMPLETED)
                if preparing.done():
                    break
                if stopping.done():
                    await self._release(item)
                    return "handed back"
                if not await self._renew(item, progress):
                    return "taken away"
        finally:
            preparing.cancel()
            await asyncio.wait({preparing})
        chunks, vectors = preparing.result()
        epoch = await _insist(lambda: self._publish(item, chunks, vectors), stopping)
        return "taken away" if epoch is None else f"{len(chunks)} chunks, epoch {epoch}"

    async def _prepare(self, item: WorkItem, progress: _Progress) -> tuple[list[NewChunk], Vectors]:
        chunks = await _insist(lambda: self._read_chunks(item))
        known = await _insist(lambda: self._known(item))
        progress.num_chunks = len(chunks)
        vectors = np.empty((len(chunks), EMBEDDING_DIM), np.float32)
        missing: list[int] = []
        for index, chunk in enumerate(chunks):
            vector = known.get((chunk.heading, chunk.text))
            if vector is None:
                missing.append(index)
            else:
                vectors[index] = np.frombuffer(vector, "<f4")
        progress.chunks_done = len(chunks) - len(missing)
        # A batch is padded to its longest text: texts of like length cost least.
        missing.sort(key=lambda index: len(chunks[index].text))
        await self._embed(chunks, missing, vectors, progress)
        return chunks, vectors

    async def _embed(
        self, chunks: list[NewChunk], missing: list[int], vectors: Vectors, progress: _Progress
    ) -> None:
        """Fill the rows `missing` of `vectors`."""
        size = self._settings.ingest_batch
        batches = iter([missing[start : start + size] for start in range(0, len(missing), size)])

        async def lane() -> None:
            for batch in batches:
                vectors[batch] = await self._embed_batch([_embedded_text(chunks[index]) for index in batch])
                progress.chunks_done += len(batch)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(NUM_LANES):
                    group.create_task(lane())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _embed_batch(self, texts: list[str]) -> Vectors:
        """Vectors of one batch, however long Triton is away.

        Raises: UpstreamError when a Triton that answers refused these texts MAX_REFUSALS times.
        """
        num_refusals = 0
        for pause_s in _pauses():
            try:
                async with self._embed_slots:
                    found = await self._embedder.embed(texts, role="passage", timeout_s=EMBED_TIMEOUT_S)
                return _checked(found, len(texts))
            except UpstreamError as error:
                num_refusals += not isinstance(error, UpstreamUnavailable | UpstreamTimeout)
                if num_refusals == MAX_REFUSALS:
                    raise
                log.warning("ingest: embedding failed, trying again: %s: %s", error.code, error.detail)
            await asyncio.sleep(pause_s)
        raise AssertionError("the pauses never end")

    async def _renew(self, item: WorkItem, progress: _Progress) -> bool:
        def renew() -> bool:
            with self._database.write() as conn:
                return corpus.renew(
                    conn,
                    item,
                    lease_s=self._lease_s,
                    now=self._clock(),
                    chunks_done=progress.chunks_done,
                    num_chunks=progress.num_chunks,
                )

        try:
            return await asyncio.to_thread(renew)
        except UpstreamUnavailable as error:
            log.warning("ingest: lease of %s not renewed: %s", item.file_id, error.detail)
            return True  # publish will find out whether the lease is still ours

    async def _release(self, item: WorkItem) -> None:
        def release() -> None:
            with self._database.write() as conn:
                corpus.release(conn, item)

        try:
            await asyncio.to_thread(release)
        except UpstreamUnavailable as error:
            log.warning("ingest: %s waits for its lease to run out: %s", item.file_id, error.detail)

    async def _fail(self, item: WorkItem, code: str, message: str, stopping: asyncio.Task[bool]) -> None:
        def fail() -> None:
            with self._database.write() as conn:
                corpus.fail(conn, item, code, message)

        with contextlib.suppress(UpstreamUnavailable):  # stopped while trying: the next worker finds the same
            await _insist(fail, stopping)

    # Steps that block; each runs in a thread.

    def _claim(self) -> WorkItem | None:
        with self._database.read() as conn:
            if not corpus.has_work(conn, now=self._clock()):
                return None
        with self._database.write() as conn:
            return corpus.claim(conn, lease_s=self._lease_s, now=self._clock())

    def _read_chunks(self, item: WorkItem) -> list[NewChunk]:
        """Raises: Unprocessable when the file cannot be read as text."""
        if item.num_bytes > self._settings.max_file_bytes:
            raise Unprocessable(
                f"The file has {item.num_bytes} bytes; at most {self._settings.max_file_bytes} are read.",
                code="file_too_large",
            )
        data = self._blobs.path(item.tenant_id, item.file_id).read_bytes()
        limits = Limits(self._settings.chunk_chars, self._settings.chunk_overlap_chars)
        found = read_limited(data, item.filename, limits)
        self._blobs.write_text(item.tenant_id, item.file_id, found.text)
        return [
            NewChunk(cut.start, cut.end, found.text[cut.start : cut.end], cut.heading) for cut in found.cuts
        ]

    def _known(self, item: WorkItem) -> dict[tuple[str, str], bytes]:
        with self._database.read() as conn:
            return corpus.known_vectors(conn, item.tenant_id, sha256=item.sha256, filename=item.filename)

    def _publish(self, item: WorkItem, chunks: list[NewChunk], vectors: Vectors) -> int | None:
        with self._database.write() as conn:
            return corpus.publish(conn, item, chunks, vectors)


def _embedded_text(chunk: NewChunk) -> str:
    """The heading says what a passage is about when the passage itself does not."""
    return f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text


def _checked(found: Vectors, number: int) -> Vectors:
    if found.shape != (number, EMBEDDING_DIM) or not np.isfinite(found).all():
        raise UpstreamProtocolError(
            "The model server sent something else than vectors.",
            detail=f"embed: shape {found.shape} for {number} texts, or values that are not finite",
        )
    return found


async def _insist(step: Callable[[], T], stopping: asyncio.Task[bool] | None = None) -> T:
    """Run a step in a thread, again and again while database or disk are away.

    Raises: what the step raises; UpstreamUnavailable only once `stopping` is done.
    """
    for pause_s in _pauses():
        try:
            return await asyncio.to_thread(step)
        except UpstreamUnavailable as error:
            if stopping is not None and stopping.done():
                raise
            log.warning("ingest: trying again: %s: %s", error.code, error.detail)
        await asyncio.sleep(pause_s)
    raise AssertionError("the pauses never end")


def _pauses() -> Iterator[float]:
    """0.2, 0.4, 0.8, 1.6, 3.2, then 5 seconds without end."""
    yield from (FIRST_PAUSE_S * 2**number for number in range(5))
    yield from itertools.repeat(LONGEST_PAUSE_S)
