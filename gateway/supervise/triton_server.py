"""Command, environment and backend folder of one Triton replica."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from gateway.settings import Settings
from gateway.supervise.assets import Assets, package_parent
from gateway.supervise.binaries import (
    BinaryMissing,
    find_libpython,
    find_stub,
    find_triton_home,
    triton_libraries,
)

SHM_DIR = Path("/dev/shm")  # noqa: S108 - where the python backend keeps its regions
CLOSED_APIS = "model-repository,shared-memory,trace,logging"
LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True)
class TritonCommand:
    argv: list[str]
    env: dict[str, str]


def leash(signal_name: str, argv: list[str]) -> list[str]:
    """The same command, dying by that signal when its parent goes."""
    return [sys.executable, "-I", "-S", str(LEASH), signal_name, *argv]


def prepare_backends(settings: Settings) -> Path:
    """Folder with the python backend and the stub for this Python, under var/. Idempotent and atomic.

    The wheel keeps stubs for many Pythons beside the backend; Triton wants the right one inside it.
    """
    home = find_triton_home(settings)
    stub, source = find_stub(home), home / "backends" / "python"
    target = settings.var / "triton" / "backends"
    stamp = f"{source} {stub} {stub.stat().st_size}"
    if (target / "stamp").is_file() and (target / "stamp").read_text() == stamp:
        return target
    building = target.with_name(f"backends.{uuid.uuid4().hex}")
    shutil.copytree(source, building / "python")
    shutil.copy2(stub, building / "python" / "triton_python_backend_stub")
    (building / "stamp").write_text(stamp)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    return target


def shm_prefix(settings: Settings, replica: int) -> str:
    """Names all shared memory of one replica of one instance, so that leftovers can be told from a neighbour's."""
    instance = hashlib.sha256(str(settings.var).encode()).hexdigest()[:10]
    return f"tidegate_{instance}_{replica}_"


def remove_shared_memory(settings: Settings, replica: int) -> None:
    """Delete what a killed Triton left in /dev/shm. Call only when that replica is not running."""
    for region in SHM_DIR.glob(shm_prefix(settings, replica) + "*"):
        region.unlink(missing_ok=True)


def triton_command(settings: Settings, replica: int, assets: Assets) -> TritonCommand:
    """How to start one replica. Everything listens on loopback; models are loaded once, at start.

    Raises: BinaryMissing.
    """
    home = find_triton_home(settings)
    grpc_port, http_port, metrics_port, _ = settings.triton_ports(replica)
    flags = {
        "id": f"triton-{replica}",
        "backend-directory": prepare_backends(settings),
        "model-control-mode": "none",
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc_port,
        # Envoy may ping an idle connection without being told off with GOAWAY too_many_pings.
        "grpc-http2-min-recv-ping-interval-without-data": 5000,
        "grpc-infer-allocation-pool-size": 64,
        # For operators only: nothing of ours keeps a connection here, because an idle one would use up
        # the exit time before gRPC gets to drain.
        "http-address": "127.0.0.1",
        "http-port": http_port,
        "http-thread-count": 2,
        "metrics-address": "127.0.0.1",
        "metrics-port": metrics_port,
        "allow-gpu-metrics": "false",
        "allow-cpu-metrics": "false",
        "exit-timeout-secs": max(1, int(settings.drain_s)),
        "log-verbose": 1 if settings.log_level == "debug" else 0,
        "log-info": "true" if settings.log_level in {"debug", "info"} else "false",
    }
    argv = [str(home / "bin" / "tritonserver")]
    argv += [f"--{name}={value}" for name, value in flags.items()]
    argv += [f"--model-repository={path}" for path in assets.model_repositories]
    # Not even a local caller may change models, map memory or move logs: the key is known to nobody.
    key = f"{CLOSED_APIS}:tidegate-closed={uuid.uuid4().hex}"
    argv += [f"--http-restricted-api={key}", f"--grpc-restricted-protocol={key}"]
    argv += [f"--backend-config=python,shm-region-prefix-name={shm_prefix(settings, replica)}{os.getpid()}_"]
    return TritonCommand(argv, triton_environment(settings, home))


def triton_environment(settings: Settings, home: Path) -> dict[str, str]:
    """The stub runs the first `python3` on PATH, so ours goes first; it inherits everything else too."""
    libpython = find_libpython()
    if libpython is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BinaryMissing(
            f"the shared library of Python {version} was not found: install libpython{version}, "
            "or make the virtual environment with another Python 3.11 or 3.12."
        )
    libraries = [str(path) for path in (triton_libraries(home), libpython) if path]
    env = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "/usr/bin:/bin")]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PYTHONPATH": str(package_parent()),
        "PYTHONUNBUFFERED": "1",
        "HOME": os.environ.get("HOME", "/"),
    }
    # NVIDIA's container runtime and the tuning of OpenMP, where an operator has set them.
    env |= {k: v for k, v in os.environ.items() if k.startswith(("CUDA_", "NVIDIA_", "OMP_", "LC_", "LANG"))}
    return env | settings.environment()
