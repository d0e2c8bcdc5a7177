"""Keeps a CorpusIndex in step with SQL by epoch. Owns the polling thread's work; knows nothing of Triton."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from gateway.errors import TidegateError
from gateway.retrieval.index import CorpusIndex
from gateway.storage import corpus
from gateway.storage.database import Database
from gateway.storage.epochs import current_epoch
from gateway.storage.schema import chunks

POLL_S = 0.1
COUNT_TRIES = 10
PAGE_CHUNKS = 2000  # chunks read at once: some 10 MB

log = logging.getLogger(__name__)

# The database's own word for an outage, and what stands for missing tables on the engines that say so differently.
OUTAGE = (TidegateError, sa.exc.SQLAlchemyError)


class CorpusTail:
    """Follows the corpus clock. One thread calls `run`; `sync` may be called from others."""

    def __init__(
        self, database: Database, index: CorpusIndex, new_index: Callable[[], CorpusIndex] = CorpusIndex
    ) -> None:
        """new_index: makes an empty one when the corpus has to be read anew."""
        self._database = database
        self._index = index
        self._new_index = new_index
        self._moved = threading.Condition()
        self._is_down = False

    def catch_up(self) -> int:
        """Apply everything committed so far; returns the epoch then searchable. Raises: one of OUTAGE."""
        clock = self._clock()
        if clock < self._index.epoch:
            log.warning("the corpus clock went back from %d to %d: rebuilding", self._index.epoch, clock)
            self.rebuild()
        elif clock > self._index.epoch:
            self._apply_pages(self._index)
        with self._moved:
            self._moved.notify_all()
        return self._index.epoch

    def rebuild(self) -> None:
        """Read the whole corpus anew; the old generation serves until then. Raises: one of OUTAGE."""
        fresh = self._new_index()
        self._apply_pages(fresh)
        self._index.adopt(fresh)

    def is_complete(self) -> bool:
        """Whether as many chunks are searchable as SQL holds; true as well while it changes too fast to tell.

        For an index that did not begin with SQL: it may be of a database that was replaced since.
        """
        for _ in range(COUNT_TRIES):
            self.catch_up()
            with self._database.read() as conn:
                clock = current_epoch(conn)
                num_chunks = conn.execute(sa.select(sa.func.count()).select_from(chunks)).scalar_one()
            if clock == self._index.epoch:
                return bool(num_chunks == self._index.num_chunks + self._index.num_bad)
        return True

    def wait_for_database(self, timeout_s: float) -> None:
        """The first catch-up, with patience for a database that is still being started or migrated.

        Raises: one of OUTAGE when it cannot be read for that long.
        """
        deadline = time.monotonic() + timeout_s
        while not self.poll():
            if time.monotonic() >= deadline:
                self.catch_up()
            time.sleep(POLL_S)
        log.info("corpus loaded: %d chunks at epoch %d", self._index.num_chunks, self._index.epoch)

    def run(self, stop: threading.Event) -> None:
        """Catch up every POLL_S until `stop`. While the database is out the last generation keeps serving."""
        while not stop.wait(POLL_S):
            self.poll()

    def poll(self) -> bool:
        """One round of `run`; false while the database is out, which is logged once."""
        try:
            self.catch_up()
        except OUTAGE as error:
            if not self._is_down:
                log.warning(
                    "cannot follow the corpus, serving epoch %d: %s", self._index.epoch, _detail(error)
                )
            self._is_down = True
            return False
        if self._is_down:
            log.info("following the corpus again, at epoch %d", self._index.epoch)
        self._is_down = False
        return True

    def sync(self, timeout_s: float) -> bool:
        """Wait until all that is committed now is searchable here; false when that takes longer."""
        clock = self._clock()
        with self._moved:
            return self._moved.wait_for(lambda: self._index.epoch >= clock, timeout_s)

    def _clock(self) -> int:
        with self._database.read() as conn:
            return current_epoch(conn)

    def _apply_pages(self, index: CorpusIndex) -> None:
        more = True
        while more:
            with self._database.read() as conn:
                tail = corpus.tail(conn, index.epoch, limit=PAGE_CHUNKS)
            num_bad = index.apply(tail)
            if num_bad:
                log.error(
                    "%d chunks up to epoch %d have unusable vectors and are left out", num_bad, tail.epoch
                )
            more = tail.more


def _detail(error: Exception) -> str:
    return error.detail or error.message if isinstance(error, TidegateError) else str(error)
