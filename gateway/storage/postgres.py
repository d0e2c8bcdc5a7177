"""What PostgreSQL needs said that SQLite does not, over the driver pg8000."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

DRIVER = "postgresql+pg8000"
REPLY_TIMEOUT_S = (
    60.0  # for connecting and for each reply: a server that is gone without a word holds nobody for ever
)

# SQLSTATE classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
OUR_MISTAKES = ("22", "23", "42")  # wrong data, a broken constraint, a wrong statement
GOING_AWAY = ("57P", "08")  # the server ends the connection


def with_driver(url: sa.URL) -> sa.URL:
    """`postgresql://…` and `postgres://…` mean the driver that comes with tidegate."""
    return url.set(drivername=DRIVER) if url.drivername in {"postgresql", "postgres"} else url


def engine_options(lock_timeout_s: float) -> dict[str, Any]:
    connect = {
        "application_name": "tidegate",
        "timeout": REPLY_TIMEOUT_S,
        "startup_params": {"lock_timeout": str(round(lock_timeout_s * 1000))},
    }
    return {
        "connect_args": connect,
        "pool_pre_ping": True,  # after a restart of the server all pooled connections are dead
    }


def listen(engine: sa.Engine) -> None:
    # Several rows in one INSERT: the driver's own executemany waits for a reply after each row.
    engine.dialect.use_insertmanyvalues_wo_returning = True
    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "handle_error", _mark_disconnect)


def sqlstate(error: sa.exc.DBAPIError) -> str:
    """The server's code, or nothing when the error is not the server's."""
    detail = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return str(detail.get("C", "")) if isinstance(detail, dict) else ""


def _begin(conn: sa.Connection) -> None:
    # Several statements of one read see one snapshot, as on SQLite.
    if not conn.get_execution_options().get("is_writer"):
        conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _mark_disconnect(context: sa.engine.ExceptionContext) -> None:
    error = context.sqlalchemy_exception
    if isinstance(error, sa.exc.DBAPIError) and sqlstate(error).startswith(GOING_AWAY):
        context.is_disconnect = True
