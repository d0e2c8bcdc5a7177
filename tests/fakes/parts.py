"""`tidegate run PART` as a process of its own, as a container runs it, with its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
READY_S = 90.0


class PartProcess:
    def __init__(self, name: str, settings: Settings, **extra: str) -> None:
        """extra: variables beside those of the settings, or in their place."""
        settings.var.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._log = settings.var / f"run-{name}.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "run", name],
                env=kept | settings.environment() | extra,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def until_ready(self, url: str) -> None:
        """Until the part's probe, as the manifests have it, says 200."""
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            if status_of(url) == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not get ready:\n{self.output[-4000:]}")

    def until_output(self, text: str) -> None:
        deadline_s = time.monotonic() + READY_S
        while text not in self.output:
            assert time.monotonic() < deadline_s, self.output[-4000:]
            assert self.process.poll() is None, self.output[-4000:]
            time.sleep(0.05)

    def child(self, word: str) -> psutil.Process:
        """A process below the part that has the word in the name of its program."""
        return next(
            each
            for each in psutil.Process(self.process.pid).children(recursive=True)
            if word in Path(each.exe()).name
        )

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self, limit_s: float) -> int:
        """Its exit code."""
        return self.process.wait(limit_s)


def status_of(url: str) -> int:
    """0 where nobody answers."""
    try:
        return httpx.get(url, timeout=2).status_code
    except httpx.HTTPError:
        return 0


@contextmanager
def running_part(name: str, settings: Settings, **extra: str) -> Iterator[PartProcess]:
    part = PartProcess(name, settings, **extra)
    try:
        yield part
    finally:
        if part.process.poll() is None:
            below = psutil.Process(part.process.pid).children(recursive=True)
            part.process.kill()
            part.process.wait()
            for each in below:
                if each.is_running():
                    each.kill()
