"""Process trees: adopting what our children leave behind, raising limits, and ending all of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on a descendant whose parent died becomes our child, so that none can slip away."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def raise_file_limit() -> None:
    """As many open files as we may have; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reap_orphans(keep: int) -> None:
    """Collect dead adopted children; the child `keep` is left for its owner to wait for."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == keep:
            return
        os.waitpid(found.si_pid, 0)


def descendants() -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process().children(recursive=True)
    return []


def queued_s(pid: int) -> float:
    """Time that the threads of a process have been ready to run and stood in line for a processor (seconds).

    Linux only; 0 elsewhere, and for a process that is gone.
    """
    total_ns = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # the thread has ended meanwhile
            total_ns += int(stat.read_text().split()[1])
    return total_ns / 1e9


def kill_all(processes: Iterable[psutil.Process], *, wait_s: float = 5.0) -> list[int]:
    """SIGKILL all, wait for their end. Returns the pids that are still there."""
    alive = list(processes)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(alive, timeout=wait_s)
    return [process.pid for process in left]


def kill_by_argument(text: str) -> None:
    """Kill every process of ours with an argument that contains `text`, a name nobody else would use."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(text in word for word in process.cmdline()):
                process.kill()
