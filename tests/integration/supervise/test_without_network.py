"""What runs in our images needs no network to start: all parts of a cluster, in a network that has loopback alone.

Kept apart from the cluster that the other tests share, whose sockets another network would not see: this one runs
those tests' own first one in a network namespace.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.parts import ROOT

ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
LIMIT_S = 280
TEST = "tests/integration/supervise/test_run_parts.py::test_the_parts_answer_together_and_each_ends_when_told"
LOOK = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"


def alone(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ALONE, *command], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if shutil.which("unshare") is None or shutil.which("ip") is None or alone("true").returncode:
        pytest.skip("a network of its own cannot be made here (unshare, ip)")


@pytest.mark.usefixtures("triton_installed")
@pytest.mark.timeout(LIMIT_S + 20)
def test_all_parts_start_and_answer_with_loopback_alone(tmp_path: Path) -> None:
    assert "Network is unreachable" in alone(sys.executable, "-c", LOOK).stderr
    done = alone(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'inside'}",
        TEST,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "1 passed" in done.stdout
