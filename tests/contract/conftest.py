"""The databases that the storage contract is held on: SQLite, and a real PostgreSQL where one is installed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.storage import keys, schema
from gateway.storage.database import Database
from tests.fakes.postgres import Postgres

DATABASES = ["sqlite", "postgresql"]


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held is asked about, and not whether Redis takes and gives it in the time that it has."""
    monkeypatch.setattr("gateway.caching.shared.READ_LIMIT_S", 10.0)
    monkeypatch.setattr("gateway.caching.shared.WRITE_LIMIT_S", 10.0)
    monkeypatch.setattr("gateway.storage.redis_trips.TRIP_LIMIT_S", 10.0)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to copy: migrating costs more than most tests."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture(scope="session")
def shared_postgres(postgres: Postgres) -> Iterator[Database]:
    """For tests of one transaction, which is rolled back."""
    url = postgres.new_database()
    database = Database(url)
    yield database
    database.close()
    postgres.drop_database(url)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path, migrated_sqlite: Path) -> Iterator[Database]:
    """All tables and no rows."""
    if request.param == "sqlite":
        url = f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'test.db')}"
    else:
        url = request.getfixturevalue("postgres_url")
    database = Database(url)
    yield database
    database.close()


class _RollBack(Exception):
    pass


@pytest.fixture(params=DATABASES)
def conn(request: pytest.FixtureRequest, tmp_path: Path, migrated_sqlite: Path) -> Iterator[sa.Connection]:
    """One transaction with two tenants, `default` (id and name) and `other`."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'test.db')}")
    else:
        database = request.getfixturevalue("shared_postgres")
    with contextlib.suppress(_RollBack), database.write() as conn:
        keys.ensure_tenant(conn, "default")
        conn.execute(sa.insert(schema.tenants), {"id": "other", "name": "other", "created_at": 1})
        yield conn
        raise _RollBack
    if request.param == "sqlite":
        database.close()
