"""The whole service for a benchmark: started by its own command on a free block of ports, stopped at the end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.settings import Settings, load_settings
from gateway.storage.database import Database
from gateway.storage.keys import create_key
from gateway.supervise.credentials import secret
from gateway.supervise.instance import all_ports

START_S = 180.0


@dataclass(frozen=True)
class Service:
    settings: Settings
    pid: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def key(self) -> str:
        return secret(self.settings, "dev-key")

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def new_key(self, tenant: str) -> str:
        database = Database(self.settings.sql_url)
        try:
            with database.write() as conn:
                return create_key(conn, tenant=tenant, name="bench")[1]
        finally:
            database.close()


@contextmanager
def running_service(**explicit: object) -> Iterator[Service]:
    """A ready service with the sample collection. explicit: settings that differ from the environment's."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        settings = free_settings(Path(folder), **{"cache": False} | explicit)  # what is measured is work
        with running_in(settings) as service:
            yield service


@contextmanager
def running_in(settings: Settings) -> Iterator[Service]:
    """A ready service over the folder of these settings, which it may find filled by an earlier start."""
    log = settings.var / "up.log"
    outside = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "up"],
            env=outside | settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, log)
        yield Service(settings, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def free_settings(var: Path, **explicit: object) -> Settings:
    """Settings of an instance in that folder, on a block of ports that is free now."""
    blocks = range(10_000, 32_000, 800)  # below the ports that outgoing connections take
    for port in random.sample(blocks, len(blocks)):  # two benchmarks that start at once do not meet
        settings = load_settings(var=var, port=port, **explicit)
        if all(_is_free(taken) for taken in all_ports(settings).values()):
            return settings
    raise RuntimeError("no free block of ports")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_answering(url: str) -> bool:
    """Whether a GET gets 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while "Ctrl-C stops it" not in (text := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the service did not start:\n{text[-4000:]}")
        time.sleep(0.05)
