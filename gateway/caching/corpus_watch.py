"""When each collection changed last, as this worker knows it: what decides whether an answer may be given unseen.

Reads the same columns that the search index follows. Nothing is known of the time before the first look: an older
answer has to show its evidence once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from gateway.storage.database import Database
from gateway.storage.epochs import current_epoch
from gateway.storage.schema import chunks, collection_files, removals

log = logging.getLogger("tidegate.cache")

LOOK_EVERY_S = 0.2
CURRENT_S = 0.8  # a look that began longer ago says nothing: a change counts within a second, heard of or not

Place = tuple[str, str]  # tenant, collection


class Changes(NamedTuple):
    """What changed up to `epoch`."""

    epoch: int
    places: list[tuple[str, str, int]]  # tenant, collection, epoch of the change


def changes(conn: sa.Connection, after: int | None) -> Changes:
    """After an epoch; None = only the epoch as it is now. `conn` must see one snapshot."""
    epoch = current_epoch(conn)
    if after is None or epoch <= after:
        return Changes(epoch, [])
    found = []
    for table in (chunks, collection_files, removals):
        query = (
            sa.select(table.c.tenant_id, table.c.collection_id, sa.func.max(table.c.epoch))
            .where(table.c.epoch > after, table.c.epoch <= epoch)
            .group_by(table.c.tenant_id, table.c.collection_id)
        )
        found += [(tenant, collection, int(last)) for tenant, collection, last in conn.execute(query)]
    return Changes(epoch, found)


class CorpusWatch:
    """clock: monotonic seconds."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._first: int | None = None  # the epoch of the first look
        self._seen = 0
        self._looked = float("-inf")
        self._collections: dict[Place, int] = {}
        self._tenants: dict[str, int] = {}

    def is_current(self, tenant_id: str, collections: Sequence[str], epoch: int) -> bool:
        """Whether what was searched at that epoch is still all there is, of these collections; none named = all."""
        if self._first is None or self._clock() - self._looked > CURRENT_S:
            return False
        if (
            not self._first <= epoch <= self._seen
        ):  # one that is ahead has still to be heard of, or is no epoch of ours
            return False
        if not collections:
            return epoch >= self._tenants.get(tenant_id, 0)
        return all(epoch >= self._collections.get((tenant_id, each), 0) for each in collections)

    async def run(self) -> None:
        """Look, for ever. SQL away: nothing counts as current until it is back."""
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  whatever SQL raises, the next look tries again
                log.debug("no look at the corpus: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Raises what SQL raises."""
        started = self._clock()
        found = await asyncio.to_thread(self._read)
        if self._first is None:
            self._first = found.epoch
        for tenant_id, collection_id, epoch in found.places:
            self._tenants[tenant_id] = max(epoch, self._tenants.get(tenant_id, 0))
            place = (tenant_id, collection_id)
            self._collections[place] = max(epoch, self._collections.get(place, 0))
        self._seen, self._looked = found.epoch, started

    def _read(self) -> Changes:
        with self._database.read() as conn:
            return changes(conn, None if self._first is None else self._seen)
