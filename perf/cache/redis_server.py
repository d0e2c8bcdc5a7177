"""A real Redis of the service's own making, alone: for what is asked of the cache's classes in process."""

from __future__ import annotations

import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.settings import Settings
from gateway.supervise.binaries import find_redis
from gateway.supervise.redis_config import render_redis
from perf.service import free_settings

START_S = 10.0


@contextmanager
def own_redis() -> Iterator[Settings]:
    """Settings with which gateway.storage.redis_client reaches it."""
    with tempfile.TemporaryDirectory(prefix="tidegate-redis-") as name:
        settings = free_settings(Path(name), redis_url="", database_url="")
        password, folder = secrets.token_hex(16), settings.var / "secrets"
        folder.mkdir(parents=True)
        (settings.var / "redis").mkdir()
        (folder / "redis").write_text(password)
        config = Path(name) / "redis.conf"
        config.write_text(render_redis(settings, password))
        server = subprocess.Popen(
            [str(find_redis(settings)), str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait(server, settings.redis_port)
            yield settings
        finally:
            server.terminate()
            server.wait(10)


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Redis did not start") from None
            time.sleep(0.02)
