"""Answers of the last run are taken up only over the database that they were made from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings
from gateway.storage.database import Database
from gateway.storage.epochs import next_epoch
from gateway.storage.keys import create_key
from gateway.supervise.redis_config import redis_folder, snapshot_path
from gateway.supervise.snapshot import NOTE, check_snapshot, note_snapshot


def make_database(settings: Settings) -> None:
    database = Database(settings.sql_url)
    database.migrate()
    with database.write() as conn:
        create_key(conn, tenant="default", name="development")
    database.close()


def change_a_document(settings: Settings) -> None:
    database = Database(settings.sql_url)
    with database.write() as conn:
        next_epoch(conn)
    database.close()


def database_files(settings: Settings) -> list[Path]:
    return list(settings.var.glob("tidegate.db*"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """After an orderly end, at epoch 1."""
    made = load_settings({}, var=tmp_path / "var")
    redis_folder(made).mkdir(parents=True)
    make_database(made)
    change_a_document(made)
    snapshot_path(made).write_bytes(b"answers")
    note_snapshot(made)
    return made


def is_taken_up(settings: Settings) -> bool:
    check_snapshot(settings)
    assert not (redis_folder(settings) / NOTE).exists()
    return snapshot_path(settings).exists()


def test_over_the_same_database_it_is_taken_up(settings: Settings) -> None:
    assert is_taken_up(settings)


def test_documents_may_have_changed_meanwhile(settings: Settings) -> None:
    change_a_document(settings)
    assert is_taken_up(settings)


def test_not_over_one_that_was_made_anew_however_far_it_has_come(settings: Settings) -> None:
    for path in database_files(settings):
        path.unlink()
    make_database(settings)
    for _ in range(5):
        change_a_document(settings)
    assert not is_taken_up(settings)


def test_not_over_an_older_backup(settings: Settings, tmp_path: Path) -> None:
    for path in database_files(settings):
        shutil.copy(path, tmp_path / path.name)
    change_a_document(settings)
    note_snapshot(settings)
    for path in database_files(settings):
        path.unlink()
    for path in tmp_path.glob("tidegate.db*"):
        shutil.copy(path, settings.var / path.name)
    assert not is_taken_up(settings)


@pytest.mark.parametrize("note", [None, b"", b"{}", b'{"database": 1}'], ids=repr)
def test_not_without_a_note_that_can_be_read(settings: Settings, note: bytes | None) -> None:
    path = redis_folder(settings) / NOTE
    path.unlink()
    if note is not None:
        path.write_bytes(note)
    assert not is_taken_up(settings)


def test_not_where_nothing_is_kept(settings: Settings) -> None:
    assert not is_taken_up(load_settings({}, var=settings.var, cache=False))


def test_a_note_is_good_for_one_start(settings: Settings) -> None:
    assert is_taken_up(settings)
    assert not is_taken_up(settings)


def test_nobody_else_can_read_the_note(settings: Settings) -> None:
    assert (redis_folder(settings) / NOTE).stat().st_mode & 0o077 == 0


def test_where_the_database_is_out_of_reach_nothing_is_kept(settings: Settings) -> None:
    for path in database_files(settings):
        path.unlink()
    os.mkdir(settings.var / "tidegate.db")
    note_snapshot(settings)
    assert not snapshot_path(settings).exists()
