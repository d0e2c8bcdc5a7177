"""Whether the answers of the last run may be taken up by this one: only over the database that they were made from.

Answers are known by ids of chunks and by the corpus's epoch. A database that was made anew, or that comes from a
backup, may give the same ones a second time, to other texts. So the end of a run notes which database it was and how
far it had come; without that note, or behind it, a start is cold.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec
import sqlalchemy as sa

from gateway.errors import TidegateError
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.storage.epochs import current_epoch
from gateway.storage.schema import api_keys
from gateway.supervise.credentials import write_private
from gateway.supervise.redis_config import keeps_answers, redis_folder, snapshot_path

NOTE = "answers.json"


class Note(msgspec.Struct, frozen=True):
    """database: tells one from another, and one from itself made anew. epoch: of its corpus."""

    database: str
    epoch: int


def note_snapshot(settings: Settings) -> None:
    """At the end of a run, when nobody changes the corpus any more. Without a database: the next start is cold."""
    if not snapshot_path(settings).exists():
        return
    try:
        write_private(_note_path(settings), msgspec.json.encode(_note_of(settings)).decode())
    except (TidegateError, sa.exc.SQLAlchemyError, OSError):
        forget_snapshot(settings)


def check_snapshot(settings: Settings) -> None:
    """Before a run, with the database at hand. Raises: UpstreamUnavailable, OSError."""
    if not snapshot_path(settings).exists():
        return
    noted = None
    with contextlib.suppress(OSError, msgspec.DecodeError):
        noted = msgspec.json.decode(_note_path(settings).read_bytes(), type=Note)
    is_ours = False
    if noted is not None and keeps_answers(settings):
        now = _note_of(settings)
        is_ours = noted.database == now.database and noted.epoch <= now.epoch
    if is_ours:
        _note_path(settings).unlink()
    else:
        forget_snapshot(settings)


def forget_snapshot(settings: Settings) -> None:
    for path in (snapshot_path(settings), _note_path(settings)):
        path.unlink(missing_ok=True)


def _note_path(settings: Settings) -> Path:
    return redis_folder(settings) / NOTE


def _note_of(settings: Settings) -> Note:
    database = Database(settings.sql_url)
    first_key = sa.select(api_keys.c.id).order_by(api_keys.c.created_at, api_keys.c.id).limit(1)
    try:
        with database.read() as conn:
            told = f"{settings.sql_url}\0{conn.execute(first_key).scalar_one_or_none()}"
            epoch = current_epoch(conn)
    finally:
        database.close()
    return Note(hashlib.sha256(told.encode()).hexdigest(), epoch)
