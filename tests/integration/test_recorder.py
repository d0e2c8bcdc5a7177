"""Receipts on their way into SQL: what is billed soon, a flood of refusals in few transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import sqlalchemy as sa
from redis.asyncio import Redis

from gateway.metrics import Metrics
from gateway.shown import SharedPassages
from gateway.storage import keys
from gateway.storage import recorder as recorder_module
from gateway.storage.database import Database
from gateway.storage.recorder import UNBILLED_EVERY_S, Recorder
from gateway.types import Outcome, Receipt, Tenant, Usage

TENANT = Tenant("acme")
NUM_REFUSED = 30


class CountingDatabase(Database):
    """The real one; counts write transactions."""

    num_writes = 0

    def write(self) -> AbstractContextManager[sa.Connection]:
        self.num_writes += 1
        return super().write()


@pytest.fixture
def database(tmp_path: Path) -> CountingDatabase:
    made = CountingDatabase(f"sqlite:///{tmp_path / 'tidegate.db'}")
    made.migrate()
    with made.write() as conn:
        keys.ensure_tenant(conn, "acme")
    made.num_writes = 0
    return made


@pytest_asyncio.fixture
async def recorder(database: CountingDatabase) -> AsyncIterator[Recorder]:
    """Redis is away: SQL alone answers."""
    found = Recorder(database, Redis(port=1), Metrics())
    task = asyncio.create_task(found.run())
    yield found
    task.cancel()


def receipt(name: str, outcome: Outcome) -> Receipt:
    used = Usage(10, 5) if outcome is Outcome.COMPLETED else Usage()
    return Receipt(id=name, created=1, outcome=outcome, tier="fast", usage=used)


def num_kept(database: Database) -> int:
    with database.read() as conn:
        return int(conn.execute(sa.text("SELECT count(*) FROM receipts")).scalar_one())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - the condition is a row of the database
            await asyncio.sleep(0.01)


async def test_refusals_share_transactions(database: CountingDatabase, recorder: Recorder) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(NUM_REFUSED):
        recorder.record(TENANT, receipt(f"refused-{number}", Outcome.REJECTED))
        await asyncio.sleep(0.02)
    await until(lambda: num_kept(database) == NUM_REFUSED)
    # What comes while one is written is written at once behind it, and a busy disk takes its time.
    assert database.num_writes <= 4 + (loop.time() - began) / UNBILLED_EVERY_S


async def test_what_is_billed_waits_for_no_refusals(database: CountingDatabase, recorder: Recorder) -> None:
    recorder.record(TENANT, receipt("refused", Outcome.REJECTED))
    await asyncio.sleep(0)
    recorder.record(TENANT, receipt("answered", Outcome.COMPLETED))
    await until(lambda: num_kept(database) == 2)
    assert database.num_writes == 1
    assert await recorder.find("acme", "refused") is not None


async def test_another_worker_shows_a_refusal_that_only_sql_knows(
    database: CountingDatabase, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is looked for until three times this after it was due in SQL, and a busy disk takes its time.
    monkeypatch.setattr(recorder_module, "FLUSH_EVERY_S", 0.3)
    one, other = (Recorder(database, redis, Metrics()) for _ in range(2))
    task = asyncio.create_task(one.run())
    one.record(TENANT, receipt("refused", Outcome.REJECTED))
    assert await other.find("acme", "refused") is not None  # asked for at once
    one.record(TENANT, receipt("answered", Outcome.COMPLETED))
    assert await other.find("acme", "answered") is not None
    assert await redis.keys("tidegate:receipt:*") == [b"tidegate:receipt:acme:answered"]
    task.cancel()


async def test_flushes_at_once_write_each_entry_once(database: CountingDatabase, recorder: Recorder) -> None:
    for number in range(NUM_REFUSED):
        recorder.record(TENANT, receipt(f"answered-{number}", Outcome.COMPLETED))
    await asyncio.gather(*(recorder.flush() for _ in range(5)))
    assert num_kept(database) == NUM_REFUSED
    assert database.num_writes == 1


async def test_receipts_of_one_answer_share_its_passages_and_each_tells_them(
    database: CountingDatabase, recorder: Recorder
) -> None:
    told = SharedPassages([{"n": 1, "text": "Tides turn twice."}])
    for name in ("hit-1", "hit-2"):
        hit = receipt(name, Outcome.CACHED)
        hit.passages = told
        recorder.record(TENANT, hit)
    fresh = await recorder.find("acme", "hit-1")
    await until(lambda: num_kept(database) == 2)
    other = Recorder(database, Redis(port=1), Metrics())
    stored = [await other.find("acme", name) for name in ("hit-1", "hit-2")]
    assert [msgspec.json.decode(each or b"")["passages"] for each in (fresh, *stored)] == [told] * 3
    with database.read() as conn:
        (row,) = conn.execute(sa.text("SELECT body FROM receipt_passages")).all()
    assert msgspec.json.decode(row.body) == told
