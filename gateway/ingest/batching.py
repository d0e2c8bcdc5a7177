"""Full batches for the embedding model, out of what many files have to embed.

Owns which texts go together and who gets which vectors. Refuses to know files, chunks and Triton.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.errors import UpstreamError, UpstreamProtocolError

Vectors = npt.NDArray[np.float32]
EmbedBatch = Callable[[list[str], str], Awaitable[Vectors]]


class _Text(NamedTuple):
    """One text that waits. The first three order it, and no two have the same."""

    length: int
    job_number: int
    place: int
    job: _Job


class _Job:
    """The texts of one caller. vectors: made with the first batch that comes back."""

    def __init__(self, number: int, texts: Sequence[str], embedder: str, told: Callable[[int], None]) -> None:
        self.texts = texts
        self.embedder = embedder
        self.told = told
        self.num_left = len(texts)
        self.is_taken = bytearray(len(texts))
        self.vectors: Vectors | None = None
        self.done: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self.waiting = sorted(_Text(len(text), number, place, self) for place, text in enumerate(texts))

    def longest_waiting(self) -> _Text | None:
        while self.waiting and self.is_taken[self.waiting[-1].place]:
            self.waiting.pop()
        return self.waiting[-1] if self.waiting else None

    def receive(self, places: list[int], found: Vectors) -> None:
        if self.done.done():
            return
        if self.vectors is None:
            self.vectors = np.empty((len(self.texts), found.shape[1]), np.float32)
        self.vectors[places] = found
        self.num_left -= len(places)
        self.told(len(places))
        if not self.num_left:
            self.done.set_result(self.vectors)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Batcher:
    """Joins the texts of all callers into batches of at most `size`, `num_inflight` of them at once.

    embed: takes the texts of one batch and the embedder's name. A batch is padded to its longest text, so texts of
    like length go together, whoever's they are. Callers take turns in choosing which lengths are next: a small file
    does not wait for the end of a large one.
    """

    def __init__(self, embed: EmbedBatch, *, size: int, num_inflight: int) -> None:
        self._embed = embed
        self._size = size
        self._num_inflight = num_inflight
        self._num_jobs = 0
        self._turns: deque[_Job] = deque()
        self._pending: dict[str, list[_Text]] = {}  # by embedder, in order
        self._running: dict[asyncio.Task[None], set[_Job]] = {}

    async def embed(self, texts: Sequence[str], embedder: str, told: Callable[[int], None]) -> Vectors:
        """Vectors [len(texts), D], in order, for at least one text. told: called with the size of what is done.

        Raises: what the embedding of these texts raised. Leaving (cancellation) takes the texts back.
        """
        self._num_jobs += 1
        job = _Job(self._num_jobs, texts, embedder, told)
        pending = self._pending.setdefault(embedder, [])
        pending += job.waiting
        pending.sort()  # two ordered runs: linear
        self._turns.append(job)
        self._start()
        try:
            return await job.done
        finally:
            self._leave(job)

    def _leave(self, job: _Job) -> None:
        """Forget a job, and what waits or runs only for it."""
        job.done.cancel()
        if job.num_left:
            pending = self._pending[job.embedder]
            pending[:] = [text for text in pending if text.job is not job]
            job.waiting.clear()
            for task, jobs in self._running.items():
                if all(each.done.done() for each in jobs):
                    task.cancel()

    def _start(self) -> None:
        while len(self._running) < self._num_inflight and (batch := self._next_batch()):
            task = asyncio.create_task(self._run(batch))
            self._running[task] = {text.job for text in batch}
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        jobs = self._running.pop(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # nothing that `_run` foresees, but nobody may wait for ever
            for job in jobs:
                job.fail(error)
        self._start()

    def _next_batch(self) -> list[_Text]:
        """The longest waiting text of whose turn it is, and those of nearest length; [] when nothing waits."""
        while self._turns:
            job = self._turns[0]
            anchor = job.longest_waiting()
            if anchor is None:
                self._turns.popleft()
                continue
            self._turns.rotate(-1)
            pending = self._pending[job.embedder]
            low, high = _around(pending, bisect_left(pending, anchor), self._size)
            batch = pending[low:high]
            del pending[low:high]
            for text in batch:
                text.job.is_taken[text.place] = 1
            return batch
        return []

    async def _run(self, batch: list[_Text]) -> None:
        try:
            await self._run_together(batch)
        except UpstreamError as error:
            parts = _by_job(batch)
            if len(parts) == 1:
                batch[0].job.fail(error)
                return
            for part in parts:  # one file's text must not fail the others
                await self._run(part)

    async def _run_together(self, batch: list[_Text]) -> None:
        found = await self._embed([text.job.texts[text.place] for text in batch], batch[0].job.embedder)
        if found.ndim != 2 or len(found) != len(batch) or not np.isfinite(found).all():
            raise UpstreamProtocolError(
                "The model server sent something else than vectors.",
                detail=f"embed: shape {found.shape} for {len(batch)} texts, or values that are not finite",
            )
        row_of = {id(text): row for row, text in enumerate(batch)}
        for part in _by_job(batch):
            rows = [row_of[id(text)] for text in part]
            part[0].job.receive([text.place for text in part], found[rows])


def _by_job(batch: list[_Text]) -> list[list[_Text]]:
    parts: dict[int, list[_Text]] = {}
    for text in batch:
        parts.setdefault(text.job_number, []).append(text)
    return list(parts.values())


def _around(pending: Sequence[_Text], at: int, size: int) -> tuple[int, int]:
    """The run of at most `size` texts that holds place `at` and differs least from it in length."""
    low, high = at, at + 1
    while high - low < min(size, len(pending)):
        below = pending[at].length - pending[low - 1].length if low else None
        above = pending[high].length - pending[at].length if high < len(pending) else None
        if above is None or (below is not None and below <= above):
            low -= 1
        else:
            high += 1
    return low, high
