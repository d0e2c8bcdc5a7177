"""ports.VectorStore in this process: the index, the threads that follow SQL and keep it in form, and its folders."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

from gateway.errors import InvalidRequest, UpstreamUnavailable
from gateway.ports import SearchRequest
from gateway.priority import LOWEST
from gateway.retrieval.gpu_search import GpuSearch
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.snapshot import SnapshotFolder, SnapshotRefused, fingerprint
from gateway.retrieval.tail import CorpusTail
from gateway.retrieval.workspace import Workspace
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.types import Scope

UPKEEP_S = 1.0
SAVED_SHARE = 10  # a large corpus is saved after a tenth of it has changed: saving costs what it holds
MIN_SAVE_S = 60.0  # between two snapshots, whatever has changed
STOP_S = 5.0  # that a graph or a snapshot under way may take from a process that stops

log = logging.getLogger(__name__)


class FaissStore:
    """Owns two threads from `start` to `close`: one follows SQL, one builds graphs and saves snapshots."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._gpu = GpuSearch() if settings.search_device == "gpu" else None
        self._workspace = Workspace(settings.search_dir)
        self._index = self._new_index()
        self._tail = CorpusTail(database, self._index, self._new_index)
        self._snapshots = SnapshotFolder(settings.search_dir / "snapshots", fingerprint(settings.sql_url))
        self._save_after = settings.snapshot_chunks
        self._saved = 0  # index.num_changes that the snapshot holds
        self.has_refused_snapshot = False
        self._num_threads = settings.index_threads or max(1, (os.cpu_count() or 1) // 2)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._tail.run, args=(self._stop,), name="corpus-tail", daemon=True),
            threading.Thread(target=self._keep_up, name="index-upkeep", daemon=True),
        ]

    @property
    def epoch(self) -> int:
        return self._index.epoch

    @property
    def num_chunks(self) -> int:
        return self._index.num_chunks

    def search(self, requests: Sequence[SearchRequest]) -> list[bytes | InvalidRequest]:
        return self._index.search(requests)

    def embedders(self, scope: Scope) -> list[str]:
        return self._index.embedders(scope)

    def start(self, wait_s: float) -> None:
        """Returns once all that is committed is searchable. Raises: one of tail.OUTAGE after wait_s without SQL."""
        is_loaded = self.load_snapshot()
        self._tail.wait_for_database(wait_s)
        if is_loaded and not self._tail.is_complete():
            log.warning("the snapshot is of another state of the database: rebuilding")
            self.has_refused_snapshot = True
            self._tail.rebuild()
        for thread in self._threads:
            thread.start()

    def load_snapshot(self) -> bool:
        """Begin from the snapshot if there is a good one; SQL has the rest, and the whole where there is none."""
        if self._snapshots.is_missing():
            return False
        try:
            folder, epoch = self._snapshots.verified()
            self._index.load(folder, self._workspace.new_name("lexical"), epoch)
        except SnapshotRefused as refused:
            log.warning("the snapshot is not used, the corpus is read from SQL: %s", refused)
            self.has_refused_snapshot = True
            return False
        log.info("snapshot loaded: %d chunks at epoch %d", self._index.num_chunks, self._index.epoch)
        return True

    def save_snapshot(self) -> bool:
        """False, and the old one stays, when another process writes one or the disk does not take it."""
        changes = self._index.num_changes
        try:
            with self._snapshots.writing() as draft:
                self._index.save(draft)
        except SnapshotRefused as refused:
            log.info("no snapshot written: %s", refused)
            return False
        except (
            OSError,
            RuntimeError,
            UpstreamUnavailable,
        ) as error:  # FAISS raises RuntimeError for a full disk
            log.warning("no snapshot written, the old one stays: %s", error)
            return False
        self._saved = changes
        log.info("snapshot written: %d chunks at epoch %d", draft.num_chunks, draft.epoch)
        return True

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(STOP_S)
        self._index.close()
        self._workspace.close()

    def _keep_up(self) -> None:
        """Builds behind everything else: the niceness of a thread is its own on Linux, and OpenMP's inherit it."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        pause_s = UPKEEP_S
        while not self._stop.wait(pause_s):
            pause_s = UPKEEP_S
            try:
                if self._index.refit(self._num_threads, self._gpu):
                    continue
                if self._is_save_due():
                    self.save_snapshot()
                    pause_s = MIN_SAVE_S
            except Exception:
                log.exception("the upkeep of the index failed; searches go on without")
                pause_s = MIN_SAVE_S

    def _is_save_due(self) -> bool:
        changed = self._index.num_changes - self._saved
        if not self._save_after or changed < max(self._save_after, self._index.num_chunks // SAVED_SHARE):
            return False
        if self._snapshots.epoch() >= self._index.epoch:  # another process was first
            self._saved = self._index.num_changes
            return False
        return True

    def _new_index(self) -> CorpusIndex:
        return CorpusIndex(self._workspace.new_folder("lexical"))
