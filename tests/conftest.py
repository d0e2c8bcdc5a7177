"""For every level: tests talk to this machine, so a proxy named in the environment has no part in them; PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fakes.postgres import Postgres, PostgresMissing, running_postgres


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


def pytest_configure() -> None:
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = "127.0.0.1,localhost,::1"
