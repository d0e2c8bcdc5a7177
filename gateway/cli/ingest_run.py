"""The work of `tidegate ingest`: carry a plan out against the service.

Every step leaves a state that a second run completes: an upload that was not attached is taken back or used
again, and an old version goes only after its successor can be searched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.cli.client import Api, ApiError
from gateway.cli.ingest_plan import LocalFile, RemoteFile, Step
from gateway.cli.terminal import CommandFailed, printable

NUM_UPLOADS = 4  # in flight at once
NUM_TRIES = 5  # of a call that the service refuses for lack of room
POLL_S = (0.1, 1.0)  # first and longest pause between two looks at the indexing
FEW_FILES = 10  # up to here each file is asked for; above, the collection is listed


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


@dataclass(frozen=True)
class Progress:
    """What the run tells while it works. Both take (files done, files in all, what is going on)."""

    uploaded: Callable[[int, int, str], None]
    indexed: Callable[[int, int, str], None]


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
            file_id = await self._upload_and_attach(step)
        except OSError as error:
            self.summary.failed[step.file.name] = f"cannot be read: {error.strerror or error}"
        except ApiError as error:
            if error.status in {401, 403}:
                raise
            self.summary.failed[step.file.name] = str(error)
        else:
            self._pending[file_id] = step

    async def _upload_and_attach(self, step: Step) -> str:
        file_id, sha256 = step.file_id, step.file.sha256
        is_ours = not file_id
        if is_ours:
            stored = await self._patiently(lambda: self._upload(step.file))
            file_id = stored["id"]
            # the service's hash is of what it got: the file may have changed since it was planned
            sha256 = (stored.get("tidegate") or {}).get("sha256") or sha256
        body = {"file_id": file_id, "attributes": {"path": step.file.name, "sha256": sha256}}
        try:
            await self._patiently(lambda: self._api.post(f"/v1/vector_stores/{self._collection}/files", body))
        except BaseException:  # also when cancelled: an upload that no collection shows is litter
            if is_ours:  # one that was there already may be held by other collections
                with contextlib.suppress(CommandFailed):
                    await asyncio.shield(self._api.delete(f"/v1/files/{file_id}"))
            raise
        return str(file_id)

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
        total, pause_s = len(self._pending), POLL_S[0]
        while self._pending:
            for item in await self._states():
                await self._note(item)
            busy = next(iter(self._pending.values()), None)
            self._progress.indexed(total - len(self._pending), total, busy.file.name if busy else "")
            if self._pending:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, POLL_S[1])

    async def _states(self) -> list[dict[str, Any]]:
        path = f"/v1/vector_stores/{self._collection}/files"
        if len(self._pending) > FEW_FILES:
            items = [item async for item in self._api.pages(path)]
            missing = self._pending.keys() - {item["id"] for item in items}
            return items + [_gone(file_id) for file_id in missing]
        return [await self._state(path, file_id) for file_id in list(self._pending)]

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
            await self._remove(step.stale)
            self.summary.settle(step)
        else:
            message = (item.get("last_error") or {}).get("message") or item["status"]
            self.summary.failed[step.file.name] = printable(str(message))
        del self._pending[item["id"]]

    async def _remove(self, file_ids: Iterable[str]) -> None:
        """Detach old versions, and delete those that no other collection holds."""
        for file_id in file_ids:
            await self._unless_gone(self._api.delete(f"/v1/vector_stores/{self._collection}/files/{file_id}"))
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


def _gone(file_id: str) -> dict[str, Any]:
    return {"id": file_id, "status": "cancelled", "last_error": {"message": "removed while it was indexed"}}
