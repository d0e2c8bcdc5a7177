"""A generation on disk, so that a start reads files instead of the whole corpus from SQL.

    snapshots/current        the name of the folder that counts, replaced in one step
    snapshots/snapshot-<n>/  manifest.json (with the size and CRC-32 of every other file), shelves.json, columns.bin,
                             texts.bin, vectors.bin, graph-<table>.faiss, lexical/

Nothing here is trusted: another format or database, a missing, cut or changed file refuses the whole snapshot. Several
processes share the folder; one of them writes at a time, beside the folder that counts.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

FORMAT = 1
CURRENT = "current"
MANIFEST = "manifest.json"
BLOCK = 4 * 2**20


class SnapshotRefused(Exception):
    """Why a snapshot cannot be used, or not be written now. The text is one sentence."""


class FileMeta(msgspec.Struct, frozen=True):
    name: str  # relative to the snapshot's folder
    num_bytes: int
    crc: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """database: which one it was made of, see `fingerprint`."""

    format: int = FORMAT
    database: str
    epoch: int
    num_chunks: int
    files: list[FileMeta]


@dataclass
class Draft:
    """A snapshot being written. epoch, num_chunks: of what the files hold, told by who fills the folder."""

    folder: Path
    epoch: int = -1
    num_chunks: int = 0


class SnapshotFolder:
    """The folder that the snapshots of one corpus live in."""

    def __init__(self, root: Path, database: str) -> None:
        self._root = root
        self._database = database

    def epoch(self) -> int:
        """Of the snapshot that counts, as far as its manifest says; -1 = there is none."""
        try:
            return self._manifest(self._current()).epoch
        except SnapshotRefused:
            return -1

    def is_missing(self) -> bool:
        return not (self._root / CURRENT).exists()

    def verified(self) -> tuple[Path, int]:
        """The snapshot that counts and its epoch, once all of its bytes were read and are what was written.

        Raises: SnapshotRefused.
        """
        folder = self._current()
        manifest = self._manifest(folder)
        with ThreadPoolExecutor(max_workers=2) as pool:
            wrong = next(
                (text for text in pool.map(lambda meta: _fault(folder, meta), manifest.files) if text), ""
            )
        if wrong:
            raise SnapshotRefused(wrong)
        return folder, manifest.epoch

    @contextmanager
    def writing(self) -> Iterator[Draft]:
        """A new folder to fill; at the end of the block it becomes the one that counts, whole or not at all.

        Raises: SnapshotRefused when another process is writing; OSError as the disk gives it, the old one still counts.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock)
            draft = Draft(self._root / f"snapshot-{os.urandom(4).hex()}")
            draft.folder.mkdir()
            try:
                yield draft
                self._seal(draft)
            finally:
                self._remove_others()
        finally:
            os.close(lock)

    def _seal(self, draft: Draft) -> None:
        folder = draft.folder
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = [
            FileMeta(str(path.relative_to(folder)), path.stat().st_size, _synced_crc(path)) for path in paths
        ]
        manifest = Manifest(
            database=self._database, epoch=draft.epoch, num_chunks=draft.num_chunks, files=files
        )
        _write_synced(folder / MANIFEST, [_with_crc(msgspec.json.encode(manifest))])
        for inner in {path.parent for path in paths} | {folder, self._root}:
            _sync_folder(inner)
        fresh = self._root / f"{CURRENT}.new"
        _write_synced(fresh, [folder.name.encode()])
        fresh.replace(self._root / CURRENT)
        _sync_folder(self._root)

    def _remove_others(self) -> None:
        """What earlier writers left, finished or not. Readers that have mapped a file keep it."""
        try:
            current = self._current().name
        except SnapshotRefused:
            current = ""
        for path in self._root.iterdir():
            if path.is_dir() and path.name != current:
                shutil.rmtree(path, ignore_errors=True)

    def _current(self) -> Path:
        try:
            name = (self._root / CURRENT).read_text()
        except FileNotFoundError:
            raise SnapshotRefused("there is no snapshot") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SnapshotRefused(f"{CURRENT} cannot be read: {error}") from error
        if not name or Path(name).name != name:
            raise SnapshotRefused(f"{CURRENT} names no snapshot")
        return self._root / name

    def _manifest(self, folder: Path) -> Manifest:
        try:
            content, _, crc = (folder / MANIFEST).read_bytes().rpartition(b"\n")
            if not content or int(crc, 16) != zlib.crc32(content):
                raise ValueError("its checksum is wrong")
            head = msgspec.json.decode(content)
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ValueError(f"it is not in format {FORMAT}")
            manifest = msgspec.convert(head, Manifest)
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            raise SnapshotRefused(f"{folder.name}/{MANIFEST} cannot be used: {error}") from error
        if manifest.database != self._database:
            raise SnapshotRefused(f"{folder.name} was made of another database")
        return manifest


def fingerprint(sql_url: str) -> str:
    """Tells databases apart without keeping the password in the URL."""
    scheme, _, rest = sql_url.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"
    return f"{zlib.crc32(shown.encode()):08x}"


def _with_crc(content: bytes) -> bytes:
    return content + b"\n%08x" % zlib.crc32(content)


def _lock(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SnapshotRefused("another process is writing one") from None


def _fault(folder: Path, meta: FileMeta) -> str:
    """What is wrong with a file; empty = nothing."""
    path = folder / meta.name
    try:
        if path.stat().st_size != meta.num_bytes:
            return f"{folder.name}/{meta.name} has {path.stat().st_size} bytes, not {meta.num_bytes}"
        with path.open("rb", buffering=0) as file:
            crc = _crc(file)
    except OSError as error:
        return f"{folder.name}/{meta.name} cannot be read: {error}"
    return "" if crc == meta.crc else f"{folder.name}/{meta.name} has changed: its checksum is wrong"


def _crc(file: Any) -> int:
    crc, block = 0, memoryview(bytearray(BLOCK))
    while num_read := file.readinto(block):
        crc = zlib.crc32(block[:num_read], crc)
    return crc


def _synced_crc(path: Path) -> int:
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        return _crc(file)


def _write_synced(path: Path, parts: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
