"""Leashes and orphans, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from gateway.settings import load_settings
from gateway.supervise.preflight import check_ports
from gateway.supervise.processes import kill_by_argument, queued_s
from gateway.supervise.triton_server import leash

SLEEP = ["/bin/sleep", "60"]


def wait_until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        time.sleep(0.01)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_leashed_program_dies_with_its_parent() -> None:
    code = f"import subprocess; subprocess.Popen({leash('KILL', SLEEP)!r}).wait()"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        wait_until(lambda: any(c.name() == "sleep" for c in psutil.Process(parent.pid).children()))
        child = psutil.Process(parent.pid).children()[0]
        parent.kill()
    wait_until(lambda: is_gone(child))


def test_a_leashed_program_keeps_its_exit_code_and_arguments() -> None:
    done = subprocess.run(leash("TERM", ["/bin/sh", "-c", "exit 7"]), check=False)
    assert done.returncode == 7


def test_processes_are_found_by_an_argument_of_theirs() -> None:
    code = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "tidegate_unlikely_7f3a_"]) as marked:
        wait_until(lambda: "tidegate_unlikely_7f3a_" in psutil.Process(marked.pid).cmdline())
        kill_by_argument("tidegate_unlikely_7f3a_")
        assert marked.wait(10) == -9


BURN = "while True: pass"


def pinned(core: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\n{BURN}"])


def test_time_in_the_processors_queue_is_told_and_a_frozen_process_is_in_none() -> None:
    core = min(os.sched_getaffinity(0))
    with pinned(core) as one, pinned(core) as other:
        try:
            wait_until(lambda: queued_s(one.pid) > 0.2)
            one.send_signal(signal.SIGSTOP)
            wait_until(lambda: psutil.Process(one.pid).status() == psutil.STATUS_STOPPED)
            frozen_s = queued_s(one.pid)
            runs_s = sum(psutil.Process(other.pid).cpu_times()[:2])
            wait_until(lambda: sum(psutil.Process(other.pid).cpu_times()[:2]) > runs_s + 0.2)
            assert queued_s(one.pid) - frozen_s < 0.02
        finally:
            one.kill()
            other.kill()
    assert queued_s(one.pid) == 0


def test_a_taken_port_names_port_and_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        checks = check_ports(load_settings({}, var=tmp_path, port=port))
    assert [check.sentence() for check in checks] == [
        f"port {port} is taken: set TIDEGATE_PORT to a free port."
    ]
