"""Feeds Milvus from SQL by epoch. Exactly one process does that for a database.

Milvus has no transactions. So that a search sees an epoch entirely or not at all, rows carry their epoch, searches ask
only for rows up to the epoch in the state, and that is written after all rows of the epoch. What a removal took away is
left out by the searches, which know the removals from SQL, until it is deleted some time later, when no search can
still be under way that should see it. What was written or deleted is made certain to show before the state says so.
Every step can be done again, so a crash at any point costs nothing but time.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.errors import TidegateError
from gateway.retrieval.milvus_client import (
    BUILDING,
    LIVE,
    PREFIX,
    Milvus,
    RowsRefused,
    State,
    Table,
    TableMissing,
)
from gateway.retrieval.milvus_filter import removed
from gateway.retrieval.milvus_rows import row_of, usable_vector
from gateway.storage import corpus, feed
from gateway.storage.corpus import ChunkRow, FileRow
from gateway.storage.database import Database
from gateway.tensors import EMBEDDING_DIM
from gateway.types import DEFAULT_EMBEDDER

POLL_S = 0.1
PAGE_CHUNKS = 2000  # read from SQL at once
BATCH_ROWS = 500  # of one write: some 3 MB
MAX_REMOVALS = 500  # deleted before the next look at SQL
REMOVALS_AT_ONCE = 50  # in one expression
GRACE_S = 15.0  # until what was removed is deleted; longer than a search may stay at an older epoch

# The word of the database or of Milvus for an outage.
OUTAGE = (TidegateError, sa.exc.SQLAlchemyError)

log = logging.getLogger(__name__)


class MilvusFollower:
    """One thread calls `poll` every POLL_S."""

    def __init__(
        self,
        database: Database,
        milvus: Milvus,
        *,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._milvus = milvus
        self._grace_s = grace_s
        self._clock = clock
        self._state: State | None = None  # None = to be read; whatever failed leaves it so
        self._published: list[tuple[float, int]] = []  # when an epoch was, for those not yet purged
        self._unsealed: set[str] = set()  # tables changed since the state was written
        self._is_down = False

    def poll(self) -> bool:
        """Catch up and delete what is due; false during an outage of either side, which is logged once."""
        try:
            self.catch_up()
            self.purge()
        except OUTAGE as error:
            self._state = None
            if not self._is_down:
                log.warning("Milvus is not fed for the moment: %s", _detail(error))
            self._is_down = True
            return False
        if self._is_down:
            log.info("feeding Milvus again, at epoch %d", self._state.epoch if self._state else 0)
        self._is_down = False
        return True

    def forget(self) -> None:
        """Read the state anew before the next step."""
        self._state = None

    def catch_up(self) -> int:
        """Apply everything committed so far; returns the epoch then searchable. Raises: one of OUTAGE."""
        try:
            self._state = self._caught_up(self._current())
        except BaseException:
            self._state = None
            raise
        return self._state.epoch

    def _caught_up(self, state: State) -> State:
        with self._database.read() as conn:
            clock = corpus.current_epoch(conn)
        if clock < state.epoch:
            log.warning("the corpus clock went back from %d to %d: rebuilding", state.epoch, clock)
            return self._rebuilt(state)
        if clock == state.epoch:
            return state
        try:
            return self._applied(state, LIVE)
        except TableMissing as error:
            log.warning("a table is gone from Milvus, rebuilding: %s", error.detail)
            return self._rebuilt(state)

    def purge(self) -> None:
        """Delete what was removed at least `grace_s` ago, and tables that no state names. Raises: one of OUTAGE."""
        state, now = self._current(), self._clock()
        due = [epoch for since, epoch in self._published if now - since >= self._grace_s]
        if not due:
            return
        if due[-1] > state.purged:
            state = self._delete_removed(state, due[-1])
            self._milvus.write_state(LIVE, state)
            self._state = state
        if state.purged >= due[-1]:
            self._drop_strays(state)
            self._published = [(since, epoch) for since, epoch in self._published if epoch > due[-1]]

    def _current(self) -> State:
        if self._state is not None:
            return self._state
        self._milvus.create_state_table()
        states = self._milvus.states()
        if BUILDING in states:  # a rebuild that did not end: it is begun again where there is need
            self._milvus.delete_state(BUILDING)
        state = states.get(LIVE)
        if state is None:
            state = State(generation=1)
            self._milvus.write_state(LIVE, state)
        if not self._published:
            self._published = [(self._clock(), state.epoch)]
        self._state = state
        return state

    def _rebuilt(self, old: State) -> State:
        """Everything again in new tables, which then take the place of the old ones in one step."""
        state = State(generation=old.generation + 1)
        self._milvus.write_state(BUILDING, state)
        state = self._applied(state, BUILDING)
        self._published = []
        self._publish(state, LIVE)
        self._milvus.delete_state(BUILDING)
        return state

    def _applied(self, state: State, row: int) -> State:
        more = True
        while more:
            with self._database.read() as conn:
                tail = corpus.tail(conn, state.epoch, limit=PAGE_CHUNKS)
                places = [(chunk.collection_id, chunk.file_id) for chunk in tail.chunks]
                places += [(file.collection_id, file.file_id) for file in tail.files]
                attributes = feed.attributes_of(conn, places)
            state = self._written(state, row, tail.chunks, attributes)
            state = self._reattributed(state, row, tail.files, attributes)
            # Nothing of a generation that is still being built can be seen, so its removals need no delay.
            state = msgspec.structs.replace(self._certain(state), epoch=tail.epoch)
            if row == BUILDING:
                while state.purged < tail.epoch:
                    state = self._delete_removed(state, tail.epoch)
            self._publish(state, row)
            more = tail.more
        return state

    def _certain(self, state: State) -> State:
        """The state, which from now on may promise all that was written and deleted so far."""
        while self._unsealed:
            self._milvus.seal(self._unsealed.pop())  # when it fails, what led here is done again
        return msgspec.structs.replace(state, timestamp=self._milvus.timestamp())

    def _publish(self, state: State, row: int) -> None:
        self._milvus.write_state(row, state)
        if row == LIVE:
            self._published.append((self._clock(), state.epoch))

    def _reattributed(
        self,
        state: State,
        row: int,
        changed: Sequence[FileRow],
        attributes: dict[feed.Placed, dict[str, Any]],
    ) -> State:
        """The older chunks of files whose attributes changed, written again."""
        for each in changed:
            place, after_id = (each.collection_id, each.file_id), 0
            while True:
                with self._database.read() as conn:
                    chunks = feed.older_chunks(
                        conn, place, upto_epoch=state.epoch, after_id=after_id, limit=PAGE_CHUNKS
                    )
                if not chunks:
                    break
                state = self._written(state, row, chunks, attributes)
                after_id = chunks[-1].id
        return state

    def _written(
        self,
        state: State,
        row: int,
        chunks: Sequence[ChunkRow],
        attributes: dict[feed.Placed, dict[str, Any]],
    ) -> State:
        by_embedder: dict[str, list[ChunkRow]] = defaultdict(list)
        for chunk in chunks:
            by_embedder[chunk.embedder].append(chunk)
        for embedder, group in by_embedder.items():
            state, table = self._table(state, row, embedder, group)
            rows, num_bad = [], 0
            for chunk in group:
                vector = usable_vector(chunk.vector, table.dim)
                if vector is None:
                    num_bad += 1
                    continue
                place = (chunk.collection_id, chunk.file_id)
                rows.append(row_of(chunk, vector, attributes.get(place, {})))
            for start in range(0, len(rows), BATCH_ROWS):
                num_bad += self._upserted(table, rows[start : start + BATCH_ROWS])
            self._unsealed.add(table.name)
            if num_bad:
                log.error("%d chunks of %s are unusable and are left out", num_bad, embedder)
        return state

    def _upserted(self, table: Table, rows: list[dict[str, Any]]) -> int:
        """How many rows Milvus refused, which is found by halving: one bad row must not hold up all that follow."""
        try:
            self._milvus.upsert(table.name, rows)
        except RowsRefused as error:
            if len(rows) == 1:
                log.error("Milvus refuses chunk %d: %s", rows[0]["id"], error.detail)
                return 1
            middle = len(rows) // 2
            return self._upserted(table, rows[:middle]) + self._upserted(table, rows[middle:])
        return 0

    def _table(
        self, state: State, row: int, embedder: str, chunks: Sequence[ChunkRow]
    ) -> tuple[State, Table]:
        """The table of an embedder; one that is missing is made, and named in the state before it is filled."""
        if embedder in state.tables:
            return state, state.tables[embedder]
        dim = EMBEDDING_DIM if embedder == DEFAULT_EMBEDDER else _dim(chunks)
        table = self._milvus.create_table(f"{PREFIX}g{state.generation}_{len(state.tables) + 1}", dim)
        state = msgspec.structs.replace(state, tables={**state.tables, embedder: table})
        self._milvus.write_state(row, state)
        return state, table

    def _delete_removed(self, state: State, upto: int) -> State:
        """Delete what removals took away, and older copies of chunks that changed their embedder.

        About MAX_REMOVALS at once, so that following goes on in between: the state's `purged` may stay below `upto`.
        """
        with self._database.read() as conn:
            removals = feed.removals_between(conn, state.purged, upto, limit=MAX_REMOVALS + 1)
        if len(removals) > MAX_REMOVALS:
            upto = max(removals[-1].epoch - 1, removals[0].epoch)
        gone = [
            removed(each.collection_id, each.file_id, each.tenant_id, each.epoch)
            for each in removals
            if each.epoch <= upto
        ]
        for table in state.tables.values():
            for start in range(0, len(gone), REMOVALS_AT_ONCE):
                self._milvus.delete(
                    table.name, " or ".join(f"({each})" for each in gone[start : start + REMOVALS_AT_ONCE])
                )
                self._unsealed.add(table.name)
        if len(state.tables) > 1:
            self._delete_moved(state, upto)
        return msgspec.structs.replace(self._certain(state), purged=upto)

    def _delete_moved(self, state: State, upto: int) -> None:
        after_id = 0
        while True:
            with self._database.read() as conn:
                page = feed.published_ids(conn, state.purged, upto, after_id=after_id, limit=PAGE_CHUNKS)
            if not page:
                return
            after_id = page[-1][0]
            for embedder, table in state.tables.items():
                elsewhere = [chunk_id for chunk_id, other in page if other != embedder]
                if elsewhere:
                    self._milvus.delete(table.name, f"id in {elsewhere}")
                    self._unsealed.add(table.name)

    def _drop_strays(self, state: State) -> None:
        named = {table.name for table in state.tables.values()}
        for name in self._milvus.table_names():
            if name not in named:
                log.info("dropping the table %s, which is not in use any more", name)
                self._milvus.drop_table(name)


def _dim(chunks: Sequence[ChunkRow]) -> int:
    return next((len(chunk.vector) // 4 for chunk in chunks if usable_vector(chunk.vector, 0) is not None), 1)


def _detail(error: Exception) -> str:
    return error.detail or error.message if isinstance(error, TidegateError) else str(error)
