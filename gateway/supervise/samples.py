"""The sample collection of a first start: the project's own documentation, sent over the public API as anyone would.

Uses the work of `tidegate ingest`: what a try that broke off has left behind is found by name and used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from gateway.cli.client import Api, Target
from gateway.cli.ingest_plan import LocalFile, hash_file, plan
from gateway.cli.ingest_progress import Indexing, Progress
from gateway.cli.ingest_run import IngestRun, remote_files
from gateway.cli.terminal import CommandFailed

COLLECTION = "tidegate-docs"
LIMIT_S = 120.0
LOOK_S = 0.1
GRACE_S = 1.0


class SamplesFailed(RuntimeError):
    """The samples were not ingested. The text is one sentence."""


def ingest_samples(
    target: Target, documents: list[Path], progress: Callable[[str], None], is_over: Callable[[], bool]
) -> str | None:
    """Fill the collection and wait until every document is searchable.

    Returns the collection's id, or None at once when `is_over` says so. Raises: SamplesFailed.
    """
    try:
        return asyncio.run(_unless_over(_ingest(target, documents, progress), is_over))
    except TimeoutError:
        raise SamplesFailed(f"the sample collection is not complete after {LIMIT_S:g} s") from None
    except (CommandFailed, OSError) as error:
        text = str(error).rstrip(".")
        raise SamplesFailed(f"the sample collection could not be ingested ({text})") from error


async def _unless_over(work: Coroutine[Any, Any, str], is_over: Callable[[], bool]) -> str | None:
    task = asyncio.create_task(work)
    async with asyncio.timeout(LIMIT_S):
        while not task.done():
            if is_over():
                task.cancel()
                await asyncio.wait({task}, timeout=GRACE_S)  # it takes a half-made upload back
                return None
            await asyncio.wait({task}, timeout=LOOK_S)
    return await task


async def _ingest(target: Target, documents: list[Path], progress: Callable[[str], None]) -> str:
    files = [hash_file(LocalFile(path, path.name)) for path in documents]
    async with Api(target) as api:
        stores = [(str(item["id"]), item.get("name")) async for item in api.pages("/v1/vector_stores")]
        collection = next((store for store, name in stores if name == COLLECTION), "")
        if not collection:
            collection = str((await api.post("/v1/vector_stores", {"name": COLLECTION}))["id"])
        attached, stored = await remote_files(api, collection)
        others = [store for store, _ in stores if store != collection]
        run = IngestRun(api, collection, others, Progress(lambda *_: None, _Told(progress)))
        summary = await run.run(plan(files, attached, stored), wait=True)
    if summary.failed:
        name, reason = next(iter(summary.failed.items()))
        raise SamplesFailed(f"{len(summary.failed)} of {len(files)} documents failed, first {name}: {reason}")
    return collection


class _Told:
    """A line whenever more documents are done."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._num_done = 0

    def __call__(self, look: Indexing) -> None:
        if look.files_done > self._num_done:
            self._progress(f"{look.files_done} of {look.num_files} documents ingested")
        self._num_done = look.files_done
