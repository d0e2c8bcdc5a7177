"""Real ingest processes that are up in milliseconds: `python -m tests.fakes.ingest_nursery LEASE_S` forks one per line.

The settings come from the environment. Reads lines from standard input, writes the id of each new process; all of
gateway.ingest_app is imported once, before the first fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.settings import Settings, load_settings


class Nursery:
    """Starts ingest processes and kills them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self) -> int:
        """A new ingest process; returns its id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def kill(self, pid: int) -> None:
        """SIGKILL; returns when the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.001)


@contextmanager
def nursery(settings: Settings, lease_s: float, log: Path) -> Iterator[Nursery]:
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.ingest_nursery", str(lease_s)],
            env={**os.environ, **settings.environment()},
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
        )
    try:
        yield Nursery(process)
    finally:
        process.kill()
        process.communicate()


def _main(lease_s: float) -> None:
    from gateway import ingest_app

    logging.basicConfig(
        level="INFO", format="%(asctime)s %(process)d %(name)s %(message)s", stream=sys.stderr
    )
    ingest_app.IngestWorker = functools.partial(ingest_app.IngestWorker, lease_s=lease_s)  # type: ignore[misc]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are buried at once
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            asyncio.run(ingest_app.serve(load_settings()))
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    _main(float(sys.argv[1]))
