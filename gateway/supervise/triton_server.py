"""Command, environment and the folder of links of one Triton replica."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from gateway.settings import Settings, SettingsError
from gateway.supervise.assets import Assets, package_parent
from gateway.supervise.binaries import (
    BinaryMissing,
    find_libpython,
    find_stub,
    find_triton_home,
    triton_libraries,
)
from gateway.tensors import TIERS_REPOSITORY
from gateway.tier_config import GenerateTier, generate_tiers
from gateway.tracing.endpoint import traces_url

SHM_DIR = Path("/dev/shm")  # noqa: S108 - where the python backend keeps its regions
CLOSED_APIS = "model-repository,shared-memory,trace,logging"
SCRATCH_ROOT = "/tmp"  # noqa: S108 - built into Triton, whatever TMPDIR says
RETRIEVAL = "retrieval"  # in TIDEGATE_TRITON_SERVES
CHECKPOINTS, TIERS_FILE = "checkpoints", "tiers.toml"
COLLECTOR_PATIENCE = (
    "2s"  # of Triton for each message: it waits for two of them before it ends (by itself 20 s)
)
SCRATCH_NOTE = "triton-{}.scratch"
STUB_NAME = "triton_python_backend_stub"
START_LIMIT_S = 180.0
TIER_LOAD_LIMIT_S = 600.0  # on top for each generative tier: gigabytes from a slow disk
LEASH = Path(__file__).with_name("leash.py")
# Of NVIDIA's images: where TensorRT and MPI are, which the engines' libraries load, and what tunes those.
OF_ENGINES = (
    "LD_LIBRARY_PATH", "HF_HOME", "HF_HUB_OFFLINE", "NCCL_", "OMPI_", "OPAL_", "TLLM_", "TORCH", "TRITON_CACHE_", "TRT",
    "UCX_", "VLLM_",
)  # fmt: skip


@dataclass(frozen=True)
class TritonCommand:
    argv: list[str]
    env: dict[str, str]


def leash(signal_name: str, argv: list[str]) -> list[str]:
    """The same command, dying by that signal when its parent goes."""
    return [sys.executable, "-I", "-S", str(LEASH), signal_name, *argv]


def shm_prefix(settings: Settings, replica: int) -> str:
    """Names all shared memory of one replica of one instance, so that leftovers can be told from a neighbour's."""
    return f"{_instance_prefix(settings)}{replica}_"


def _instance_prefix(settings: Settings) -> str:
    return f"tidegate_{hashlib.sha256(str(settings.var).encode()).hexdigest()[:10]}_"


def remove_shared_memory(settings: Settings, replica: int) -> None:
    """Delete what a killed Triton left in /dev/shm. Call only when that replica is not running."""
    _remove(shm_prefix(settings, replica))


def remove_leftovers(settings: Settings) -> None:
    """Delete what all replicas of this instance left outside of var/. Call only when none is running."""
    _remove(_instance_prefix(settings))
    for note in settings.run_dir.glob(SCRATCH_NOTE.format("*")):
        Scratch(note).remove()


def _remove(prefix: str) -> None:
    for left in SHM_DIR.glob(prefix + "*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


class Scratch:
    """The empty folder /tmp/python_env_XXXXXX that a python backend makes and, killed, leaves behind.

    Its place is built in. Which one is ours shows only in that it was not there before the start; should it belong to
    a Triton that started at the same moment: only an empty folder is ever removed. A note survives our own death.
    """

    def __init__(self, note: Path) -> None:
        self._note = note
        self._before: set[str] = set()
        self._found: set[str] = set()

    def before_start(self) -> None:
        self.remove()
        self._before = _scratch_folders()

    def look(self) -> None:
        """Note what has appeared since the start."""
        fresh = _scratch_folders() - self._before
        if fresh - self._found:
            self._found |= fresh
            self._note.write_text("\n".join(sorted(self._found)))

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._found |= set(self._note.read_text().splitlines()) & _scratch_folders()
        for folder in self._found:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        self._found.clear()
        with contextlib.suppress(OSError):
            self._note.unlink()


def scratch(settings: Settings, replica: int) -> Scratch:
    return Scratch(settings.run_dir / SCRATCH_NOTE.format(replica))


def _scratch_folders() -> set[str]:
    with os.scandir(SCRATCH_ROOT) as entries:
        return {entry.path for entry in entries if entry.name.startswith("python_env_") and _is_ours(entry)}


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # gone meanwhile
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def make_links(settings: Settings, replica: int, assets: Assets) -> Path:
    """Folder of links to all that Triton and its models open: backends/python/…, the repositories, var, code.

    The python backend starts its stubs with an unquoted `bash -c "exec STUB MODEL …"`, so a space or a `$` in the
    path of the checkout would break the start; and the Python inside a stub takes file names for ASCII, whatever the
    locale. /dev/shm has plain names, and what lies there goes with the replica's shared memory. The stub for this
    Python is put inside the backend on the way, where Triton wants it.
    """
    home = find_triton_home(settings)
    links = Path(tempfile.mkdtemp(prefix=shm_prefix(settings, replica), suffix="_links", dir=SHM_DIR))
    backend = links / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (home / "backends" / "python").iterdir():
        if file.name != STUB_NAME:
            (backend / file.name).symlink_to(file)
    (backend / STUB_NAME).symlink_to(find_stub(home))
    for repository in served_repositories(settings, assets):
        (links / repository.name).symlink_to(repository)
    _link_tiers(settings, links, assets)
    settings.var.mkdir(
        parents=True, exist_ok=True
    )  # nothing can be made at the end of a link that leads nowhere
    (links / "var").symlink_to(settings.var)
    (links / "code").symlink_to(package_parent())
    return links


def _link_tiers(settings: Settings, links: Path, assets: Assets) -> None:
    """One model repository more, in which every tier's name leads to the one model; and a tiers file for the stubs.

    That file names links too, for the checkpoints' paths may not be ASCII either.
    """
    tiers = served_tiers(settings)
    if not tiers:
        return
    tables = []
    for folder in (TIERS_REPOSITORY, CHECKPOINTS):
        (links / folder).mkdir()
    for tier in tiers:
        (links / TIERS_REPOSITORY / tier.name).symlink_to(assets.generate_model)
        checkpoint = links / CHECKPOINTS / tier.name
        checkpoint.symlink_to(Path(tier.checkpoint).absolute())
        inside = msgspec.structs.replace(
            tier, checkpoint=str(checkpoint), fallback=()
        )  # the gateway's business
        tables.append(as_table(inside))
    (links / TIERS_FILE).write_text("\n".join(tables), "utf-8")


def as_table(tier: GenerateTier) -> str:
    """The tier in the form of TIDEGATE_TIERS_FILE. A JSON value without escapes for non-ASCII is a TOML value too."""
    fields = msgspec.structs.asdict(tier)
    name = fields.pop("name")
    rows = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in fields.items()]
    return "\n".join([f"[{name}]", *rows, ""])


def start_limit_s(settings: Settings) -> float:
    """How long a replica may take until it is ready."""
    return START_LIMIT_S + TIER_LOAD_LIMIT_S * len(served_tiers(settings))


def serves_retrieval(settings: Settings) -> bool:
    """Whether this Triton searches and quotes. Raises: SettingsError for a name that is no tier."""
    names = _served(settings)
    return not names or RETRIEVAL in names


def served_tiers(settings: Settings) -> list[GenerateTier]:
    """Generative tiers that this Triton loads. Raises: SettingsError for a name that is no tier."""
    names = _served(settings)
    return [tier for tier in generate_tiers(settings) if not names or tier.name in names]


def served_repositories(settings: Settings, assets: Assets) -> list[Path]:
    """Of the fixed ones: all that search and quote, or none."""
    return assets.model_repositories if serves_retrieval(settings) else []


def _served(settings: Settings) -> set[str]:
    names = set(filter(None, settings.triton_serves.split(",")))
    unknown = names - {RETRIEVAL} - {tier.name for tier in generate_tiers(settings)}
    if unknown:
        raise SettingsError(
            f"TIDEGATE_TRITON_SERVES names {min(unknown)!r}, which is no generative tier here."
        )
    return names


def triton_command(settings: Settings, replica: int, assets: Assets) -> TritonCommand:
    """How to start one replica. Its HTTP listens on loopback; models are loaded once, at start.

    Raises: BinaryMissing.
    """
    home = find_triton_home(settings)
    links = make_links(settings, replica, assets)
    grpc_port, http_port, metrics_port, _ = settings.triton_ports(replica)
    flags = {
        "id": f"triton-{replica}",
        "backend-directory": links / "backends",
        "model-control-mode": "none",
        "grpc-address": settings.part_host,
        "grpc-port": grpc_port,
        # Envoy may ping an idle connection without being told off with GOAWAY too_many_pings.
        "grpc-http2-min-recv-ping-interval-without-data": 5000,
        "grpc-infer-allocation-pool-size": 64,
        # For operators only: nothing of ours keeps a connection here, because an idle one would use up
        # the exit time before gRPC gets to drain.
        "http-address": "127.0.0.1",
        "http-port": http_port,
        "http-thread-count": 2,
        "metrics-address": settings.part_host,
        "metrics-port": metrics_port,
        "allow-gpu-metrics": "false",
        "allow-cpu-metrics": "false",
        "exit-timeout-secs": max(1, int(settings.drain_s)),
        "log-verbose": 1 if settings.log_level == "debug" else 0,
        "log-info": "true" if settings.log_level in {"debug", "info"} else "false",
    }
    argv = [str(home / "bin" / "tritonserver")]
    argv += [f"--{name}={value}" for name, value in flags.items()]
    # Our configurations are whole. To ask each model for more, Triton would start its process twice.
    argv.append("--disable-auto-complete-config")
    argv += [f"--model-repository={links / path.name}" for path in served_repositories(settings, assets)]
    if served_tiers(settings):
        argv.append(f"--model-repository={links / TIERS_REPOSITORY}")
    argv += [f"--trace-config={value}" for value in trace_config(traces_url(settings))]
    # Not even a local caller may change models, map memory or move logs: the key is known to nobody.
    key = f"{CLOSED_APIS}:tidegate-closed={uuid.uuid4().hex}"
    argv += [f"--http-restricted-api={key}", f"--grpc-restricted-protocol={key}"]
    argv += [f"--backend-config=python,shm-region-prefix-name={shm_prefix(settings, replica)}{os.getpid()}_"]
    return TritonCommand(argv, triton_environment(settings, home, links))


def trace_config(url: str) -> list[str]:
    """Spans of the requests that bring a trace with them, and of no others: our client says which are sampled."""
    if not url:
        return []
    return [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=0",
        f"opentelemetry,url={url}",
        "opentelemetry,resource=service.name=tidegate-triton",
    ]


def triton_environment(settings: Settings, home: Path, links: Path) -> dict[str, str]:
    """The stub runs the first `python3` on PATH, so ours goes first; it inherits everything else too."""
    libpython = find_libpython()
    if libpython is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BinaryMissing(
            f"the shared library of Python {version} was not found: install libpython{version}, "
            "or make the virtual environment with another Python 3.11 or 3.12."
        )
    # The system's folder goes last: it must not come before what an image put in the place of its libraries.
    inherited = os.environ.get("LD_LIBRARY_PATH")
    libraries = [str(path) for path in (triton_libraries(home), inherited, libpython) if path]
    env = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "/usr/bin:/bin")]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PYTHONPATH": str(links / "code"),
        "PYTHONUNBUFFERED": "1",
        "HOME": os.environ.get("HOME", "/"),
    }
    # NVIDIA's container runtime, the tuning of OpenMP and OpenTelemetry's variables, where an operator has set them.
    kept = ("CUDA_", "NVIDIA_", "OMP_", "OTEL_", "LC_", "LANG", *OF_ENGINES)
    env = {k: v for k, v in os.environ.items() if k.startswith(kept)} | env
    if traces_url(settings):
        env["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"] = COLLECTOR_PATIENCE
    inside = replace(settings, var=links / "var")
    if served_tiers(settings):
        inside = replace(inside, checkpoint="", tiers_file=str(links / TIERS_FILE))
    return env | inside.environment()
