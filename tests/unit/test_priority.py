"""Giving way, as the kernel sees it."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os, sys, threading
from gateway.priority import give_way, run_when_idle
started, done = threading.Event(), threading.Event()
threads = [0]
def wait():
    threads.append(threading.get_native_id())
    started.set()
    done.wait()
threading.Thread(target=wait).start()
started.wait()
{lower}
started.clear()
threading.Thread(target=wait).start()
started.wait()
print(*({shown} for thread in threads))
done.set()
"""
NICENESS, POLICY = "os.getpriority(os.PRIO_PROCESS, thread)", "os.sched_getscheduler(thread)"


def told(lower: str, shown: str) -> list[str]:
    script = SCRIPT.format(lower=lower, shown=shown)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()


def test_every_thread_gives_way_those_that_are_there_and_those_that_come() -> None:
    lowest = max(os.getpriority(os.PRIO_PROCESS, 0), 7)  # priority is never raised
    assert told("give_way(7); give_way(3)", NICENESS) == [str(lowest)] * 3


def test_every_thread_runs_only_when_idle() -> None:
    assert told("run_when_idle()", POLICY) == [str(os.SCHED_IDLE)] * 3
