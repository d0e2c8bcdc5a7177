"""What the storage modules promise, on every database they run on.

SQLite always; PostgreSQL too when PG_TEST_URL names a database that the tests may empty.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa

from gateway.errors import Conflict, InternalError, InvalidRequest, NotFound, UpstreamUnavailable
from gateway.storage import catalog, corpus, keys, ledger, schema
from gateway.storage.corpus import NewChunk
from gateway.storage.database import Database
from gateway.storage.migrations import HEAD
from gateway.tensors import EMBEDDING_DIM

NOW = 1_000.0
SHA = "ab" * 32


def _backends() -> list[Any]:
    backends = [pytest.param("sqlite", id="sqlite")]
    if url := os.environ.get("PG_TEST_URL"):
        backends.append(pytest.param(url, id="postgresql"))
    return backends


@pytest.fixture(params=_backends())
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'deep' / 'test.db'}" if request.param == "sqlite" else request.param
    database = Database(url)
    if request.param != "sqlite":
        with database.write() as conn:
            schema.metadata.drop_all(conn)
            conn.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def conn(database: Database) -> Iterator[sa.Connection]:
    """One transaction with two tenants, `default` (id and name) and `other`."""
    with database.write() as conn:
        keys.ensure_tenant(conn, "default")
        conn.execute(sa.insert(schema.tenants), {"id": "other", "name": "other", "created_at": 1})
        yield conn


def _file(conn: sa.Connection, file_id: str, tenant_id: str = "default", **values: Any) -> catalog.FileRow:
    row = {"filename": f"{file_id}.md", "purpose": "assistants", "num_bytes": 5, "sha256": SHA} | values
    return catalog.create_file(conn, tenant_id=tenant_id, file_id=file_id, **row)


def _chunks(*texts: str) -> list[NewChunk]:
    return [NewChunk(0, len(text), text, "Guide") for text in texts]


def _vectors(number: int) -> Any:
    return np.eye(EMBEDDING_DIM, dtype=np.float32)[:number]


def _attach(conn: sa.Connection, collection_id: str, file_id: str) -> corpus.WorkItem:
    catalog.attach_file(conn, "default", collection_id, file_id, {})
    item = corpus.claim(conn, lease_s=10, now=NOW)
    assert item is not None
    assert item.file_id == file_id
    return item


def _ingest(conn: sa.Connection, collection_id: str, file_id: str, *texts: str) -> int:
    epoch = corpus.publish(conn, _attach(conn, collection_id, file_id), _chunks(*texts), _vectors(len(texts)))
    assert epoch is not None
    return epoch


def _new_collection(conn: sa.Connection, name: str = "docs", tenant_id: str = "default") -> str:
    return catalog.create_collection(conn, tenant_id, name, {}).id


# --- database and migrations


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
    databases = [Database(url) for _ in range(4)]
    errors: list[BaseException] = []

    def migrate(database: Database) -> None:
        try:
            database.migrate()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=migrate, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with databases[0].read() as conn:
        assert corpus.current_epoch(conn) == 0
    for database in databases:
        database.close()
    assert errors == []


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


# --- keys


def test_a_new_key_finds_its_tenant_and_is_not_stored(conn: sa.Connection) -> None:
    row, key = keys.create_key(conn, tenant="acme", name="ci", is_admin=True)
    tenant = keys.find_key(conn, keys.hash_key(key))
    assert tenant is not None
    assert (tenant.tenant_id, tenant.key_id, tenant.is_admin) == (row.tenant_id, row.id, True)
    assert key not in str(conn.execute(sa.select(schema.api_keys)).all())
    assert row.hint == key[-4:]


def test_a_given_key_is_stored_once(conn: sa.Connection) -> None:
    first, _ = keys.create_key(conn, tenant="default", name="development", key="tg-given")
    second, key = keys.create_key(conn, tenant="default", name="again", key="tg-given")
    assert (first, key) == (second, "tg-given")


def test_a_key_of_another_tenant_is_a_conflict(conn: sa.Connection) -> None:
    keys.create_key(conn, tenant="default", name="a", key="tg-given")
    with pytest.raises(Conflict):
        keys.create_key(conn, tenant="other", name="b", key="tg-given")


def test_a_revoked_key_opens_nothing_and_stays_revoked(conn: sa.Connection) -> None:
    row, key = keys.create_key(conn, tenant="default", name="old")
    assert keys.revoke_key(conn, row.id)
    assert not keys.revoke_key(conn, row.id)
    assert keys.find_key(conn, keys.hash_key(key)) is None
    again, _ = keys.create_key(conn, tenant="default", name="old", key=key)
    assert again.revoked_at is not None


def test_keys_are_listed_per_tenant(conn: sa.Connection) -> None:
    mine, _ = keys.create_key(conn, tenant="default", name="mine")
    theirs, _ = keys.create_key(conn, tenant="other", name="theirs")
    assert keys.list_keys(conn, "other") == [theirs]
    assert keys.list_keys(conn) == [mine, theirs]


def test_tenants_are_made_once_and_the_default_has_a_fixed_id(conn: sa.Connection) -> None:
    assert keys.ensure_tenant(conn, "default") == "default"
    assert keys.ensure_tenant(conn, "acme") == keys.ensure_tenant(conn, "acme") != "acme"


# --- collections, files, attachments


def test_refs_are_ids_or_names_in_the_order_given(conn: sa.Connection) -> None:
    first, second = _new_collection(conn, "first"), _new_collection(conn, "second")
    found = catalog.find_collections(conn, "default", ["second", first, second])
    assert [row.id for row in found] == [second, first, second]


def test_a_missing_ref_is_named(conn: sa.Connection) -> None:
    with pytest.raises(NotFound, match="`nowhere`"):
        catalog.find_collections(conn, "default", [_new_collection(conn), "nowhere"])


def test_an_ambiguous_name_is_refused_but_its_ids_work(conn: sa.Connection) -> None:
    first, _ = _new_collection(conn, "twin"), _new_collection(conn, "twin")
    with pytest.raises(InvalidRequest, match="2 collections"):
        catalog.find_collections(conn, "default", ["twin"])
    assert catalog.find_collections(conn, "default", [first])[0].id == first


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_cover_a_list_once_in_order(conn: sa.Connection, order: str) -> None:
    made = [_new_collection(conn, str(number)) for number in range(7)]
    seen: list[str] = []
    after, more = None, True
    while more:
        rows, more = catalog.list_collections(conn, "default", limit=3, order=order, after=after)
        seen += [row.id for row in rows]
        after = seen[-1]
    assert seen == (made if order == "asc" else made[::-1])


def test_before_gives_the_page_that_came_before(conn: sa.Connection) -> None:
    made = [_new_collection(conn, str(number)) for number in range(6)]
    rows, more = catalog.list_collections(conn, "default", limit=2, order="asc", before=made[4])
    assert ([row.id for row in rows], more) == (made[2:4], True)
    rows, more = catalog.list_collections(conn, "default", limit=4, order="desc", before=made[3])
    assert ([row.id for row in rows], more) == ([made[5], made[4]], False)


def test_an_unknown_cursor_is_refused(conn: sa.Connection) -> None:
    theirs = _new_collection(conn, "theirs", "other")
    for cursor in ("vs_unknown", theirs):
        with pytest.raises(InvalidRequest, match="after"):
            catalog.list_collections(conn, "default", limit=2, after=cursor)


def test_an_update_changes_only_what_is_given(conn: sa.Connection) -> None:
    made = catalog.create_collection(conn, "default", "docs", {"a": 1})
    catalog.update_collection(conn, "default", made.id, name="papers")
    row = catalog.update_collection(conn, "default", made.id, metadata={})
    assert row is not None
    assert (row.name, row.metadata) == ("papers", {})
    assert catalog.update_collection(conn, "default", "vs_unknown", name="x") is None


def test_files_are_listed_by_purpose(conn: sa.Connection) -> None:
    mine, _ = _file(conn, "file-a"), _file(conn, "file-b", purpose="batch")
    assert catalog.list_files(conn, "default", purpose="assistants", limit=5) == ([mine], False)


def test_attaching_twice_changes_nothing(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    first = catalog.attach_file(conn, "default", collection_id, "file-a", {"year": 2024})
    assert catalog.attach_file(conn, "default", collection_id, "file-a", {}) == first
    assert first.status == "in_progress"


def test_a_failed_file_is_queued_again_by_attaching_it(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    item = _attach(conn, collection_id, "file-a")
    corpus.fail(conn, item, "unsupported_file", "No.")
    failed = catalog.get_attachment(conn, "default", collection_id, "file-a")
    assert failed is not None
    assert (failed.status, failed.error_code, failed.error_message) == ("failed", "unsupported_file", "No.")
    again = catalog.attach_file(conn, "default", collection_id, "file-a", {})
    assert (again.status, again.error_code, again.attempts) == ("in_progress", None, 0)
    assert corpus.claim(conn, lease_s=10, now=NOW) is not None


def test_counts_and_statuses_follow_the_ingest(conn: sa.Connection) -> None:
    collection_id, empty = _new_collection(conn), _new_collection(conn, "empty")
    for name in ("a", "b", "c", "unattached"):
        _file(conn, f"file-{name}", sha256=name * 8)
    _ingest(conn, collection_id, "file-a", "one", "two")
    corpus.fail(conn, _attach(conn, collection_id, "file-b"), "server_error", "x")
    catalog.attach_file(conn, "default", collection_id, "file-c", {})
    counts = catalog.count_files(conn, [collection_id, empty])
    usage = len("onetwo") + 2 * EMBEDDING_DIM * 4
    assert counts[collection_id] == catalog.FileCounts(1, 1, 1, 0, 3, usage)
    assert counts[empty] == catalog.FileCounts()


def test_a_batch_is_attached_in_a_few_statements(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    ids = [f"file-{number:03d}" for number in range(500)]
    for file_id in ids:
        _file(conn, file_id)
    catalog.attach_file(conn, "default", collection_id, ids[7], {})
    statements: list[str] = []
    sa.event.listen(conn, "before_cursor_execute", lambda *args: statements.append(args[2]))
    rows = catalog.attach_files(conn, "default", collection_id, [*ids, ids[0]], {"year": 2024})
    assert len(statements) <= 7
    assert [row.file_id for row in rows] == ids
    assert {(row.status, row.attributes["year"]) for row in rows} == {("in_progress", 2024)}
    assert [catalog.get_attachment(conn, "default", collection_id, each) for each in ids[5:9]] == rows[5:9]


def test_a_batch_queues_anew_what_had_failed_and_leaves_the_rest(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    for name in ("a", "b"):
        _file(conn, f"file-{name}", sha256=name * 8)
    _ingest(conn, collection_id, "file-a", "one")
    corpus.fail(conn, _attach(conn, collection_id, "file-b"), "server_error", "x")
    rows = catalog.attach_files(conn, "default", collection_id, ["file-b", "file-a"], {})
    assert [(row.status, row.error_code) for row in rows] == [("in_progress", None), ("completed", None)]


@pytest.mark.parametrize("missing", ["file-unknown", "file-theirs"])
def test_a_batch_with_a_missing_file_names_it_and_attaches_nothing(conn: sa.Connection, missing: str) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    _file(conn, "file-theirs", "other")
    with pytest.raises(NotFound, match=missing) as caught:
        catalog.attach_files(conn, "default", collection_id, ["file-a", missing, "file-later"], {})
    assert caught.value.code == "file_not_found"
    assert catalog.list_attachments(conn, "default", collection_id, limit=9) == ([], False)


_STRANGE = {
    "nul": "\0",
    "nul inside": "a\0b",
    "surrogate": "\ud800",
    "long": "x" * 10_000,
    "empty": "",
    "quote": "'; --",
}
_BY_BOTH = {"attach_file", "attach_files", "get_attachment", "update_attributes", "detach_file"}
_BY_COLLECTION = {"get_collection", "update_collection", "delete_collection", "list_attachments"} | _BY_BOTH
_BY_FILE = {"get_file", "delete_file"} | _BY_BOTH


@pytest.mark.parametrize("strange", _STRANGE.values(), ids=_STRANGE)
def test_a_strange_id_is_one_that_is_not_there(conn: sa.Connection, strange: str) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    _ingest(conn, collection_id, "file-a", "one")
    before = _everything(conn)
    for names, place in ((_BY_COLLECTION, (strange, "file-a")), (_BY_FILE, (collection_id, strange))):
        calls = _calls(*place)
        for name in sorted(names):
            with contextlib.suppress(NotFound):
                assert not calls[name](conn, "default"), name
    assert _everything(conn) == before


@pytest.mark.parametrize("strange", _STRANGE.values(), ids=_STRANGE)
def test_a_strange_cursor_or_ref_is_refused_like_an_unknown_one(conn: sa.Connection, strange: str) -> None:
    collection_id = _new_collection(conn)
    for end in ("after", "before"):
        with pytest.raises(InvalidRequest, match=end):
            catalog.list_collections(conn, "default", limit=2, **{end: strange})
        with pytest.raises(InvalidRequest, match=end):
            catalog.list_attachments(conn, "default", collection_id, limit=2, **{end: strange})
    with pytest.raises(InvalidRequest, match="after"):
        catalog.list_files(conn, "default", limit=2, after=strange)
    assert catalog.list_files(conn, "default", purpose=strange, limit=2) == ([], False)
    with pytest.raises(NotFound):
        catalog.find_collections(conn, "default", [collection_id, strange])
    assert ledger.get_receipt(conn, "default", strange) is None


def _calls(collection_id: str, file_id: str) -> dict[str, Callable[[sa.Connection, str], Any]]:
    """Every catalog function that takes a tenant, called for a collection and a file."""
    attached = (collection_id, file_id)
    return {
        "get_collection": lambda conn, tenant: catalog.get_collection(conn, tenant, collection_id),
        "find_collections": lambda conn, tenant: catalog.find_collections(conn, tenant, ["docs"]),
        "list_collections": lambda conn, tenant: catalog.list_collections(conn, tenant, limit=9)[0],
        "update_collection": lambda conn, tenant: catalog.update_collection(
            conn, tenant, collection_id, name="stolen"
        ),
        "delete_collection": lambda conn, tenant: catalog.delete_collection(conn, tenant, collection_id),
        "get_file": lambda conn, tenant: catalog.get_file(conn, tenant, file_id),
        "list_files": lambda conn, tenant: catalog.list_files(conn, tenant, limit=9)[0],
        "delete_file": lambda conn, tenant: catalog.delete_file(conn, tenant, file_id),
        "attach_file": lambda conn, tenant: catalog.attach_file(conn, tenant, *attached, {"by": tenant}),
        "attach_files": lambda conn, tenant: catalog.attach_files(
            conn, tenant, collection_id, [file_id], {"by": tenant}
        ),
        "get_attachment": lambda conn, tenant: catalog.get_attachment(conn, tenant, *attached),
        "list_attachments": lambda conn, tenant: catalog.list_attachments(
            conn, tenant, collection_id, limit=9
        )[0],
        "update_attributes": lambda conn, tenant: catalog.update_attributes(
            conn, tenant, *attached, {"by": tenant}
        ),
        "detach_file": lambda conn, tenant: catalog.detach_file(conn, tenant, *attached),
    }


@pytest.mark.parametrize("name", sorted(_calls("", "")))
def test_a_foreign_tenant_gets_and_changes_nothing(conn: sa.Connection, name: str) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    _ingest(conn, collection_id, "file-a", "secret")
    before = _everything(conn)
    call = _calls(collection_id, "file-a")[name]
    with contextlib.suppress(NotFound):
        assert not call(conn, "other")
    assert _everything(conn) == before
    assert call(conn, "default"), "the owner must get something, or the test proves nothing"


def test_every_catalog_function_with_a_tenant_is_tried_with_a_foreign_one() -> None:
    functions = {
        name
        for name in catalog.__all__
        if inspect.isfunction(getattr(catalog, name))
        and "tenant_id" in inspect.signature(getattr(catalog, name)).parameters
    }
    assert functions - set(_calls("", "")) == {"create_collection", "create_file"}


def _everything(conn: sa.Connection) -> dict[str, list[Any]]:
    return {table.name: list(conn.execute(sa.select(table))) for table in schema.metadata.sorted_tables}


# --- the ingest queue


def test_the_oldest_file_is_claimed_first_and_only_once(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    for number in range(3):
        _file(conn, f"file-{number}")
        catalog.attach_file(conn, "default", collection_id, f"file-{number}", {})
    conn.execute(
        sa.update(schema.collection_files)
        .where(schema.collection_files.c.file_id == "file-2")
        .values(created_at=1)
    )
    claimed = [corpus.claim(conn, lease_s=10, now=NOW) for _ in range(4)]
    assert [item and item.file_id for item in claimed] == ["file-2", "file-0", "file-1", None]
    assert not corpus.has_work(conn, now=NOW)


def test_a_lease_runs_out_and_the_old_holder_can_change_nothing(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    old = _attach(conn, collection_id, "file-a")
    new = corpus.claim(conn, lease_s=10, now=NOW + 11)
    assert new is not None
    progress = {"lease_s": 10, "now": NOW + 12, "chunks_done": 1, "num_chunks": 2}
    assert not corpus.renew(conn, old, **progress)
    assert not corpus.fail(conn, old, "server_error", "x")
    assert not corpus.release(conn, old)
    assert corpus.publish(conn, old, _chunks("old"), _vectors(1)) is None
    assert corpus.renew(conn, new, **progress)
    assert corpus.publish(conn, new, _chunks("new"), _vectors(1)) == 1
    assert [chunk.text for chunk in corpus.tail(conn, 0, limit=9).chunks] == ["new"]


def test_a_renewed_lease_outlives_its_first_term_and_tells_progress(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    item = _attach(conn, collection_id, "file-a")
    assert corpus.renew(conn, item, lease_s=10, now=NOW + 9, chunks_done=3, num_chunks=7)
    assert corpus.claim(conn, lease_s=10, now=NOW + 11) is None
    row = catalog.get_attachment(conn, "default", collection_id, "file-a")
    assert row is not None
    assert (row.chunks_done, row.num_chunks) == (3, 7)


def test_a_released_item_is_claimable_at_once_and_costs_no_attempt(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    item = _attach(conn, collection_id, "file-a")
    assert corpus.release(conn, item)
    again = corpus.claim(conn, lease_s=10, now=NOW)
    assert again is not None
    assert again.attempts == 1


def test_a_file_that_kills_its_worker_is_failed_after_three_attempts(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    catalog.attach_file(conn, "default", collection_id, "file-a", {})
    claims = [corpus.claim(conn, lease_s=10, now=NOW + 100 * number) for number in range(4)]
    assert [item and item.attempts for item in claims] == [1, 2, 3, None]
    row = catalog.get_attachment(conn, "default", collection_id, "file-a")
    assert row is not None
    assert (row.status, row.error_code) == ("failed", "server_error")


def test_a_file_that_left_is_not_published(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    item = _attach(conn, collection_id, "file-a")
    catalog.detach_file(conn, "default", collection_id, "file-a")
    epoch = corpus.current_epoch(conn)
    assert corpus.publish(conn, item, _chunks("late"), _vectors(1)) is None
    assert corpus.current_epoch(conn) == epoch
    assert corpus.tail(conn, 0, limit=9).chunks == []


def test_vectors_that_do_not_match_the_chunks_are_refused(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    with pytest.raises(ValueError, match="2 chunks"):
        corpus.publish(conn, _attach(conn, collection_id, "file-a"), _chunks("a", "b"), _vectors(1))


def test_vectors_are_known_for_equal_bytes_and_equal_names_of_the_tenant(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    _ingest(conn, collection_id, "file-a", "one", "two")
    expected = {("Guide", text): _vectors(2)[n].tobytes() for n, text in enumerate(("one", "two"))}
    assert corpus.known_vectors(conn, "default", sha256=SHA, filename="x") == expected
    assert corpus.known_vectors(conn, "default", sha256="0", filename="file-a.md") == expected
    assert corpus.known_vectors(conn, "default", sha256="0", filename="x") == {}
    assert corpus.known_vectors(conn, "other", sha256=SHA, filename="file-a.md") == {}


# --- the feed of the search index


def test_the_tail_carries_chunks_with_name_and_vector(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    epoch = _ingest(conn, collection_id, "file-a", "one")
    found = corpus.tail(conn, 0, limit=9)
    assert (found.epoch, found.more, found.removals) == (epoch, False, [])
    (chunk,) = found.chunks
    assert (chunk.filename, chunk.text, chunk.heading) == ("file-a.md", "one", "Guide")
    assert np.array_equal(np.frombuffer(chunk.vector, "<f4"), _vectors(1)[0])
    assert corpus.tail(conn, epoch, limit=9) == corpus.Tail(epoch, [], [], False)
    collection = catalog.get_collection(conn, "default", collection_id)
    assert collection is not None
    assert collection.epoch == epoch


def test_the_tail_never_cuts_an_epoch(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    sizes = [2, 1, 5, 1, 1]
    for number, size in enumerate(sizes):
        _file(conn, f"file-{number}")
        _ingest(conn, collection_id, f"file-{number}", *(f"{number}.{part}" for part in range(size)))
    pages: list[int] = []
    epoch, more = 0, True
    while more:
        found = corpus.tail(conn, epoch, limit=3)
        epoch, more = found.epoch, found.more
        pages.append(len(found.chunks))
    assert pages == [3, 5, 2]


@pytest.mark.parametrize("how", ["detach_file", "delete_file", "delete_collection", "publish again"])
def test_what_leaves_the_corpus_is_in_the_tail_once(conn: sa.Connection, how: str) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    epoch = _ingest(conn, collection_id, "file-a", "one", "two")
    if how == "detach_file":
        assert catalog.detach_file(conn, "default", collection_id, "file-a")
    elif how == "delete_file":
        assert catalog.delete_file(conn, "default", "file-a")
    elif how == "delete_collection":
        assert catalog.delete_collection(conn, "default", collection_id)
    else:
        conn.execute(sa.update(schema.collection_files).values(status="failed"))
        _ingest(conn, collection_id, "file-a", "three")
    found = corpus.tail(conn, epoch, limit=9)
    (removal,) = found.removals
    assert found.epoch == removal.epoch == epoch + 1
    file_id = None if how == "delete_collection" else "file-a"
    assert (removal.tenant_id, removal.collection_id, removal.file_id) == ("default", collection_id, file_id)
    assert [chunk.text for chunk in found.chunks] == (["three"] if how == "publish again" else [])


def test_many_removals_come_in_pages_too(conn: sa.Connection) -> None:
    for number in range(7):
        catalog.delete_collection(conn, "default", _new_collection(conn, str(number)))
    first = corpus.tail(conn, 0, limit=4)
    assert (len(first.removals), first.epoch, first.more) == (4, 4, True)
    rest = corpus.tail(conn, first.epoch, limit=4)
    assert (len(rest.removals), rest.epoch, rest.more) == (3, 7, False)


def test_chunk_ids_are_never_used_again(conn: sa.Connection) -> None:
    collection_id = _new_collection(conn)
    _file(conn, "file-a")
    _file(conn, "file-b")
    _ingest(conn, collection_id, "file-a", "one")
    first = corpus.tail(conn, 0, limit=9).chunks[0].id
    catalog.detach_file(conn, "default", collection_id, "file-a")
    _ingest(conn, collection_id, "file-b", "two")
    assert corpus.tail(conn, 0, limit=9).chunks[0].id > first


def test_a_follower_of_the_tail_always_equals_the_table(conn: sa.Connection) -> None:
    rng = np.random.default_rng(7)
    homes = [_new_collection(conn, name) for name in ("a", "b")]
    for number in range(4):
        _file(conn, f"file-{number}")
    mirror: dict[int, corpus.ChunkRow] = {}
    epoch = 0
    for step in range(120):
        home, file_id = homes[rng.integers(2)], f"file-{rng.integers(4)}"
        if catalog.get_attachment(conn, "default", home, file_id) is None:
            _ingest(conn, home, file_id, *(f"{step}.{part}" for part in range(rng.integers(4))))
        else:
            catalog.detach_file(conn, "default", home, file_id)
        if rng.random() < 0.4:
            found = corpus.tail(conn, epoch, limit=int(rng.integers(1, 6)))
            epoch = _follow(mirror, found)
    while (found := corpus.tail(conn, epoch, limit=3)).epoch != epoch:
        epoch = _follow(mirror, found)
    table = conn.execute(sa.select(schema.chunks.c.id)).scalars()
    assert sorted(mirror) == sorted(table)


def _follow(mirror: dict[int, corpus.ChunkRow], found: corpus.Tail) -> int:
    for gone in found.removals:
        for chunk in list(mirror.values()):
            if chunk.collection_id == gone.collection_id and gone.file_id in {None, chunk.file_id}:
                del mirror[chunk.id]
    mirror.update({chunk.id: chunk for chunk in found.chunks})
    return found.epoch


# --- ledger


def _entry(receipt_id: str, **values: Any) -> ledger.LedgerEntry:
    base = {
        "tenant_id": "default",
        "key_id": "key_1",
        "tier": "fast",
        "outcome": "completed",
        "body_json": '{"id":"x"}',
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "created_at": 1,
    }
    return ledger.LedgerEntry(receipt_id=receipt_id, **(base | values))


def test_a_request_is_billed_once(conn: sa.Connection) -> None:
    ledger.record(conn, [_entry("r1"), _entry("r2", tier="deep"), _entry("r3")])
    ledger.record(conn, [_entry("r1", prompt_tokens=99), _entry("r4", tier="", outcome="rejected")])
    ledger.record(conn, [])
    totals = [ledger.UsageTotal("deep", 1, 10, 3), ledger.UsageTotal("fast", 2, 20, 6)]
    assert ledger.usage_totals(conn, "default") == totals
    assert ledger.usage_totals(conn, "other") == []


def test_usage_is_what_a_tier_has_worked_on(conn: sa.Connection) -> None:
    refused = {"prompt_tokens": 0, "completion_tokens": 0}
    entries = [
        _entry("done"),
        _entry("done, nothing read", **refused),
        _entry("left midway", outcome="evicted", completion_tokens=1),
        _entry("refused", outcome="rejected", **refused),
        _entry("evicted in the queue", outcome="evicted", **refused),
        _entry("failed before the start", outcome="failed", **refused),
        _entry("no tier", tier="", outcome="rejected"),
    ]
    ledger.record(conn, entries)
    assert ledger.usage_totals(conn, "default") == [ledger.UsageTotal("fast", 3, 20, 4)]
    assert all(ledger.get_receipt(conn, "default", entry.receipt_id) for entry in entries)


def test_old_receipts_go_a_few_at_a_time_and_usage_stays(conn: sa.Connection) -> None:
    ledger.record(conn, [_entry(f"r{number}", created_at=number) for number in range(10)])
    assert ledger.prune(conn, 7, 5) == 5
    assert ledger.get_receipt(conn, "default", "r4") is None
    assert ledger.get_receipt(conn, "default", "r5") is not None
    assert [ledger.prune(conn, 7, 5) for _ in range(2)] == [2, 0]
    assert ledger.get_receipt(conn, "default", "r7") is not None
    assert ledger.usage_totals(conn, "default") == [ledger.UsageTotal("fast", 10, 100, 30)]


def test_receipts_are_seen_by_their_tenant_only(conn: sa.Connection) -> None:
    ledger.record(conn, [_entry("r1")])
    assert ledger.get_receipt(conn, "default", "r1") == '{"id":"x"}'
    assert ledger.get_receipt(conn, "other", "r1") is None
    assert ledger.get_receipt(conn, "default", "r2") is None
