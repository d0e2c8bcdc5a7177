"""A real PostgreSQL of this test run: a cluster in a scratch folder, on a free loopback port, gone at the end.

The server refuses to run as root, so under root it runs as `nobody`.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gateway.storage.database import Database

START_S = 30.0
SETTINGS = ("fsync=off", "full_page_writes=off", "max_connections=200", "shared_buffers=16MB")

END_WAIT_MS = 10_000


class PostgresMissing(Exception):
    """Why there is none; fit to print."""


class Postgres:
    """A running server. `new_database` is empty of rows and has all the tables."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._numbers = itertools.count(1)
        self._execute("CREATE DATABASE template_of_tests")
        database = Database(self.url("template_of_tests"))
        database.migrate()
        database.close()

    def url(self, name: str) -> str:
        return f"postgresql://tidegate@127.0.0.1:{self.port}/{name}"

    def new_database(self, *, migrated: bool = True) -> str:
        """Its URL."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}" + (" TEMPLATE template_of_tests" if migrated else ""))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        self._execute(f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")

    def end_connections(self, url: str) -> None:
        """As a restart of the server would; returns when they are gone."""
        name = sa.make_url(url).database
        ended = f"pg_terminate_backend(pid, {END_WAIT_MS})"
        self._execute(f"SELECT {ended} FROM pg_stat_activity WHERE datname = '{name}'")

    def _execute(self, statement: str) -> None:
        url = sa.make_url(self.url("postgres")).set(drivername="postgresql+pg8000")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as conn:
            conn.exec_driver_sql(statement)
        engine.dispose()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Raises: PostgresMissing where its programs are not installed."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
    as_user = _unprivileged()
    if as_user:
        shutil.chown(folder, as_user["user"], as_user["group"])
    try:
        _run([programs / "initdb", "-D", folder / "data", "-U", "tidegate", "-A", "trust", "-E", "UTF8",
              "--locale=C", "--no-sync"], folder, as_user)  # fmt: skip
        port = _free_port()
        options = [
            f"port={port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={folder}",
            *SETTINGS,
        ]
        command = [
            programs / "postgres",
            "-D",
            folder / "data",
            *(word for o in options for word in ("-c", o)),
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=_env(), **as_user)
        try:
            _wait_ready(process, port, folder / "log")
            yield Postgres(port)
        finally:
            process.send_signal(signal.SIGINT)  # its "fast" shutdown: open sessions are ended
            process.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        raise PostgresMissing(
            "no PostgreSQL: /usr/lib/postgresql is empty (Debian: apt-get install postgresql)"
        )
    return found[-1].parent


def _unprivileged() -> dict[str, Any]:
    """Arguments of subprocess that leave root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _run(command: list[Any], folder: Path, as_user: dict[str, Any]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=_env(), capture_output=True, text=True, check=False, timeout=60, **as_user
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    url = f"postgresql+pg8000://tidegate@127.0.0.1:{port}/postgres"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            engine.connect().close()
        except sa.exc.DBAPIError:
            time.sleep(0.05)
        else:
            engine.dispose()
            return
    raise AssertionError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-4000:]}")
