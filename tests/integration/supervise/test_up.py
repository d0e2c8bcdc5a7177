"""`tidegate up` where it cannot start: one sentence that names what to change, no traceback, no process left."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.triton_process import free_port

ROOT = Path(__file__).parents[3]
UP = [sys.executable, "-m", "gateway", "up"]
PRIVATE_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]
MAX_FILE_BYTES = 8 * 2**20  # the embedding model is larger

pytestmark = pytest.mark.usefixtures("triton_installed")


def run(var: Path, command: list[str], *, max_file_bytes: int = resource.RLIM_INFINITY) -> tuple[int, str]:
    """Exit code, and what was printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=kept | {"TIDEGATE_VAR": str(var), "TIDEGATE_PORT": str(free_port())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes)),
    )
    return done.returncode, done.stdout


def test_a_disk_that_fills_up_while_preparing_is_one_sentence(tmp_path: Path) -> None:
    """A limit on file sizes makes the write of the model fail, as a quota or a full disk would."""
    code, out = run(tmp_path / "var", UP, max_file_bytes=MAX_FILE_BYTES)
    assert code == 1
    assert "Traceback" not in out
    assert out.count("TIDEGATE_VAR") == 1
    assert list((tmp_path / "var" / "run").iterdir()) == []
    assert list((tmp_path / "var" / "models").iterdir()) == []


def test_a_small_disk_is_one_sentence(tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run([*PRIVATE_MOUNTS, "true"], check=False).returncode:
        pytest.skip("this user may not mount a tmpfs of its own (unshare --user --mount)")
    mount = 'mount -t tmpfs -o size=64m tmpfs "$TIDEGATE_VAR" && exec "$@"'
    code, out = run(tmp_path, [*PRIVATE_MOUNTS, "sh", "-c", mount, "sh", *UP])
    assert code == 2
    assert out == (
        f"only 64 MiB are free for {tmp_path}, 500 are needed: free some, or set TIDEGATE_VAR to a folder on another "
        "disk.\n"
    )


def test_a_var_folder_of_someone_else_is_one_sentence(tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run([*PRIVATE_MOUNTS, "true"], check=False).returncode:
        pytest.skip("this user may not mount a read-only folder of its own (unshare --user --mount)")
    mount = 'mount -t tmpfs -o ro,size=600m tmpfs "$TIDEGATE_VAR" && exec "$@"'
    code, out = run(tmp_path, [*PRIVATE_MOUNTS, "sh", "-c", mount, "sh", *UP])
    assert code == 2
    assert out == (
        f"the folder {tmp_path} cannot be written (Read-only file system): set TIDEGATE_VAR to a folder that can be "
        "written.\n"
    )


def test_a_database_url_with_a_slip_is_one_sentence(tmp_path: Path) -> None:
    code, out = run(tmp_path, ["env", "TIDEGATE_DATABASE_URL=tidegate.db", *UP])
    assert (code, out.count("\n")) == (2, 1)
    assert "TIDEGATE_DATABASE_URL" in out
