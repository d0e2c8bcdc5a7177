"""For every level: no proxy of the environment between tests and this machine; PostgreSQL, Redis."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from tests.fakes.postgres import Postgres, PostgresMissing, running_postgres
from tests.fakes.redis_process import RedisProcess, running_redis


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the whole run. Skips, saying why, where none is installed."""
    try:
        with running_postgres() as server:
            yield server
    except PostgresMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A database with all tables and no rows."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One Redis for the tests of a module."""
    with running_redis(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
async def redis(redis_process: RedisProcess) -> AsyncIterator[Redis]:
    """A client of the module's Redis, emptied."""
    redis_process.command("FLUSHALL")
    made = Redis.from_url(redis_process.url, protocol=3)
    yield made
    await made.aclose()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A test's own, to be killed, frozen or filled."""
    with running_redis(tmp_path) as process:
        yield process


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """What a module left open is told at its end, not wherever the collector happens to come by."""
    yield
    gc.collect()
    gc.freeze()  # what is left is here to stay; later rounds pass it by


def pytest_configure() -> None:
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = "127.0.0.1,localhost,::1"
    settings.register_profile("tests", deadline=None)  # a busy machine is no failure
    settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """A round of the collector over all that was collected here would stop a test for up to a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 1000)  # full rounds are rare: each module has one at its end
