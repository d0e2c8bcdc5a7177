"""Leashes and orphans, with real processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from gateway.settings import load_settings
from gateway.supervise.preflight import check_ports
from gateway.supervise.processes import kill_by_argument
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


def test_a_taken_port_names_port_and_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        checks = check_ports(load_settings({}, var=tmp_path, port=port))
    assert [check.sentence() for check in checks] == [
        f"port {port} is taken: set TIDEGATE_PORT to a free port."
    ]
