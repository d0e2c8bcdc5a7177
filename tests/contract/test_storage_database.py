"""What the database promises: migrations, transactions, one clear error for whatever is wrong with it."""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gateway.errors import InternalError, UpstreamUnavailable
from gateway.storage import catalog, keys, schema
from gateway.storage.database import Database, insert_many
from gateway.storage.migrations import HEAD
from tests.contract.storing import migrate_at_once


def test_migrations_build_exactly_the_tables_of_the_schema(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options = {"compare_type": True, "compare_server_default": True}
    with database.read() as conn:
        context = MigrationContext.configure(conn, opts=options)
        assert compare_metadata(context, schema.metadata) == []


def test_migrations_name_keys_and_constraints_like_the_schema(database: Database, tmp_path: Path) -> None:
    plain = sa.create_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    schema.metadata.create_all(plain)
    if not database.is_sqlite:
        pytest.skip("compared on SQLite")
    with database.read() as migrated, plain.connect() as created:
        assert _shape(migrated) == _shape(created)
    plain.dispose()


def _shape(conn: sa.Connection) -> dict[str, Any]:
    found = sa.inspect(conn)
    return {
        table: (
            sorted(str(key) for key in found.get_foreign_keys(table)),
            sorted(str(key) for key in found.get_unique_constraints(table)),
            sorted(str(key) for key in found.get_indexes(table)),
            found.get_pk_constraint(table)["constrained_columns"],
        )
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def test_head_is_the_newest_revision() -> None:
    from alembic.script import ScriptDirectory

    folder = Path(schema.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_heads() == [HEAD]


def test_rows_have_the_fields_of_their_tables() -> None:
    pairs = [
        (catalog.CollectionRow, schema.collections),
        (catalog.FileRow, schema.files),
        (catalog.AttachmentRow, schema.collection_files),
    ]
    for row, table in pairs:
        assert [field.name for field in msgspec.structs.fields(row)] == [column.name for column in table.c]


def test_migrating_a_migrated_database_takes_no_write_lock(database: Database) -> None:
    with database.write() as conn:
        keys.ensure_tenant(conn, "acme")
        database.migrate()  # would wait for this very transaction


def test_migrating_a_migrated_database_does_not_import_alembic(tmp_path: Path) -> None:
    import subprocess

    url = f"sqlite:///{tmp_path / 'test.db'}"
    first = Database(url)
    first.migrate()
    first.close()
    code = (
        "import sys; from gateway.storage.database import Database; "
        f"Database({url!r}).migrate(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_migrate_at_once_and_one_does_the_work(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate_at_once(url)


def test_a_new_file_that_another_process_is_opening_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")  # not in WAL mode yet: entering it fails at once while this lasts
    release = threading.Timer(0.3, lambda: holder.execute("ROLLBACK"))
    release.start()
    database = Database(f"sqlite:///{path}")
    database.migrate()
    release.join()
    holder.close()
    database.close()


def test_a_database_of_a_newer_version_is_refused_with_a_sentence(database: Database) -> None:
    with database.write() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InternalError, match="newer tidegate") as caught:
        database.migrate()
    assert caught.value.code == "database_newer"


def test_a_write_that_raises_leaves_nothing(database: Database) -> None:
    def change_and_raise() -> None:
        with database.write() as conn:
            keys.ensure_tenant(conn, "acme")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_raise()
    with database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(schema.tenants)).scalar() == 0


def test_a_lock_held_too_long_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.storage.database.BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "test.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UpstreamUnavailable) as caught, database.write():
        pass
    assert caught.value.code == "database_unavailable"
    assert caught.value.retry_after_s
    assert "locked" in caught.value.detail
    holder.close()
    database.close()


@pytest.mark.parametrize("damage", ["folder", "garbage"])
def test_a_database_that_cannot_be_read_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "test.db"
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"this is no database " * 100)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(UpstreamUnavailable) as caught:
        database.migrate()
    assert caught.value.code == "database_unavailable"
    assert str(path) not in caught.value.message
    database.close()


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with database.write() as writer:
        keys.ensure_tenant(writer, "acme")
        with database.read() as reader:
            assert reader.execute(sa.select(sa.func.count()).select_from(schema.tenants)).scalar() == 0


def test_rows_of_plain_values_are_written_together_and_once(database: Database) -> None:
    columns = ("tenant_id", "digest", "day", "body")
    rows = [("t", "one", 1, "{}"), ("t", "two", 1, "[]")]
    for _ in range(2):
        with database.write() as conn:
            insert_many(conn, schema.receipt_passages, columns, [*rows, ("t", "one", 1, "another")])
    with database.write() as conn:
        insert_many(conn, schema.receipt_passages, columns, [])
        found = conn.execute(sa.select(schema.receipt_passages).order_by(schema.receipt_passages.c.digest))
        assert [tuple(row) for row in found] == rows


def test_values_in_another_order_than_the_tables_are_refused_and_not_mixed_up(database: Database) -> None:
    with database.write() as conn, pytest.raises(ValueError, match="order: digest, tenant_id"):
        insert_many(
            conn, schema.receipt_passages, ("digest", "tenant_id", "day", "body"), [("x", "t", 1, "")]
        )
