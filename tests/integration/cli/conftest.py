"""The command line against a small real HTTP server, in this process and as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from tests.fakes.http_api import FakeApi, running_api

ROOT = Path(__file__).parents[3]


@dataclass
class Result:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with running_api() as fake:
        yield fake


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without settings."""
    for name in [name for name in os.environ if name.startswith(("TIDEGATE_", "TG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIDEGATE_VAR", str(tmp_path / "var"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def bare(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command line as it stands."""

    def run(*args: str) -> Result:
        with pytest.raises(SystemExit) as left:
            main(args)
        out, err = capsys.readouterr()
        code = left.value.code
        return Result(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture
def run(bare: Run, api: FakeApi) -> Run:
    """Run a command against the fake API."""
    return lambda *args: bare(*args, "--url", api.url)


@pytest.fixture
def spawn(workplace: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command as a process: its streams are pipes unless said otherwise."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-m", "gateway", *args],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            encoding="utf-8",
            **streams,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
