"""A role that one process at a time may have among all that share a database. The dead lose it at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import sqlalchemy as sa

from gateway.errors import TidegateError
from gateway.storage.database import Database


class SoleRole:
    """On SQLite a lock on a file, on PostgreSQL a lock of the server. Not for several threads.

    key: any constant of the role, the same in all processes.
    """

    def __init__(self, database: Database, key: int, lock_file: Path) -> None:
        self._database = database
        self._key = key
        self._lock_file = lock_file
        self._file: int | None = None
        self._session: sa.Connection | None = None
        self._stack = contextlib.ExitStack()

    def is_ours(self) -> bool:
        """Take the role when nobody has it. Ask again before every piece of work: a connection may have been lost.

        Raises: UpstreamUnavailable when the database is away.
        """
        return self._lock_file_is_ours() if self._database.is_sqlite else self._session_is_ours()

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._session is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._session.execute(sa.select(sa.func.pg_advisory_unlock(self._key)))
                self._session.commit()
        self._leave()

    def _lock_file_is_ours(self) -> bool:
        if self._file is not None:
            return True
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def _session_is_ours(self) -> bool:
        try:
            if self._session is not None:
                self._session.execute(
                    sa.select(1)
                )  # the server keeps the lock as long as this connection lives
                self._session.commit()
                return True
            session = self._stack.enter_context(self._database.read())
            is_ours = bool(session.execute(sa.select(sa.func.pg_try_advisory_lock(self._key))).scalar())
            session.commit()  # the lock is the session's, and an open transaction would hold up the server's cleaning
        except (sa.exc.SQLAlchemyError, TidegateError):
            self._leave()
            raise
        self._session = session
        if not is_ours:
            self._leave()
        return is_ours

    def _leave(self) -> None:
        self._session = None
        with contextlib.suppress(sa.exc.SQLAlchemyError, TidegateError):
            self._stack.close()
        self._stack = contextlib.ExitStack()
