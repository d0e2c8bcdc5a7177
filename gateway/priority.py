"""What runs behind everything else: work that may wait gives way to work that someone waits for.

Linux keeps priorities by thread; a thread that is made later has its maker's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

LOWEST = 19  # niceness


def threads() -> set[int]:
    """All threads of this process. Where the kernel does not tell: 0, the calling one."""
    tasks = Path("/proc/self/task")
    return {int(task.name) for task in tasks.iterdir()} if tasks.is_dir() else {0}


def give_way(niceness: int, among: Iterable[int] | None = None) -> None:
    """Lower the priority of these threads (None = all that there are). Never raises priority, never fails."""
    for thread in threads() if among is None else among:
        with contextlib.suppress(OSError):  # it has just ended, or a container forbids it
            if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)


def run_when_idle(among: Iterable[int] | None = None) -> None:
    """Let these threads (None = all that there are) have what processor time nobody else wants. Never fails.

    The kernel's idle policy does what the lowest niceness alone does not: whoever wakes up takes the processor over at
    once, and counts it as free when it looks for one. Under full load next to nothing is left.
    """
    lowered = list(threads() if among is None else among)
    give_way(LOWEST, lowered)
    if not hasattr(os, "SCHED_IDLE"):
        return
    for thread in lowered:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
