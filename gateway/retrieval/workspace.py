"""A folder of its own for each process that searches, under one root that they share."""

from __future__ import annotations

import fcntl
import os
import shutil
from itertools import count
from pathlib import Path


class Workspace:
    """The first folder `work-N` that no living process holds, emptied. The system drops the lock with the process."""

    def __init__(self, root: Path) -> None:
        """Raises: OSError when the root cannot be written."""
        root.mkdir(parents=True, exist_ok=True)
        self.folder, self._lock = _claimed(root)
        self._numbers = count(1)

    def new_folder(self, name: str) -> Path:
        """A new empty folder, `name-1`, `name-2` and so on."""
        folder = self.new_name(name)
        folder.mkdir()
        return folder

    def new_name(self, name: str) -> Path:
        """Of a folder that does not exist yet."""
        return self.folder / f"{name}-{next(self._numbers)}"

    def close(self) -> None:
        if self._lock >= 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _claimed(root: Path) -> tuple[Path, int]:
    for number in count():
        lock = os.open(root / f"work-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        folder = root / f"work-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder, lock
    raise AssertionError("count() has no end")
