"""Which instance runs in a var folder: its lock, and the file that tells others about it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import Any

from gateway import __version__
from gateway.settings import Settings

PROBE_PATIENCE_S = 0.3  # is_running holds the lock for a moment


class InstanceLock:
    """An flock on var/run/lock: the kernel lets go of it however we end. The file goes with a normal end."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.run_dir / "lock"
        self._descriptor = -1

    def acquire(self) -> bool:
        """False when another instance holds it. Raises: OSError when the folder cannot be made."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        deadline_s = time.monotonic() + PROBE_PATIENCE_S
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                if time.monotonic() > deadline_s:
                    return False
                time.sleep(0.02)
                continue
            # The last owner may have removed the file between our open and our lock: then ours locks nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == self._path.stat().st_ino:
                    self._descriptor = descriptor
                    return True
            os.close(descriptor)

    def release(self) -> None:
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def is_running(settings: Settings) -> bool:
    """Whether an instance holds this var folder."""
    try:
        descriptor = os.open(settings.run_dir / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two who ask at once do not see each other
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def all_ports(settings: Settings) -> dict[str, int]:
    """Every port of an instance, by the part that listens there."""
    ports = {
        "public": settings.port,
        "inner": int(settings.triton_target.rpartition(":")[2]),
        "envoy-admin": settings.envoy_admin_port,
        "supervisor": settings.supervisor_port,
    }
    for index in range(1, settings.edge_processes):
        ports[f"envoy-{index}-admin"] = settings.edge_admin_port(index)
    if not settings.redis_url:
        ports["redis"] = settings.redis_port
    if settings.watch:
        ports |= {"prometheus": settings.prometheus_port, "alertmanager": settings.alertmanager_port}
    for index in range(settings.num_workers):
        ports[f"gateway-{index}"] = settings.worker_port(index)
        ports[f"grpc-{index}"] = settings.worker_grpc_port(index)
    for index in range(settings.triton_replicas):
        names = ("grpc", "http", "metrics", "health")
        numbers = settings.triton_ports(index)
        ports |= {f"triton-{index}-{name}": port for name, port in zip(names, numbers, strict=True)}
    return ports


def write_instance(settings: Settings) -> None:
    """Say who we are in var/run/instance.json; atomic."""
    body = {
        "pid": os.getpid(),
        "version": __version__,
        "started_at": time.time(),
        "host": settings.host,
        "ports": all_ports(settings),
    }
    draft = settings.run_dir / "instance.json.new"
    draft.write_text(json.dumps(body, indent=1) + "\n")
    draft.rename(settings.run_dir / "instance.json")


def read_instance(settings: Settings) -> dict[str, Any] | None:
    """What the last started instance said; None when there is none. It may be gone: ask is_running."""
    try:
        body = json.loads((settings.run_dir / "instance.json").read_text())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None
