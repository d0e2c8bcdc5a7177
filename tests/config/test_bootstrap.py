"""scripts/bootstrap in a sandbox: a folder of its own, chosen programs on PATH, no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.supervise.binaries import find_libpython

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "sh", "env", "dirname", "cat", "sha256sum", "cut", "uname", "grep", "mkdir", "rm", "chmod")
PYTHON = Path(getattr(sys, "_base_executable", sys.executable))
NO_NETWORK = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_RETRIES": "0",
    "PIP_NO_CACHE_DIR": "1",
}
# Stands where the pinned uv will be, writes down what it is asked, and installs nothing.
UV = """#!/bin/sh
echo "$@" >>"{log}"
[ "$1 $2" != "python install" ]
"""
OLD_PYTHON = """#!/bin/sh
exit 1
"""


class Sandbox:
    """A checkout with nothing but what set-up reads, at a path with a space and a dollar in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a check $out"
        self.bin = folder / "bin"
        self.log = folder / "uv.log"
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        (self.root / "scripts").mkdir()
        shutil.copy2(ROOT / "scripts" / "bootstrap", self.root / "scripts" / "bootstrap")
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)

    def put(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def with_uv(self) -> None:
        self.put(self.root / ".venv" / "bootstrap" / "bin" / "uv", UV.format(log=self.log))

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def run(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.root / "scripts" / "bootstrap"), *args],
            env={"PATH": str(self.bin), "HOME": str(self.root)} | NO_NETWORK | environ,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.fixture
def good_python() -> dict[str, str]:
    if find_libpython() is None:
        pytest.skip("this Python has no shared library, so set-up would not take it")
    return {"BOOTSTRAP_PYTHON": str(PYTHON)}


def test_a_second_run_is_instant_and_silent(sandbox: Sandbox, good_python: dict[str, str]) -> None:
    sandbox.with_uv()
    first = sandbox.run("serve", **good_python)
    assert first.returncode == 0, first.stderr
    assert len(sandbox.asked()) == 1
    start_s = time.monotonic()
    second = sandbox.run("serve", **good_python)
    assert time.monotonic() - start_s < 2
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(sandbox.asked()) == 1


def test_what_dev_installs_serves_for_both(sandbox: Sandbox, good_python: dict[str, str]) -> None:
    sandbox.with_uv()
    for profile in ("dev", "serve", "dev"):
        assert sandbox.run(profile, **good_python).returncode == 0
    assert [line for line in sandbox.asked() if "requirements/dev.txt" in line] == sandbox.asked()
    assert len(sandbox.asked()) == 1


def test_a_changed_pin_is_installed(sandbox: Sandbox, good_python: dict[str, str]) -> None:
    sandbox.with_uv()
    sandbox.run("serve", **good_python)
    with (sandbox.root / "requirements" / "serve.txt").open("a") as pins:
        pins.write("# changed\n")
    sandbox.run("serve", **good_python)
    assert len(sandbox.asked()) == 2


def test_the_command_is_there_and_the_checkout_importable(
    sandbox: Sandbox, good_python: dict[str, str]
) -> None:
    sandbox.with_uv()
    sandbox.run("serve", **good_python)
    look = "import sys; print(*sys.path, sep='\\n')"
    python = sandbox.root / ".venv" / "bin" / "python"
    paths = subprocess.run([python, "-c", look], capture_output=True, text=True, check=True).stdout
    assert str(sandbox.root) in paths.splitlines()
    assert os.access(sandbox.root / ".venv" / "bin" / "tidegate", os.X_OK)


def test_only_an_old_python_is_one_sentence(sandbox: Sandbox) -> None:
    sandbox.with_uv()
    sandbox.put(sandbox.bin / "python3", OLD_PYTHON)
    done = sandbox.run("serve")
    assert done.returncode == 1
    assert done.stderr == (
        "tidegate set-up: Python 3.12 could not be fetched: install Python 3.11 or 3.12 with its shared library "
        "(Debian: apt install python3 python3-venv libpython3-dev)\n"
    )


def test_no_python_at_all_is_one_sentence(sandbox: Sandbox) -> None:
    done = sandbox.run("serve")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "install Python 3.11 or 3.12 with its venv module" in done.stderr


def test_without_a_network_it_is_uv_that_cannot_be_fetched(
    sandbox: Sandbox, good_python: dict[str, str]
) -> None:
    (sandbox.bin / "python3").symlink_to(PYTHON)
    done = sandbox.run("serve", **good_python)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tidegate set-up: uv could not be fetched (see above): check the network")
    assert not (sandbox.root / ".venv" / ".complete").exists()


def test_the_conversions_environment_is_apart_and_a_second_run_is_instant(
    sandbox: Sandbox, good_python: dict[str, str]
) -> None:
    _needs_python_311()
    sandbox.with_uv()
    assert sandbox.run("convert", **good_python).returncode == 0
    assert sandbox.run("convert", **good_python).returncode == 0
    (asked,) = sandbox.asked()
    assert "requirements/convert.txt" in asked
    assert f"--python {sandbox.root}/.venv/convert/bin/python" in asked
    assert not (sandbox.root / ".venv" / ".complete").exists()


def test_where_the_index_lacks_the_build_for_cpus_pytorchs_own_is_asked(
    sandbox: Sandbox, good_python: dict[str, str]
) -> None:
    _needs_python_311()
    sandbox.put(
        sandbox.root / ".venv" / "bootstrap" / "bin" / "uv",
        UV.format(log=sandbox.log) + 'case "$*" in *--torch-backend*) ;; *) exit 1 ;; esac\n',
    )
    assert sandbox.run("convert", **good_python).returncode == 0
    first, second = sandbox.asked()
    assert "--torch-backend cpu" not in first
    assert second.endswith("--require-hashes requirements/convert.txt --torch-backend cpu")


def test_an_environment_that_cannot_be_made_is_one_sentence_and_not_complete(
    sandbox: Sandbox, good_python: dict[str, str]
) -> None:
    _needs_python_311()
    sandbox.put(sandbox.root / ".venv" / "bootstrap" / "bin" / "uv", "#!/bin/sh\nexit 1\n")
    done = sandbox.run("convert", **good_python)
    assert done.returncode == 1
    assert "the packages could not be installed (see above): check the network" in done.stderr
    assert not (sandbox.root / ".venv" / "convert" / ".complete").exists()


def _needs_python_311() -> None:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("torch's CPU build is pinned for Python 3.11 only")


def test_an_unknown_profile_is_refused(sandbox: Sandbox) -> None:
    assert "the profile is serve, dev or convert, not 'prod'" in sandbox.run("prod").stderr


@pytest.mark.parametrize(
    ("pytest_ends_with", "make_ends_with"), [(0, 0), (1, 2), (5, 2)], ids=["pass", "fail", "no test found"]
)
def test_a_level_that_fails_or_holds_no_test_fails_the_run(
    pytest_ends_with: int, make_ends_with: int
) -> None:
    level = f"PYTEST=sh -c 'exit {pytest_ends_with}'"
    done = subprocess.run(
        ["make", "--old-file=setup", "--old-file=convert-env", "test", "LEVELS=one two", level],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == make_ends_with, done.stderr
    assert re.search(r"^== one \d s; two \d s; all \d s$", done.stdout, re.MULTILINE)
