"""What has been learned of each topic, in SQL: for the other workers, and for the next start.

Without it a restart would forget that a topic is closed and give wrong answers there again. So no other wording is met
before what is kept was read once. Workers add what they saw; what they add comes together in one row of each topic.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from gateway.caching.threshold import COUNTS_VERSION, MAX_TOPICS, Counts, Seen, Thresholds, Topic
from gateway.storage.database import Database, insert_or_ignore
from gateway.storage.schema import cache_topics as table

log = logging.getLogger("tidegate.cache")

EXCHANGE_EVERY_S = 2.0
OVERLAP_S = 10  # what others wrote is read again for so long: clocks differ, and commits come late
MAX_KEPT = 1024  # topics of one tenant; those learned of longest ago go
CLOSE_S = 2.0

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Counts).decode


class KeptTopics:
    """wall: unix seconds."""

    def __init__(
        self, database: Database, thresholds: Thresholds, wall: Callable[[], float] = time.time
    ) -> None:
        self._database, self._thresholds, self._wall = database, thresholds, wall
        self._read_up_to = 0
        thresholds.wait_for_kept()

    async def run(self) -> None:
        """Exchange what was learned, for ever. SQL away: what was seen meanwhile is added later."""
        while True:
            try:
                await self.exchange()
            except Exception as error:  # noqa: BLE001  whatever SQL raises, the next turn tries again
                log.debug("what was learned of the cache's topics was not exchanged: %s", error)
            await asyncio.sleep(EXCHANGE_EVERY_S)

    async def close(self) -> None:
        """Add what was seen since the last time, where SQL takes it soon."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.exchange()
        except Exception as error:  # noqa: BLE001  a worker ends whatever SQL says
            log.warning("what was learned last of the cache's topics is lost: %s", error)

    async def exchange(self) -> None:
        """Add what was seen here, take what was seen anywhere. Raises what SQL raises."""
        news = self._thresholds.take_news()
        try:
            kept = await asyncio.to_thread(self._exchange, news)
        except Exception:  # a cancel alone does not end the thread, which goes on and adds it
            self._thresholds.put_back(news)
            raise
        self._thresholds.adopt(kept)

    def _exchange(self, news: Mapping[Topic, Sequence[Seen]]) -> list[tuple[Topic, Counts]]:
        """Returns what has changed since the last time, longest ago first."""
        if news:
            with self._database.write() as conn:
                for topic in sorted(news):
                    self._add(conn, topic, news[topic])
                for tenant_id in {topic.tenant_id for topic in news}:
                    _prune(conn, tenant_id)
        started = int(self._wall())
        query = (
            sa.select(table)
            .where(table.c.updated_at >= self._read_up_to - OVERLAP_S, table.c.version == COUNTS_VERSION)
            .order_by(table.c.updated_at.desc())
            .limit(MAX_TOPICS)
        )
        with self._database.read() as conn:
            rows = conn.execute(query).all()
        self._read_up_to = started
        found = [(_topic_of(row), _counts_of(row.counts)) for row in reversed(rows)]
        return [(topic, counts) for topic, counts in found if counts is not None]

    def _add(self, conn: sa.Connection, topic: Topic, seen: Sequence[Seen]) -> None:
        mine = (table.c.tenant_id == topic.tenant_id) & (table.c.digest == _digest(topic))
        row = {
            "tenant_id": topic.tenant_id,
            "digest": _digest(topic),
            "tier": topic.tier,
            "collections": list(topic.collections),
            "version": COUNTS_VERSION,
            "counts": _encode(Counts()).decode(),
            "updated_at": int(self._wall()),
        }
        conn.execute(insert_or_ignore(conn, table), row)  # then it is there to be locked
        stands = conn.execute(sa.select(table.c.version, table.c.counts).where(mine).with_for_update()).one()
        counts = _counts_of(stands.counts) if stands.version == COUNTS_VERSION else None
        counts = counts or Counts()
        for each in seen:
            counts.add(each.similarity, was_right=each.was_right)
        changed = {
            "version": COUNTS_VERSION,
            "counts": _encode(counts).decode(),
            "updated_at": row["updated_at"],
        }
        conn.execute(sa.update(table).where(mine).values(**changed))


def _prune(conn: sa.Connection, tenant_id: str) -> None:
    newest = (
        sa.select(table.c.digest)
        .where(table.c.tenant_id == tenant_id)
        .order_by(table.c.updated_at.desc(), table.c.digest)
        .limit(MAX_KEPT)
    )
    conn.execute(sa.delete(table).where(table.c.tenant_id == tenant_id, table.c.digest.not_in(newest)))


def _digest(topic: Topic) -> str:
    return hashlib.blake2b(_encode([topic.tier, topic.collections]), digest_size=16).hexdigest()


def _topic_of(row: sa.Row[tuple[object, ...]]) -> Topic:
    return Topic(str(row.tenant_id), str(row.tier), tuple(row.collections))


def _counts_of(text: str) -> Counts | None:
    """None for what is no counts of ours: as if nothing had been learned."""
    try:
        counts = _decode(text.encode())
    except msgspec.DecodeError:
        return None
    return counts if counts.is_sound else None
