"""One process at a time has a role: on SQLite by a file, on PostgreSQL by the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.errors import UpstreamUnavailable
from gateway.storage.database import Database
from gateway.storage.sole import SoleRole
from tests.fakes.postgres import Postgres

KEY = 4711
HOLDER = """
import sys
from pathlib import Path
from gateway.storage.database import Database
from gateway.storage.sole import SoleRole
role = SoleRole(Database(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
print(role.is_ours(), flush=True)
sys.stdin.read()
"""

Take = Callable[[], SoleRole]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def role(url: str, tmp_path: Path) -> Iterator[Take]:
    made: list[tuple[SoleRole, Database]] = []

    def make() -> SoleRole:
        database = Database(url)
        made.append((SoleRole(database, KEY, tmp_path / "run" / "role.lock"), database))
        return made[-1][0]

    yield make
    for each, database in made:
        each.release()
        database.close()


def test_the_first_has_the_role_until_it_lets_go(role: Take) -> None:
    first, second = role(), role()
    assert first.is_ours()
    assert first.is_ours()
    assert not second.is_ours()
    first.release()
    assert second.is_ours()
    assert not first.is_ours()


def test_a_killed_holder_loses_the_role_at_once(role: Take, url: str, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, str(KEY), str(tmp_path / "run" / "role.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    heir = role()
    assert not heir.is_ours()
    holder.kill()
    holder.communicate()
    assert heir.is_ours()


def test_a_lost_connection_loses_the_role_and_whoever_had_it_is_told(
    postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    databases = [Database(postgres_url), Database(postgres_url)]
    first, second = (SoleRole(each, KEY, tmp_path / "role.lock") for each in databases)
    assert first.is_ours()
    postgres.end_connections(postgres_url)
    assert second.is_ours()
    with pytest.raises((UpstreamUnavailable, sa.exc.SQLAlchemyError)):
        first.is_ours()
    assert not first.is_ours()
    second.release()
    assert first.is_ours()
    first.release()
    for each in databases:
        each.close()


def test_a_role_that_nobody_took_can_be_released(role: Take) -> None:
    role().release()


def test_a_server_that_is_away_is_said_and_the_role_stays_open(tmp_path: Path) -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    role = SoleRole(database, KEY, tmp_path / "role.lock")
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            role.is_ours()
    role.release()
    database.close()
