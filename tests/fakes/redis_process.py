"""A real redis-server of a test's own, to be frozen, killed, filled and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class RedisMissing(Exception):
    """No redis-server is installed."""


def find_redis() -> str:
    """Raises: RedisMissing."""
    beside = shutil.which("redis-server", path=str(Path(sys.executable).parent))
    binary = beside or shutil.which("redis-server")
    if binary is None:
        raise RedisMissing("redis-server is not installed")
    return binary


class RedisProcess:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Serve from now on, with nothing in memory. Returns when it answers."""
        argv = [find_redis(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*argv, "--dir", str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def command(self, *words: str) -> bytes:
        """The first line of the answer to one command."""
        with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
            connection.sendall((" ".join(words) + "\r\n").encode())
            return connection.recv(4096).split(b"\r\n")[0]

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisProcess]:
    """A server of the test's own; without redis-server on this machine the test is skipped, and says so."""
    server = RedisProcess(folder)
    try:
        server.start()
    except RedisMissing as missing:
        pytest.skip(str(missing))
    try:
        yield server
    finally:
        server.kill()
