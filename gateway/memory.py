"""A watermark on memory: above it new work is refused, and what is open goes on.

Without it the kernel ends the whole process, and with it every open stream. Which memory counts is a Gauge's affair:
that of this process, or that of the container with all that runs in it. Both are read from /proc and /sys, which
cost no disk.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.errors import AdmissionError

HIGH_SHARE = 0.90  # of the limit: new work is refused from here
LOW_SHARE = 0.85  # and taken again from here
LOOK_S = 0.25
RETRY_S = (1.0, 30.0)
UNKNOWN_RETRY_S = 5.0  # while memory does not fall
YOUNG_OBJECTS = 20_000
UNLIMITED_BYTES = 2**60  # cgroup v1 writes a number above it where there is no limit


class Reading(NamedTuple):
    used_bytes: int
    limit_bytes: int


Gauge = Callable[[], Reading]


class MemoryGuard:
    """gauge: None = there is no limit to go by, and nothing is ever refused."""

    def __init__(self, gauge: Gauge | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._gauge = gauge
        self._clock = clock
        self._looked = float("-inf")
        self._reading = Reading(0, 1)
        self._is_full = False
        self._peak, self._peak_time = 0, 0.0

    def is_full(self) -> bool:
        """Whether new work has to wait. Looks at most once in LOOK_S."""
        if self._gauge is None:
            return False
        now = self._clock()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._judge(self._gauge(), now)
        return self._is_full

    def share(self) -> float:
        """How much of the limit is in use; 0 without one."""
        self.is_full()
        return self._reading.used_bytes / self._reading.limit_bytes

    def check(self) -> None:
        """Raises: AdmissionError (`overloaded`) while memory is short."""
        if self.is_full():
            raise AdmissionError(
                "The service is short of memory and takes no new requests; try again shortly.",
                retry_after_s=self._retry_after_s(),
                detail=f"{self._reading.used_bytes} of {self._reading.limit_bytes} bytes in use",
            )

    def _judge(self, reading: Reading, now: float) -> None:
        self._reading = reading
        share = reading.used_bytes / reading.limit_bytes
        if not self._is_full:
            self._peak = 0
        self._is_full = share >= (LOW_SHARE if self._is_full else HIGH_SHARE)
        if reading.used_bytes >= self._peak:
            self._peak, self._peak_time = reading.used_bytes, now

    def _retry_after_s(self) -> float:
        """From how fast memory has fallen since its peak."""
        fallen = self._peak - self._reading.used_bytes
        passed = self._clock() - self._peak_time
        if fallen <= 0 or passed <= 0:
            return UNKNOWN_RETRY_S
        left = self._reading.used_bytes - LOW_SHARE * self._reading.limit_bytes
        return min(max(left / (fallen / passed), RETRY_S[0]), RETRY_S[1])


def memory_gauge(limit_mb: int) -> Gauge | None:
    """By this process against its own limit; with limit 0 by the container, if it has one."""
    return process_gauge(limit_mb * 2**20) if limit_mb else container_gauge()


def process_gauge(limit_bytes: int, statm: Path = Path("/proc/self/statm")) -> Gauge | None:
    """Resident memory of this process. None where the system does not tell it (no Linux)."""
    if not statm.exists():
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return lambda: Reading(int(statm.read_bytes().split()[1]) * page, limit_bytes)


def container_gauge(
    cgroup: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Gauge | None:
    """Memory of the innermost control group with a limit, less the files that the kernel would drop at once."""
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return None
    for folder, names in _folders(lines, root):
        try:
            limit = int((folder / names.limit).read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
        if limit < UNLIMITED_BYTES:
            return lambda folder=folder, names=names, limit=limit: Reading(  # type: ignore[misc]
                _used_bytes(folder, names), limit
            )
    return None


class _Names(NamedTuple):
    limit: str
    usage: str
    idle: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def _folders(lines: list[str], root: Path) -> Iterator[tuple[Path, _Names]]:
    """Ours and those around it, innermost first. In a container the outer ones may not be shown."""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, _V2
        elif "memory" in controllers.split(","):
            base, names = root / "memory", _V1
        else:
            continue
        own = Path(path.lstrip("/"))
        for part in (own, *own.parents):
            yield base / part, names


def _used_bytes(folder: Path, names: _Names) -> int:
    used = int((folder / names.usage).read_text())
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == names.idle:
            return max(used - int(value), 0)
    return used


def spare_the_start() -> None:
    """Keep all that the start has made out of the garbage collector's rounds, which stop the event loop.

    Some 250,000 objects that live as long as the worker: a full round over them takes 70 ms. Young ones are looked at
    less often than by default, as most of ours end without the collector's help.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
