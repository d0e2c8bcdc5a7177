"""Takes files off the queue and makes them searchable.

Owns the order of the steps, the lease and what happens when a step fails. Several files are worked on at once, so that
the next ones are read while the model is busy with those before; their texts share its batches (`batching.py`). SQL,
parsing and chunking run in threads; the event loop only waits for Triton. A worker may be killed at any moment: until
the one transaction of `corpus.publish` nothing of a file is visible, and afterwards all of it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from gateway.errors import (
    TidegateError,
    Unprocessable,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.ingest.batching import Batcher, Vectors
from gateway.ingest.embedded_text import embedded_text
from gateway.ingest.reading import Limits
from gateway.ingest.room import Place, Room
from gateway.ingest.sandbox import Sandbox
from gateway.ports import Embedder
from gateway.settings import Settings
from gateway.storage import corpus
from gateway.storage.blobs import BlobStore
from gateway.storage.corpus import NewChunk, WorkItem
from gateway.storage.database import Database

log = logging.getLogger("tidegate.ingest")

POLL_S = 0.25
HEARTBEAT_S = 1.0  # how often the lease is renewed and a client sees progress
EMBED_TIMEOUT_S = 300.0  # the model gives way to questions, so a batch may take long
MAX_FILES = 8  # worked on at once
NUM_READING = 3  # of these read and cut at once: threads stay free for the leases of the others
NUM_EMBEDDING = 2  # calls in flight: one computes, the next one is there when it ends
MAX_REFUSALS = 5  # of one batch by a Triton that is there; an absent one is waited for without end
READING = 3  # raised when equal bytes are read or cut otherwise than before
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0

T = TypeVar("T")


@dataclass
class _Progress:
    chunks_done: int = 0
    num_chunks: int = 0

    def add(self, count: int) -> None:
        self.chunks_done += count


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
        self._batcher = Batcher(self._embed_batch, size=settings.ingest_batch, num_inflight=NUM_EMBEDDING)
        self._room = Room(settings.max_file_bytes)
        self._sandbox = Sandbox()
        self._reading = asyncio.Semaphore(NUM_READING)
        self._is_database_down = False

    async def run(
        self,
        stop: asyncio.Event,
        wake: asyncio.Event | None = None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Until `stop` is set; what is being worked on then goes back to the queue. `wake`: look at once. on_turn: told
        each time before the queue is looked at, which is every POLL_S, or when the database has answered."""
        wake = wake or asyncio.Event()
        stopping = asyncio.create_task(stop.wait())
        files: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            files.discard(task)
            wake.set()

        try:
            while not stopping.done():
                on_turn()
                wake.clear()  # before the look, so that news during it is not lost
                item = await self._next_item() if len(files) < MAX_FILES else None
                if item is None:
                    await _first_of(stopping, wake, POLL_S)
                    continue
                task = asyncio.create_task(self._work_on(item, stopping))
                files.add(task)
                task.add_done_callback(ended)
            while files:
                await asyncio.wait(files)
        finally:
            stopping.cancel()
            for task in files:
                task.cancel()
            self._sandbox.close()

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
        epoch = await _insist(lambda: self._publish_copy(item), stopping)
        if epoch is not None:
            return f"copied from an equal file, epoch {epoch}"
        progress, beat_s = _Progress(), min(HEARTBEAT_S, self._lease_s / 3)
        place = self._room.place(item.num_bytes)
        preparing = asyncio.create_task(self._prepare(item, progress, place))
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
            chunks, vectors = preparing.result()
            epoch = await _insist(lambda: self._publish(item, chunks, vectors), stopping)
        finally:
            preparing.cancel()
            await asyncio.wait({preparing})
            place.leave()
        return "taken away" if epoch is None else f"{len(chunks)} chunks, epoch {epoch}"

    async def _prepare(
        self, item: WorkItem, progress: _Progress, place: Place
    ) -> tuple[list[NewChunk], Vectors]:
        await place.enter()
        async with self._reading:
            chunks = await _insist(lambda: self._read_chunks(item))
        known = await _insist(lambda: self._known(item))
        progress.num_chunks = len(chunks)
        found = {
            at: vector
            for at, chunk in enumerate(chunks)
            if (vector := known.get((chunk.heading, chunk.text)))
        }
        del known
        progress.chunks_done = len(found)
        missing = [at for at in range(len(chunks)) if at not in found]
        made = np.empty((0, 0), np.float32)
        if missing:
            texts = [embedded_text(chunks[at].heading, chunks[at].text) for at in missing]
            made = await self._batcher.embed(texts, item.embedder, progress.add)
        return chunks, _joined(found, missing, made)

    async def _embed_batch(self, texts: list[str], embedder: str) -> Vectors:
        """Vectors of one batch, however long Triton is away.

        Raises: UpstreamError when a Triton that answers refused these texts MAX_REFUSALS times.
        """
        num_refusals = 0
        for pause_s in _pauses():
            try:
                return await self._embedder.embed(
                    texts, role="passage", timeout_s=EMBED_TIMEOUT_S, embedder=embedder
                )
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
            if not corpus.has_work(conn, now=self._clock(), lease_s=self._lease_s):
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
        limits = Limits(
            self._settings.chunk_chars, self._settings.chunk_overlap_chars, self._settings.ingest_max_pages
        )
        found = self._sandbox.read(data, item.filename, limits)
        self._blobs.write_text(item.tenant_id, item.file_id, found.text, found.page_starts)
        return [
            NewChunk(cut.start, cut.end, found.text[cut.start : cut.end], cut.heading, cut.page)
            for cut in found.cuts
        ]

    def _known(self, item: WorkItem) -> dict[tuple[str, str], bytes]:
        with self._database.read() as conn:
            return corpus.known_vectors(
                conn, item.tenant_id, sha256=item.sha256, filename=item.filename, embedder=item.embedder
            )

    def _publish(self, item: WorkItem, chunks: list[NewChunk], vectors: Vectors) -> int | None:
        with self._database.write() as conn:
            return corpus.publish(conn, item, chunks, vectors, self._recipe(item))

    def _publish_copy(self, item: WorkItem) -> int | None:
        """Equal bytes that are searchable already need no reading and no model. None when there are none."""
        recipe = self._recipe(item)
        with self._database.read() as conn:
            source = corpus.equal_file(conn, item, recipe)
        if source is None:
            return None
        if source.file_id != item.file_id and not self._blobs.copy_text(
            item.tenant_id, source.file_id, item.file_id
        ):
            return None
        with self._database.write() as conn:
            return corpus.publish_copy(conn, item, source, recipe)

    def _recipe(self, item: WorkItem) -> str:
        """All that decides a file's chunks beside its bytes."""
        settings = self._settings
        parts = (
            READING,
            settings.chunk_chars,
            settings.chunk_overlap_chars,
            Path(item.filename).suffix.lower(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _joined(known: dict[int, bytes], missing: list[int], made: Vectors) -> Vectors:
    """Vectors of all chunks: those that are known and those that were made. Shapes: made [len(missing), D]."""
    if not known:
        return made
    width = len(next(iter(known.values()))) // 4
    vectors = np.empty((len(known) + len(missing), width), np.float32)
    for at, vector in known.items():
        vectors[at] = np.frombuffer(vector, "<f4")
    if missing:
        vectors[missing] = made
    return vectors


async def _first_of(stopping: asyncio.Task[bool], wake: asyncio.Event, timeout_s: float) -> None:
    waking = asyncio.create_task(wake.wait())
    await asyncio.wait({stopping, waking}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    waking.cancel()


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
