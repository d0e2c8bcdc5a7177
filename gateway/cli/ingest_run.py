"""The work of `tidegate ingest`: carry a plan out against the service.

Every step leaves a state that a second run completes: an upload that was not attached is taken back or used
again, and an old version goes in the moment its successor can be searched.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.cli.client import Api, ApiError
from gateway.cli.ingest_plan import LocalFile, RemoteFile, Step
from gateway.cli.ingest_progress import Indexing, Progress
from gateway.cli.terminal import CommandFailed, printable

NUM_UPLOADS = 4  # in flight at once
NUM_TRIES = 5  # of a call that the service refuses for lack of room
POLL_S = (0.1, 1.0)  # first and longest pause between two looks at the indexing
BUSY_FILES = 100  # files in progress that one look shows: the service works on the oldest


@dataclass
class Summary:
    """What became of each file, by name."""

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)  # attached, not waited for
    failed: dict[str, str] = field(default_factory=dict)  # name -> reason

    def in_order(self) -> Summary:
        """The same, by name: files settle in no order of their own."""
        added, replaced, unchanged, queued = (
            sorted(names) for names in (self.added, self.replaced, self.unchanged, self.queued)
        )
        return Summary(added, replaced, unchanged, queued, dict(sorted(self.failed.items())))

    def settle(self, step: Step) -> None:
        """A file that arrived; one that was resumed counts as what its first run had begun."""
        if step.action == "unchanged":
            self.unchanged.append(step.file.name)
        elif step.action == "replace" or (step.action == "resume" and step.stale):
            self.replaced.append(step.file.name)
        else:
            self.added.append(step.file.name)


async def remote_files(api: Api, collection: str) -> tuple[list[RemoteFile], list[RemoteFile]]:
    """Files attached to the collection, and all files of the tenant. Newest last."""
    stored = [_stored(item) async for item in api.pages("/v1/files")]
    by_id = {remote.file_id: remote for remote in stored}
    attached = []
    async for item in api.pages(f"/v1/vector_stores/{collection}/files"):
        known = by_id.get(item["id"], RemoteFile(item["id"], "", ""))
        attributes = item.get("attributes") or {}
        attached.append(
            RemoteFile(
                item["id"],
                str(attributes.get("path") or known.name),
                str(attributes.get("sha256") or known.sha256),
                str(item.get("status", "")),
                int(item.get("created_at") or 0),
                str((item.get("tidegate") or {}).get("replaces") or ""),
            )
        )
    return sorted(attached, key=lambda remote: remote.created_at), stored


def _stored(item: dict[str, Any]) -> RemoteFile:
    sha256 = str((item.get("tidegate") or {}).get("sha256") or "")
    return RemoteFile(item["id"], str(item.get("filename", "")), sha256)


class IngestRun:
    """One run over one collection. `summary` is right at every moment, also when the run is cancelled."""

    def __init__(
        self, api: Api, collection: str, other_collections: Iterable[str], progress: Progress
    ) -> None:
        self.summary = Summary()
        self._api = api
        self._collection = collection
        self._others = tuple(other_collections)
        self._progress = progress
        self._pending: dict[str, Step] = {}  # by file id: attached, not settled
        self._since: dict[str, tuple[int, str]] = {}  # by file id: where the service has it in its listing

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    async def run(self, steps: list[Step], *, wait: bool) -> Summary:
        """Raises: CommandFailed when the service is gone or refuses the key; single files only fail."""
        await self._upload_all(steps)
        if wait:
            await self._wait()
        else:
            self.summary.queued += [step.file.name for step in self._pending.values()]
        return self.summary.in_order()

    async def _upload_all(self, steps: list[Step]) -> None:
        for step in (step for step in steps if step.action == "unchanged"):
            await self._remove(step.stale)
            self.summary.settle(step)
        waiting = iter([step for step in steps if step.action != "unchanged"])
        total, done = len(steps) - len(self.summary.unchanged), 0

        async def work() -> None:
            nonlocal done
            for step in waiting:  # one iterator for all workers: each step is taken once
                await self._attach(step)
                done += 1
                self._progress.uploaded(done, total, step.file.name)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(NUM_UPLOADS, total)):
                    workers.create_task(work())
        except ExceptionGroup as group:  # the workers met the same: say it once
            raise group.exceptions[0] from None

    async def _attach(self, step: Step) -> None:
        """Upload (unless the bytes are there) and attach one file; its failure is noted, not raised."""
        if step.action == "resume":
            self._pending[step.file_id] = step
            return
        try:
            attached = await self._upload_and_attach(step)
        except OSError as error:
            self.summary.failed[step.file.name] = f"cannot be read: {error.strerror or error}"
        except ApiError as error:
            if error.status in {401, 403}:
                raise
            self.summary.failed[step.file.name] = str(error)
        else:
            self._pending[attached["id"]] = step
            self._since[attached["id"]] = _place(attached)

    async def _upload_and_attach(self, step: Step) -> dict[str, Any]:
        file_id, sha256 = step.file_id, step.file.sha256
        is_ours = not file_id
        if is_ours:
            stored = await self._patiently(lambda: self._upload(step.file))
            file_id = stored["id"]
            # the service's hash is of what it got: the file may have changed since it was planned
            sha256 = (stored.get("tidegate") or {}).get("sha256") or sha256
        body = {"file_id": file_id, "attributes": {"path": step.file.name, "sha256": sha256}}
        if step.replaces:
            body["tidegate"] = {"replaces": step.replaces}
        path = f"/v1/vector_stores/{self._collection}/files"
        try:
            attached: dict[str, Any] = await self._patiently(lambda: self._api.post(path, body))
        except BaseException:  # also when cancelled: an upload that no collection shows is litter
            if is_ours:  # one that was there already may be held by other collections
                with contextlib.suppress(CommandFailed):
                    await asyncio.shield(self._api.delete(f"/v1/files/{file_id}"))
            raise
        return attached

    async def _upload(self, file: LocalFile) -> Any:
        with file.path.open("rb") as content:
            parts = {"file": (file.name, content, "application/octet-stream")}
            return await self._api.call("POST", "/v1/files", data={"purpose": "assistants"}, files=parts)

    async def _patiently(self, call: Callable[[], Any]) -> Any:
        """The call's result, after as many waits as a service without room asks for."""
        for attempt in range(NUM_TRIES):
            try:
                return await call()
            except ApiError as error:
                if error.status not in {429, 503} or attempt == NUM_TRIES - 1:
                    raise
                await asyncio.sleep(min(error.retry_after_s or 0.5 * 2**attempt, 30.0))
        raise AssertionError("unreachable")

    async def _wait(self) -> None:
        """Follow the indexing to its end, settling each file as it gets there."""
        watch, pause_s = _Watch(self._pending), POLL_S[0]
        while self._pending:
            for item in await self._states():
                watch.saw(item)
                await self._note(item)
            self._progress.indexed(watch.indexing(self._pending))
            if self._pending:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, POLL_S[1])

    async def _states(self) -> list[dict[str, Any]]:
        """Of the files that are worked on, and of those that have come to an end since the last look.

        The listing of what is in progress begins with the oldest: what should stand in its first page and does not has
        come to its end. So a look costs one call, and one more for each file over the whole run.
        """
        path = f"/v1/vector_stores/{self._collection}/files"
        page = await self._api.get(path, filter="in_progress", order="asc", limit=BUSY_FILES)
        busy = {item["id"]: item for item in page["data"]}
        last = _place(page["data"][-1]) if page.get("has_more") else None
        ended = [
            file_id
            for file_id in self._pending
            if file_id not in busy and (last is None or self._since.get(file_id, last) <= last)
        ]
        return [*busy.values(), *[await self._state(path, file_id) for file_id in ended]]

    async def _state(self, path: str, file_id: str) -> dict[str, Any]:
        try:
            item: dict[str, Any] = await self._api.get(f"{path}/{file_id}")
        except ApiError as error:
            if error.status != 404:
                raise
            return _gone(file_id)
        return item

    async def _note(self, item: dict[str, Any]) -> None:
        step = self._pending.get(item["id"])
        if step is None or item["status"] == "in_progress":
            return
        if item["status"] == "completed":
            await self._remove(step.stale, replaced=step.replaces)
            self.summary.settle(step)
        else:
            message = (item.get("last_error") or {}).get("message") or item["status"]
            self.summary.failed[step.file.name] = printable(str(message))
        del self._pending[item["id"]]

    async def _remove(self, file_ids: Iterable[str], replaced: str = "") -> None:
        """Detach old versions (but the replaced one: the service has), delete those that no other collection holds."""
        for file_id in file_ids:
            path = f"/v1/vector_stores/{self._collection}/files/{file_id}"
            if file_id != replaced:
                await self._unless_gone(self._api.delete(path))
            if not await self._is_elsewhere(file_id):
                await self._unless_gone(self._api.delete(f"/v1/files/{file_id}"))

    async def _is_elsewhere(self, file_id: str) -> bool:
        for other in self._others:
            if await self._unless_gone(self._api.get(f"/v1/vector_stores/{other}/files/{file_id}")):
                return True
        return False

    async def _unless_gone(self, call: Any) -> Any:
        try:
            return await call
        except ApiError as error:
            if error.status != 404:
                raise
            return None


class _Watch:
    """Counts what the looks at the indexing have shown."""

    def __init__(self, pending: dict[str, Step]) -> None:
        self._began = time.monotonic()
        self._num_files = len(pending)
        self._sizes = {file_id: max(1, step.file.num_bytes) for file_id, step in pending.items()}
        self._total = sum(self._sizes.values()) or 1
        self._seen: dict[str, tuple[int, float]] = {}  # by file id: chunks done, share done

    def saw(self, item: dict[str, Any]) -> None:
        if item["id"] not in self._sizes:  # another run's
            return
        told = item.get("tidegate") or {}
        done, total = int(told.get("chunks_done") or 0), int(told.get("num_chunks") or 0)
        is_over = item["status"] != "in_progress"
        self._seen[item["id"]] = (done, 1.0 if is_over else done / total if total else 0.0)

    def indexing(self, pending: dict[str, Step]) -> Indexing:
        busy = next(
            (step.file.name for file_id, step in pending.items() if self._seen.get(file_id, (0, 0))[0]), ""
        )
        return Indexing(
            self._num_files - len(pending),
            self._num_files,
            sum(done for done, _ in self._seen.values()),
            sum(self._sizes[file_id] * share for file_id, (_, share) in self._seen.items()) / self._total,
            time.monotonic() - self._began,
            busy,
        )


def _place(item: dict[str, Any]) -> tuple[int, str]:
    """Where a file stands in a listing by age."""
    return int(item.get("created_at") or 0), str(item["id"])


def _gone(file_id: str) -> dict[str, Any]:
    return {"id": file_id, "status": "cancelled", "last_error": {"message": "removed while it was indexed"}}
