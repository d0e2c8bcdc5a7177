"""The bytes of uploaded files, one folder per tenant, and beside each the text that citations point into, with the
places where its pages begin.

A file appears under its name only when all of its bytes are on disk; until then it ends in `.part`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from gateway.errors import InvalidRequest, UpstreamUnavailable

_decode_pages = msgspec.json.Decoder(list[int]).decode
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # no dot and no slash: an id cannot leave its folder


class BlobWriter:
    """One file on its way to disk. Ends with `commit` or `abort`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Two workers may write the same text at once (a file in two collections): each has its own part.
        self._part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        self._hash = hashlib.sha256()
        self._num_bytes = 0
        with _public_errors():
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _sync_folder(path.parent.parent)
            self._file: BinaryIO = self._part.open("wb")

    def write(self, data: bytes) -> None:
        """Raises: UpstreamUnavailable `storage_unavailable` (disk full and the like)."""
        with _public_errors():
            self._file.write(data)
        self._hash.update(data)
        self._num_bytes += len(data)

    def commit(self) -> tuple[int, str]:
        """Put the bytes on disk under their name; they survive a power cut from here on.

        Returns: number of bytes, SHA-256 (hex). Raises: UpstreamUnavailable.
        """
        with _public_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            _sync_folder(self._path.parent)
        return self._num_bytes, self._hash.hexdigest()

    def abort(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


class BlobStore:
    """Blobs under `root`, by tenant and file id."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open_writer(self, tenant_id: str, file_id: str) -> BlobWriter:
        return BlobWriter(self.path(tenant_id, file_id))

    def path(self, tenant_id: str, file_id: str) -> Path:
        """Where the bytes are, or will be. Raises: InvalidRequest for anything but a plain id."""
        for part in (tenant_id, file_id):
            if not _ID.fullmatch(part):
                raise InvalidRequest("An id has 1 to 64 letters, digits, `_` and `-`.", code="invalid_id")
        return self._root / tenant_id / file_id

    def text_path(self, tenant_id: str, file_id: str) -> Path:
        """The stored text (UTF-8, newlines as they are): what chunk offsets count characters of."""
        path = self.path(tenant_id, file_id)
        return path.with_name(path.name + ".txt")

    def write_text(self, tenant_id: str, file_id: str, text: str, page_starts: Sequence[int] = ()) -> None:
        """page_starts[n]: the character that page n + 1 begins at; none = the format has no pages.

        Raises: UpstreamUnavailable `storage_unavailable`.
        """
        pages = self._pages_path(tenant_id, file_id)
        if page_starts:
            _write(pages, msgspec.json.encode(list(page_starts)))
        else:
            pages.unlink(missing_ok=True)
        _write(self.text_path(tenant_id, file_id), text.encode())

    def copy_text(self, tenant_id: str, source_id: str, file_id: str) -> bool:
        """Give a file the text of another one. False when that has none. Raises: UpstreamUnavailable."""
        text = self.read_text(tenant_id, source_id)
        if text is None:
            return False
        self.write_text(tenant_id, file_id, text, self._page_starts(tenant_id, source_id))
        return True

    def read_text(self, tenant_id: str, file_id: str) -> str | None:
        """None when the file has no text (yet)."""
        try:
            return self.text_path(tenant_id, file_id).read_bytes().decode()
        except FileNotFoundError:
            return None

    def page_of(self, tenant_id: str, file_id: str, at: int) -> int:
        """The page that a character of the text stands on, from 1; 0 = the format has no pages, or there is no text."""
        return bisect_right(self._page_starts(tenant_id, file_id), at)

    def _pages_path(self, tenant_id: str, file_id: str) -> Path:
        path = self.path(tenant_id, file_id)
        return path.with_name(path.name + ".pages")

    def _page_starts(self, tenant_id: str, file_id: str) -> list[int]:
        try:
            return _decode_pages(self._pages_path(tenant_id, file_id).read_bytes())
        except FileNotFoundError:
            return []

    def delete(self, tenant_id: str, file_id: str) -> None:
        """Bytes, text and pages; nothing happens when they are gone already."""
        self.path(tenant_id, file_id).unlink(missing_ok=True)
        self.text_path(tenant_id, file_id).unlink(missing_ok=True)
        self._pages_path(tenant_id, file_id).unlink(missing_ok=True)

    def remove_stale_parts(self, older_than_s: float) -> int:
        """Delete what a killed process left half written. Returns how many."""
        limit = time.time() - older_than_s
        stale = [part for part in self._root.glob("*/*.part") if part.stat().st_mtime < limit]
        for part in stale:
            part.unlink(missing_ok=True)
        return len(stale)


def _write(path: Path, data: bytes) -> None:
    writer = BlobWriter(path)
    try:
        writer.write(data)
        writer.commit()
    except BaseException:
        writer.abort()
        raise


def _sync_folder(path: Path) -> None:
    """A new name is on disk only when its folder is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _public_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UpstreamUnavailable(
            "Files cannot be stored right now; try again later.",
            code="storage_unavailable",
            retry_after_s=30.0,
            detail=str(error),
        ) from error
