"""FaissStore over a real SQLite file: starts from a snapshot and SQL, and from SQL alone when it must."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.ports import SearchRequest
from gateway.retrieval import faiss_store, snapshot
from gateway.retrieval.faiss_store import FaissStore
from gateway.retrieval.snapshot import CURRENT
from gateway.retrieval.stores import open_store
from gateway.retrieval.workspace import Workspace
from gateway.settings import Settings, load_settings
from gateway.storage.database import Database
from gateway.types import Passage, Scope
from tests.fakes import corpus

VECTORS = np.eye(8, dtype=np.float32)

Open = Callable[[], FaissStore]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({}, var=tmp_path / "var", snapshot_chunks=1)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    settings.var.mkdir()
    database = Database(settings.sql_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def opened(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens stores that save only when a test asks them to."""
    monkeypatch.setattr(faiss_store, "UPKEEP_S", 3600.0)
    stores: list[FaissStore] = []

    def open_one() -> FaissStore:
        store = FaissStore(settings, database)
        stores.append(store)
        store.start(5)
        return store

    yield open_one
    for store in stores:
        store.close()


def texts(store: FaissStore) -> set[str]:
    scope = Scope(tenant_id="t", k=64, ranking="dense")
    (answer,) = store.search([SearchRequest(VECTORS[0], "", scope)])
    assert isinstance(answer, bytes)
    return {passage.text for passage in msgspec.json.decode(answer, type=list[Passage])}


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_start_takes_the_snapshot_and_the_rest_from_sql(
    database: Database, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    collection = corpus.new_collection(database, "t")
    gone = corpus.add_file(database, "t", collection, ["a", "b"], VECTORS[:2])
    first = opened()
    assert first.save_snapshot()
    corpus.remove_file(database, "t", collection, gone)
    corpus.add_file(database, "t", collection, ["c"], VECTORS[2:3])
    with caplog.at_level(logging.INFO):
        second = opened()
    assert texts(second) == {"c"}
    assert "snapshot loaded: 2 chunks at epoch 1" in caplog.text
    eventually(lambda: texts(first) == {"c"})
    assert (second.epoch, second.num_chunks) == (3, 1)


def damage(settings: Settings, name: str = "texts.bin") -> None:
    root = settings.search_dir / "snapshots"
    path = root / (root / CURRENT).read_text() / name
    path.write_bytes(b"\xff" + path.read_bytes()[1:])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_damaged_snapshot_is_refused_with_one_line_and_rebuilt(
    settings: Settings, database: Database, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    corpus.add_file(database, "t", corpus.new_collection(database, "t"), ["a", "b"], VECTORS[:2])
    opened().save_snapshot()
    damage(settings)
    store = opened()
    assert texts(store) == {"a", "b"}
    (line,) = warnings(caplog)
    assert "read from SQL" in line
    assert "texts.bin has changed" in line
    assert store.has_refused_snapshot
    assert store.save_snapshot()
    caplog.clear()
    assert texts(opened()) == {"a", "b"}
    assert warnings(caplog) == []


def test_snapshot_that_is_ahead_of_the_database_is_rebuilt(
    settings: Settings, database: Database, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    collection = corpus.new_collection(database, "t")
    for text in "ab":
        corpus.add_file(database, "t", collection, [text], VECTORS[:1])
    opened().save_snapshot()
    restored(settings, ["older"])
    assert texts(opened()) == {"older"}
    assert any("went back from 2 to 1" in line for line in warnings(caplog))


def test_snapshot_of_a_database_that_was_replaced_is_rebuilt(
    settings: Settings, database: Database, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock of the other one is further on, and its chunks have the same ids."""
    corpus.add_file(database, "t", corpus.new_collection(database, "t"), ["a", "b"], VECTORS[:2])
    opened().save_snapshot()
    restored(settings, ["x", "y", "z"])
    assert texts(opened()) == {"x", "y", "z"}
    assert any("another state of the database" in line for line in warnings(caplog))


def restored(settings: Settings, contents: list[str]) -> None:
    """Another database in the place of the one that the stores have open."""
    other = Database(f"sqlite:///{settings.var / 'other.db'}")
    other.migrate()
    collection = corpus.new_collection(other, "t")
    for text in contents:
        corpus.add_file(other, "t", collection, [text], VECTORS[:1])
    other.close()
    tables = "chunks collection_files files collections tenants corpus_clock removals"
    script = "PRAGMA foreign_keys=OFF; ATTACH 'other.db' AS other;" + "".join(
        f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM other.{table};" for table in tables.split()
    )
    code = f"import sqlite3; sqlite3.connect('tidegate.db').executescript({script!r})"
    subprocess.run([sys.executable, "-c", code], cwd=settings.var, check=True)


def test_upkeep_saves_by_itself_once_enough_has_changed(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    monkeypatch.setattr(faiss_store, "UPKEEP_S", 0.01)
    corpus.add_file(database, "t", corpus.new_collection(database, "t"), ["a"], VECTORS[:1])
    store = opened()
    eventually((settings.search_dir / "snapshots" / CURRENT).exists)
    store.close()
    assert not list(settings.search_dir.glob("work-*/"))


def test_snapshots_can_be_turned_off(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_store, "UPKEEP_S", 0.01)
    off = load_settings({}, var=tmp_path / "var", snapshot_chunks=0)
    corpus.add_file(database, "t", corpus.new_collection(database, "t"), ["a"], VECTORS[:1])
    store = FaissStore(off, database)
    store.start(5)
    assert not store._is_save_due()
    store.close()
    assert not (off.search_dir / "snapshots").exists()


def test_full_disk_leaves_the_old_snapshot(
    database: Database, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collection = corpus.new_collection(database, "t")
    corpus.add_file(database, "t", collection, ["a"], VECTORS[:1])
    store = opened()
    store.save_snapshot()
    corpus.add_file(database, "t", collection, ["b"], VECTORS[1:2])
    eventually(lambda: store.epoch == 2)

    def full(path: Path) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(snapshot, "_synced_crc", full)
        assert not store.save_snapshot()
    assert "the old one stays" in warnings(caplog)[0]
    assert texts(opened()) == {"a", "b"}


def test_several_processes_have_a_folder_each(tmp_path: Path) -> None:
    one, two = Workspace(tmp_path), Workspace(tmp_path)
    assert one.folder != two.folder
    (one.folder / "file").write_text("x")
    one.close()
    again = Workspace(tmp_path)
    assert again.folder == one.folder
    assert list(again.folder.iterdir()) == []
    again.close()
    two.close()


def test_folder_of_a_killed_process_is_taken_over_and_emptied(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gateway.retrieval.workspace import Workspace\n"
        "made = Workspace(Path(sys.argv[1])); (made.folder / 'left').write_text('x')\n"
        "print(made.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert Workspace(tmp_path).folder != folder
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    taken = Workspace(tmp_path)
    assert taken.folder == folder
    assert not (folder / "left").exists()


def test_settings_choose_faiss(settings: Settings, database: Database) -> None:
    store = open_store(settings, database)
    assert isinstance(store, FaissStore)
    store.close()
