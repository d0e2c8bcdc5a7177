"""One engine per process: connections, transactions and migrations. Knows no table but Alembic's own."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gateway.errors import InternalError, UpstreamUnavailable
from gateway.storage import postgres
from gateway.storage.migrations import HEAD

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

BUSY_TIMEOUT_S = 5.0
MIGRATION_LOCK = 0x7469646567617465  # any constant: PostgreSQL's advisory lock key while migrating
ROWS_AT_ONCE = (256, 64, 16, 4, 1)  # in one statement: few texts, each of which server and driver keep


class Database:
    """Connections to the durable truth. Cheap to make: nothing is opened before the first use.

    Safe to use from many threads; each `read` or `write` block has a connection of its own.
    """

    def __init__(self, url: str) -> None:
        self._url = postgres.with_driver(sa.make_url(url))
        options: dict[str, Any] = {}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
        elif self._url.drivername == postgres.DRIVER:
            options = postgres.engine_options(BUSY_TIMEOUT_S)
        self._engine = sa.create_engine(
            self._url, pool_size=8, max_overflow=24, pool_timeout=BUSY_TIMEOUT_S, **options
        )
        self._writer = self._engine.execution_options(is_writer=True)
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _set_sqlite_pragmas)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        else:
            postgres.listen(self._engine)

    @property
    def is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one snapshot and writes nothing.

        Raises: UpstreamUnavailable `database_unavailable`.
        """
        with _public_errors(), self._engine.connect() as conn:
            yield conn

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction: committed when the block ends, rolled back when it raises.

        Raises: UpstreamUnavailable `database_unavailable`, also when another writer held the lock too long.
        """
        with _public_errors(), self._writer.begin() as conn:
            yield conn

    def migrate(self) -> None:
        """Bring the tables to HEAD. Several processes may call this at once; one does the work.

        Raises: UpstreamUnavailable; InternalError `database_newer` when a newer tidegate made the database.
        """
        if self.is_sqlite and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        with self.read() as conn:
            if _revision(conn) == HEAD:
                return
        with self.write() as conn:
            if not self.is_sqlite:
                conn.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            _upgrade(conn)

    def close(self) -> None:
        self._engine.dispose()


def insert_or_ignore(conn: sa.Connection, table: sa.Table) -> sa.Insert:
    """An INSERT that leaves a row which is already there as it is (any unique constraint)."""
    return _insert_or_ignore(conn.dialect, table)


def insert_many(
    conn: sa.Connection, table: sa.Table, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]
) -> None:
    """`insert_or_ignore` of rows of plain values, each in the order of `columns`, which is the table's. Raises:
    ValueError for another order.

    The statement is compiled once and the driver takes the rows as they are: half the time of SQLAlchemy's own way,
    which looks at each value. Over a network many rows travel in one statement, as the driver would wait for a reply
    after each of them.
    """
    if not rows:
        return
    text = _insert_text(conn.dialect, table, columns)
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql(text, list(rows))
        return
    for some in _parts(rows):
        conn.exec_driver_sql(_for_rows(text, len(some)), tuple(chain.from_iterable(some)))


def _parts(rows: Sequence[tuple[object, ...]]) -> Iterator[Sequence[tuple[object, ...]]]:
    at = 0
    while at < len(rows):
        size = next(each for each in ROWS_AT_ONCE if each <= len(rows) - at)
        yield rows[at : at + size]
        at += size


def _for_rows(text: str, num_rows: int) -> str:
    """The INSERT of one row for so many."""
    head, values, rest = text.partition(" VALUES ")
    row, conflict, rest = rest.partition(" ON CONFLICT")
    return f"{head}{values}{', '.join([row] * num_rows)}{conflict}{rest}"


def _insert_or_ignore(dialect: sa.Dialect, table: sa.Table) -> sa.Insert:
    if dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


@lru_cache(64)
def _insert_text(dialect: sa.Dialect, table: sa.Table, columns: tuple[str, ...]) -> str:
    """Raises: ValueError where the driver would take the values in another order."""
    statement = _insert_or_ignore(dialect, table).compile(dialect=dialect, column_keys=columns)
    if tuple(statement.positiontup or ()) != columns:
        raise ValueError(f"the columns of {table.name} are not in the table's order: {', '.join(columns)}")
    return str(statement)


def _set_sqlite_pragmas(connection: Any, _record: Any) -> None:
    # Transactions are begun by _begin_sqlite; the driver's own, implicit ones would begin too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    _enter_wal(cursor)
    # FULL: a commit is on disk when it returns. NORMAL would survive kill -9 but may lose the newest commits
    # in a power cut, and then an upload that we acknowledged (its bytes are fsynced) would have no row.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _enter_wal(cursor: sqlite3.Cursor) -> None:
    """Readers never wait for the writer in this mode, and once entered the file stays in it."""
    # SQLite does not apply its busy timeout to the change of mode: processes that open a new file together
    # would see `database is locked` at once.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _begin_sqlite(conn: sa.Connection) -> None:
    # A transaction that reads first and writes later cannot wait for the lock (SQLITE_BUSY at once): take it first.
    immediate = conn.get_execution_options().get("is_writer")
    conn.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _public_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        if _is_our_mistake(error):
            raise
        raise _unavailable(error) from error
    except (sa.exc.TimeoutError, sa.exc.DisconnectionError) as error:
        raise _unavailable(error) from error


def _is_our_mistake(error: sa.exc.DBAPIError) -> bool:
    """A wrong statement or wrong data, not the database's state."""
    # pg8000 calls nearly everything a ProgrammingError, a server that shuts down too: there the code decides.
    if code := postgres.sqlstate(error):
        return code.startswith(postgres.OUR_MISTAKES)
    return isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError | sa.exc.DataError)


def _unavailable(error: Exception) -> UpstreamUnavailable:
    return UpstreamUnavailable(
        "The database is not available right now; try again shortly.",
        code="database_unavailable",
        retry_after_s=1.0,
        detail=str(error),
    )


def _revision(conn: sa.Connection) -> str | None:
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    return conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(conn: sa.Connection) -> None:
    # Alembic costs 100 ms to import and is not needed once the tables are there.
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    scripts = ScriptDirectory(str(Path(__file__).parent / "migrations"))

    def steps(revision: str | tuple[str, ...], _context: MigrationContext) -> Any:
        return scripts._upgrade_revs(HEAD, revision)  # type: ignore[arg-type]

    context = MigrationContext.configure(conn, opts={"fn": steps})
    try:
        with _operations(context):
            context.run_migrations()
    except CommandError as error:
        raise InternalError(
            "The database was made by a newer tidegate; update tidegate or use another database.",
            code="database_newer",
            detail=str(error),
        ) from error


def _operations(context: MigrationContext) -> Any:
    """Makes `alembic.op` work inside the block."""
    from alembic.operations import Operations

    return Operations.context(context)
