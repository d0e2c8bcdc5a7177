"""What is learned of topics is kept in SQL: no restart forgets a closed one, and workers learn from each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.caching import kept_topics
from gateway.caching.kept_topics import KeptTopics
from gateway.caching.threshold import NEVER, Thresholds, Topic
from gateway.errors import UpstreamUnavailable
from gateway.storage.database import Database
from gateway.storage.schema import cache_topics

CLOSED, OPENED, RIVALS = Topic("acme", "fast", ("vs_1",)), Topic("acme", "fast"), Topic("rival", "fast")


class Worker:
    def __init__(self, database: Database) -> None:
        self.thresholds = Thresholds(0.005)
        self.kept = KeptTopics(database, self.thresholds)

    async def started(self) -> Worker:
        await self.kept.exchange()
        return self

    def see(self, topic: Topic, similarity: float, count: int, *, was_right: bool) -> None:
        for _ in range(count):
            self.thresholds.observe(topic, similarity, was_right=was_right)


async def test_before_what_is_kept_was_read_no_other_wording_is_met(database: Database) -> None:
    worker = Worker(database)
    assert worker.thresholds.of(OPENED) == NEVER
    await worker.started()
    assert worker.thresholds.of(OPENED) == worker.thresholds.start < 1


async def test_a_restart_forgets_neither_a_closed_topic_nor_an_opened_one(database: Database) -> None:
    worker = await Worker(database).started()
    worker.see(CLOSED, 0.99, 20, was_right=False)
    worker.see(OPENED, 0.79, 700, was_right=True)
    learned = {topic: worker.thresholds.of(topic) for topic in (CLOSED, OPENED, RIVALS)}
    assert learned[CLOSED] == NEVER
    assert learned[OPENED] < worker.thresholds.start
    await worker.kept.close()
    after = await Worker(database).started()
    assert {topic: after.thresholds.of(topic) for topic in learned} == learned
    assert after.thresholds.num_topics == 2


async def test_workers_add_up_what_they_see(database: Database) -> None:
    one, other = await Worker(database).started(), await Worker(database).started()
    for worker in (one, other):
        worker.see(OPENED, 0.79, 400, was_right=True)  # 600 open it, and neither has so many
        assert worker.thresholds.of(OPENED) == worker.thresholds.start
        await worker.kept.exchange()
    one.see(CLOSED, 0.99, 20, was_right=False)
    await one.kept.exchange()
    for worker in (one, other):
        await worker.kept.exchange()
        assert worker.thresholds.of(OPENED) < worker.thresholds.start
        assert worker.thresholds.of(CLOSED) == NEVER
        (told,) = [each for each in worker.thresholds.topics(9) if each.topic == OPENED]
        assert told.num_compared == 800


async def test_at_once_from_many_workers_nothing_is_lost(database: Database) -> None:
    workers = [await Worker(database).started() for _ in range(6)]
    for worker in workers:
        worker.see(OPENED, 0.9, 10, was_right=True)
        worker.see(CLOSED, 0.9, 5, was_right=False)
    await asyncio.gather(*(worker.kept.exchange() for worker in workers))
    after = await Worker(database).started()
    told = {each.topic: (each.num_compared, each.num_wrong) for each in after.thresholds.topics(9)}
    assert told == {OPENED: (60, 0), CLOSED: (30, 30)}


async def test_what_is_seen_during_an_exchange_counts_once(database: Database) -> None:
    worker = await Worker(database).started()
    worker.see(CLOSED, 0.9, 1, was_right=False)
    exchange = asyncio.create_task(worker.kept.exchange())
    await asyncio.sleep(0)  # the news are taken
    worker.see(CLOSED, 0.9, 1, was_right=False)
    await exchange
    assert [each.num_wrong for each in worker.thresholds.topics(1)] == [2]
    await worker.kept.exchange()
    assert [each.num_wrong for each in worker.thresholds.topics(1)] == [2]


async def test_while_sql_is_away_it_is_kept_in_mind(tmp_path: Path) -> None:
    path = tmp_path / "late.db"
    path.mkdir()
    database = Database(f"sqlite:///{path}")
    worker = Worker(database)
    worker.see(CLOSED, 0.99, 20, was_right=False)
    with pytest.raises(UpstreamUnavailable):
        await worker.kept.exchange()
    await worker.kept.close()  # which raises nothing
    assert worker.thresholds.of(OPENED) == NEVER
    path.rmdir()
    database.migrate()
    await worker.kept.exchange()
    assert worker.thresholds.of(CLOSED) == NEVER
    assert worker.thresholds.of(OPENED) < 1
    assert (await Worker(database).started()).thresholds.of(CLOSED) == NEVER
    database.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"counts": "garbage"},
        {"counts": '{"right": [1], "wrong": [], "prior": 1}'},
        {"counts": '{"right": [-1e9], "wrong": [], "prior": 1}'},
    ],
    ids=str,
)
async def test_counts_of_another_kind_are_as_good_as_none(
    database: Database, changes: dict[str, object]
) -> None:
    worker = await Worker(database).started()
    worker.see(CLOSED, 0.99, 20, was_right=False)
    await worker.kept.exchange()
    with database.write() as conn:
        conn.execute(sa.update(cache_topics).values(**changes))
    after = await Worker(database).started()
    assert after.thresholds.num_topics == 0
    after.see(CLOSED, 0.99, 20, was_right=False)
    await after.kept.exchange()
    assert [each.num_wrong for each in (await Worker(database).started()).thresholds.topics(9)] == [20]


async def test_each_tenant_keeps_so_many_topics_and_no_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_topics, "MAX_KEPT", 5)
    worker = await Worker(database).started()
    worker.see(RIVALS, 0.9, 1, was_right=True)
    await worker.kept.exchange()
    for number in range(9):
        worker.see(Topic("acme", "fast", (f"vs_{number}",)), 0.9, 1, was_right=True)
        await worker.kept.exchange()
    with database.read() as conn:
        tenants = list(conn.execute(sa.select(cache_topics.c.tenant_id)).scalars())
    assert (tenants.count("acme"), tenants.count("rival")) == (5, 1)
