"""What runs behind everything else: work that may wait gives way to work that someone waits for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

LOWEST = 19  # niceness


def give_way(niceness: int) -> None:
    """Lower the priority of this process, all of its threads included. Never raises priority, never fails."""
    for thread in _threads():
        with contextlib.suppress(OSError):  # it has just ended, or a container forbids it
            if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)


def run_when_idle() -> None:
    """Let this process have what processor time nobody else wants. Never fails.

    The kernel's idle policy does what the lowest niceness alone does not: whoever wakes up takes the processor over at
    once, and counts it as free when it looks for one. Under full load next to nothing is left.
    """
    give_way(LOWEST)
    if not hasattr(os, "SCHED_IDLE"):
        return
    for thread in _threads():
        with contextlib.suppress(OSError):
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def _threads() -> Iterator[int]:
    """Linux keeps priorities by thread; a thread that is made later has its maker's. Elsewhere: the calling one."""
    tasks = Path("/proc/self/task")
    yield from [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]
