"""What is PostgreSQL's own: its driver, its snapshots, its ways to be away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from gateway.errors import UpstreamUnavailable
from gateway.storage import corpus, keys, schema
from gateway.storage.database import Database, insert_many
from tests.contract.storing import ingest, migrate_at_once, new_collection, new_file
from tests.fakes.postgres import Postgres


@pytest.fixture
def server(postgres: Postgres, postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


def _num_tenants(conn: sa.Connection) -> int:
    return int(conn.execute(sa.select(sa.func.count()).select_from(schema.tenants)).scalar_one())


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+pg8000"])
def test_the_url_needs_no_driver(postgres_url: str, scheme: str) -> None:
    database = Database(postgres_url.replace("postgresql", scheme))
    with database.read() as conn:
        assert corpus.current_epoch(conn) == 0
    database.close()


def test_a_read_sees_one_snapshot(server: Database) -> None:
    with server.read() as reader:
        assert _num_tenants(reader) == 0
        with server.write() as writer:
            keys.ensure_tenant(writer, "acme")
        assert _num_tenants(reader) == 0
    with server.read() as reader:
        assert _num_tenants(reader) == 1


def test_a_read_cannot_write(server: Database) -> None:
    with pytest.raises(UpstreamUnavailable, match="not available") as caught, server.read() as conn:
        keys.ensure_tenant(conn, "acme")
    assert "read-only transaction" in caught.value.detail


def test_connections_that_a_restart_has_ended_are_not_used_again(
    server: Database, postgres: Postgres, postgres_url: str
) -> None:
    with server.read() as conn:
        assert _num_tenants(conn) == 0
    postgres.end_connections(postgres_url)
    with server.read() as conn:
        assert _num_tenants(conn) == 0


def test_a_transaction_that_the_server_ends_is_one_clear_error(
    server: Database, postgres: Postgres, postgres_url: str
) -> None:
    def write() -> None:
        with server.write() as conn:
            keys.ensure_tenant(conn, "acme")
            postgres.end_connections(postgres_url)
            _num_tenants(conn)

    with pytest.raises(UpstreamUnavailable) as caught:
        write()
    assert caught.value.code == "database_unavailable"
    with server.read() as conn:
        assert _num_tenants(conn) == 0


def test_a_server_that_is_not_there_is_one_clear_error() -> None:
    database = Database("postgresql://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(UpstreamUnavailable) as caught:
        database.migrate()
    assert caught.value.code == "database_unavailable"
    assert "secret" not in caught.value.message + caught.value.detail
    database.close()


def test_a_change_that_waits_too_long_for_another_is_one_clear_error(
    postgres_url: str, server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.database.BUSY_TIMEOUT_S", 0.2)
    hasty = Database(postgres_url)
    with server.write() as holder:
        keys.ensure_tenant(holder, "default")
        collection_id = new_collection(holder)
        new_file(holder, "file-a")
        ingest(holder, collection_id, "file-a", "one")  # holds the corpus clock until it commits
        with pytest.raises(UpstreamUnavailable) as caught, hasty.write() as conn:
            corpus.next_epoch(conn)
    assert "lock timeout" in caught.value.detail
    hasty.close()


def test_many_rows_travel_in_few_statements(server: Database) -> None:
    """The driver alone would wait for a reply after each of them."""
    columns, statements = ("tenant_id", "digest", "day", "body"), list[bool]()
    rows = [("t", f"{number:04}", 1, "{}") for number in range(300)]
    with server.write() as conn:

        @sa.event.listens_for(conn, "before_cursor_execute")
        def seen(
            _conn: object, _cursor: object, _text: str, _values: object, _context: object, is_many: bool
        ) -> None:
            statements.append(is_many)

        insert_many(conn, schema.receipt_passages, columns, rows)
        insert_many(conn, schema.receipt_passages, columns, rows[100:110])
        assert statements == [False] * 10  # of 256, 16, 16, 4, 4, 4 rows; of 4, 4, 1, 1
        found = conn.execute(sa.select(sa.func.count()).select_from(schema.receipt_passages))
        assert found.scalar_one() == len(rows)


def test_many_migrate_at_once_and_one_does_the_work(postgres: Postgres) -> None:
    url = postgres.new_database(migrated=False)
    migrate_at_once(url)
    postgres.drop_database(url)


def test_ids_of_chunks_outgrow_32_bits(server: Database) -> None:
    with server.write() as conn:
        keys.ensure_tenant(conn, "default")
        collection_id = new_collection(conn)
        new_file(conn, "file-a")
        conn.execute(sa.text("ALTER SEQUENCE chunks_id_seq RESTART WITH 3000000000"))
        ingest(conn, collection_id, "file-a", "one")
        assert corpus.tail(conn, 0, limit=9).chunks[0].id == 3_000_000_000
