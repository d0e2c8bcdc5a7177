"""What must hold before a start. Each failure is one sentence that says what is wrong and what to change."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import UpstreamError
from gateway.settings import Settings, SettingsError
from gateway.supervise.assets import package_parent
from gateway.supervise.binaries import (
    BinaryMissing,
    find_envoy,
    find_libpython,
    find_redis,
    find_stub,
    find_triton_home,
)
from gateway.supervise.instance import all_ports, is_running, read_instance
from gateway.supervise.prepare import tiers_setting
from gateway.supervise.triton_server import SHM_DIR
from gateway.tier_config import UpstreamTier, api_key, configured_tiers, generate_tiers, upstream_tiers
from gateway.tiering.tiers import BUILTIN_TIERS, names_in
from gateway.tracing.endpoint import traces_url

MIN_FREE_BYTES = 500 * 2**20
SHM_BYTES = (
    8 * 2**20
)  # for each replica: three models hold 1 MiB each, more while large requests are on their way
MIN_FILES = 1024
IN_CONFIGURATION = ("\n", "\r", " ;", " #", "\t;", "\t#")  # comments and ends of lines to supervisord
PYTHONS = ((3, 11), (3, 12))


@dataclass(frozen=True)
class Check:
    """detail: what was found. fix: what to change, empty when ok."""

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def sentence(self) -> str:
        return f"{self.detail}: {self.fix}." if self.fix else self.detail


def run_checks(settings: Settings) -> list[Check]:
    """Everything, in reading order. Ports are not judged while this var folder's own instance holds them."""
    running = is_running(settings)
    checks = [
        check_python(),
        check_numpy(),
        *check_binaries(settings),
        check_paths(settings),
        check_var(settings),
        check_disk(settings),
        *check_tiers(settings, running),
        *check_auto(settings),
        check_shared_memory(settings, running),
        *check_vector_store(settings),
        *check_traces(settings),
        check_files(),
    ]
    if running:
        pid = (read_instance(settings) or {}).get("pid", "unknown")
        checks.append(Check("instance", True, f"running in {settings.var} as process {pid}"))
    else:
        checks += check_ports(settings)
    return checks


def check_python(version: tuple[int, int] = (sys.version_info.major, sys.version_info.minor)) -> Check:
    found = f"Python {version[0]}.{version[1]}"
    if version in PYTHONS:
        return Check("python", True, found)
    return Check("python", False, f"{found} is not supported", "use Python 3.11 or 3.12")


def check_numpy() -> Check:
    version = importlib.metadata.version("numpy")
    if version.startswith("1."):
        return Check("numpy", True, f"numpy {version}")
    fix = "install numpy<2, as requirements/serve.txt pins it"
    return Check("numpy", False, f"numpy {version} breaks Triton's python backend", fix)


def check_binaries(settings: Settings) -> list[Check]:
    def triton_stub() -> Path:
        return find_stub(find_triton_home(settings))

    finders: dict[str, Callable[[], Path]] = {
        "envoy": lambda: find_envoy(settings),
        "tritonserver": lambda: find_triton_home(settings) / "bin" / "tritonserver",
        "triton python stub": triton_stub,
    }
    if not settings.redis_url:
        finders["redis-server"] = lambda: find_redis(settings)
    return [*(_find(name, finder) for name, finder in finders.items()), check_libpython()]


def _find(name: str, finder: Callable[[], Path]) -> Check:
    try:
        path = finder()
    except BinaryMissing as error:
        detail, _, fix = str(error).partition(": ")
        return Check(name, False, detail.rstrip("."), fix.rstrip(".") or "correct the setting")
    return Check(name, True, str(path))


def check_libpython() -> Check:
    folder = find_libpython()
    if folder:
        return Check("libpython", True, str(folder))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    fix = f"install the package libpython{version}, or make the virtual environment with another Python"
    return Check("libpython", False, f"the shared library of Python {version} is missing", fix)


def check_paths(settings: Settings, checkout: Path | None = None) -> Check:
    """Characters that no quoting carries: through PATH, through supervisord's configuration, through an SQLite URL."""
    code = [checkout] if checkout else [package_parent(), Path(sys.executable).parent]
    in_url = () if settings.database_url else ("?",)
    places = [(settings.var, "set TIDEGATE_VAR to another folder", (*IN_CONFIGURATION, *in_url))]
    places += [
        (path, "move the checkout to another folder", (*IN_CONFIGURATION, os.pathsep)) for path in code
    ]
    for path, fix, forbidden in places:
        found = next((mark for mark in forbidden if mark in str(path)), None)
        if found:
            detail = f"the path {str(path)!r} holds {found!r}, which some of the programs cannot be told"
            return Check("paths", False, detail, fix)
    return Check("paths", True, "no character is in the way")


def check_var(settings: Settings) -> Check:
    fix = "set TIDEGATE_VAR to a folder that can be written"
    try:
        if settings.var.exists():
            with tempfile.TemporaryFile(dir=settings.var):
                pass
        elif not os.access(_nearest(settings.var), os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        return Check("var", False, f"the folder {settings.var} cannot be written ({error.strerror})", fix)
    return Check("var", True, str(settings.var))


def _nearest(path: Path) -> Path:
    """The path itself, or the closest folder above it that exists."""
    return next((each for each in (path, *path.parents) if each.exists()), Path("/"))


def check_disk(settings: Settings) -> Check:
    free = shutil.disk_usage(_nearest(settings.var)).free
    if free >= MIN_FREE_BYTES:
        return Check("disk", True, f"{free // 2**20} MiB free")
    detail = f"only {free // 2**20} MiB are free for {settings.var}, {MIN_FREE_BYTES // 2**20} are needed"
    return Check("disk", False, detail, "free some, or set TIDEGATE_VAR to a folder on another disk")


def check_tiers(settings: Settings, running: bool = False) -> list[Check]:
    """One check for each generative tier. Memory is not judged while the tiers are loaded."""
    from gateway.checkpoint.errors import CheckpointError
    from gateway.checkpoint.prepare import check_tier

    setting = tiers_setting(settings)
    try:
        tiers = generate_tiers(settings)
    except SettingsError as error:
        return [Check("tiers", False, str(error).rstrip("."), f"correct {setting}")]
    checks, taken_bytes = [], 0
    for tier in tiers:
        name = f"tier {tier.name}"
        try:
            checkpoint, needed, is_due = check_tier(
                tier,
                settings.models_dir,
                settings.convert_python,
                num_replicas=0 if running else settings.triton_replicas,
                taken_bytes=taken_bytes,
            )
        except CheckpointError as error:
            checks.append(
                Check(name, False, f"{setting}, {error.what}", error.fix or "choose another checkpoint")
            )
            continue
        taken_bytes += needed
        if tier.is_on_gpu:
            checks.append(
                Check(name, True, f"{checkpoint.model_type} in {tier.checkpoint}, for {tier.engine}")
            )
            continue
        state = "to be converted" if is_due else "converted"
        checks.append(Check(name, True, f"{checkpoint.model_type} in {tier.checkpoint}, {state}"))
    return [*checks, *(_check_upstream(tier) for tier in upstream_tiers(settings))]


def _check_upstream(tier: UpstreamTier) -> Check:
    """What can be said without asking the server: it may be started later, and asking may cost."""
    from gateway.checkpoint.chat_format import ChatFormat
    from gateway.checkpoint.errors import CheckpointError

    name = f"tier {tier.name}"
    try:
        has_key = bool(api_key(tier, os.environ))
        if tier.tokenizer:
            ChatFormat.load(Path(tier.tokenizer))
    except SettingsError as error:
        return Check(name, False, str(error).rstrip("."), "set it, or correct api_key_env")
    except CheckpointError as error:
        return Check(name, False, f"TIDEGATE_TIERS_FILE, {error.what}", error.fix or "correct tokenizer")
    if tier.ca_file and not Path(tier.ca_file).is_file():
        return Check(name, False, f"the file {tier.ca_file} is missing", "correct ca_file")
    return Check(name, True, f"{tier.model} at {tier.base_url}, {'with' if has_key else 'without'} a key")


def check_auto(settings: Settings) -> list[Check]:
    """Nothing to check where `auto` has no tiers named for it, or where the tiers themselves are wrong."""
    try:
        tiers = [tier.name for tier in configured_tiers(settings)]
    except SettingsError:
        return []
    try:
        names_in("TIDEGATE_ADAPTIVE_TIERS", settings.adaptive_tiers, [*BUILTIN_TIERS, *tiers])
        names = names_in("TIDEGATE_AUTO_TIERS", settings.auto_tiers, [*BUILTIN_TIERS, *tiers])
    except SettingsError as error:
        return [Check("auto", False, str(error).rstrip("."), "correct TIDEGATE_AUTO_TIERS")]
    return [Check("auto", True, f"chooses among {', '.join(names)}")] if names else []


def check_traces(settings: Settings) -> list[Check]:
    """Where they go, not whether somebody is there: the service does not wait for a collector."""
    try:
        url = traces_url(settings)
    except SettingsError as error:
        return [Check("traces", False, str(error).rstrip("."), "correct it")]
    return [Check("traces", True, f"go to {url}")] if url else []


def check_shared_memory(settings: Settings, running: bool = False) -> Check:
    """Room for the replicas that are still to be started: none when they run."""
    try:
        free = shutil.disk_usage(SHM_DIR).free
    except OSError:
        return Check(
            "shared memory", False, "the folder for shared memory is missing", "mount a tmpfs at /dev/shm"
        )
    needed = 0 if running else SHM_BYTES * settings.triton_replicas
    if free >= needed:
        return Check("shared memory", True, f"{free // 2**20} MiB free")
    detail = f"only {free // 2**20} MiB are free in {SHM_DIR}, {needed // 2**20} are needed"
    fix = "give the container more (--shm-size=256m)"
    if settings.triton_replicas > 1:
        fix += ", or set TIDEGATE_TRITON_REPLICAS lower"
    return Check("shared memory", False, detail, fix)


def check_vector_store(settings: Settings) -> list[Check]:
    """Whether Milvus answers, and as what; nothing when FAISS is the store."""
    uri = settings.milvus_uri
    if not uri:
        return []
    if "://" not in uri:
        detail = f"the file {uri} can be opened by one process only, and several are to search it"
        fix = (
            "start `milvus-lite server --host 127.0.0.1 --port 19530 --data-dir FOLDER` and set "
            "TIDEGATE_VECTOR_STORE=milvus:http://127.0.0.1:19530"
        )
        return [Check("vector store", False, detail, fix)]
    from gateway.retrieval.milvus_client import Milvus

    milvus = Milvus(uri, settings.milvus_token, timeout_s=settings.milvus_timeout_s)
    try:
        version = milvus.version()
    except UpstreamError as error:
        detail = f"Milvus at {uri} does not answer ({error.detail})"
        fix = "start it, or correct TIDEGATE_VECTOR_STORE and TIDEGATE_MILVUS_TOKEN"
        return [Check("vector store", False, detail, fix)]
    finally:
        milvus.close()
    return [Check("vector store", True, f"Milvus {version} at {uri}")]


def check_files() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= MIN_FILES:
        return Check("open files", True, f"{hard} allowed")
    return Check(
        "open files", False, f"only {hard} open files are allowed", f"raise `ulimit -Hn` to {MIN_FILES}"
    )


def check_ports(settings: Settings) -> list[Check]:
    """One check that names the first port in the way; or one that says all are free."""
    ports = all_ports(settings)
    for name, port in ports.items():
        setting = "TIDEGATE_INNER_PORT" if name == "inner" and settings.inner_port else "TIDEGATE_PORT"
        if port > 65535:
            detail = f"{setting} leaves no room for port {port} ({name})"
            return [Check("ports", False, detail, "choose a smaller number")]
        host = settings.host if name == "public" else "127.0.0.1"
        problem = _bind_problem(host, port)
        if problem:
            which = "" if name == "public" else f", which {name} needs,"
            return [
                Check("ports", False, f"port {port}{which} {problem}", _port_fix(setting, name, settings))
            ]
    return [Check("ports", True, f"{settings.port} and {len(ports) - 1} others are free")]


def _port_fix(setting: str, name: str, settings: Settings) -> str:
    if name == "public" or setting == "TIDEGATE_INNER_PORT":
        return f"set {setting} to a free port"
    return f"set TIDEGATE_PORT to another number (the other ports follow it; it is {settings.port} now)"


def _bind_problem(host: str, port: int) -> str:
    """Why we cannot listen there; empty when we can."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.closing(socket.socket(family, kind)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        return "may not be opened by this user"
    except OSError as error:
        return (
            "is taken"
            if error.errno == 98
            else f"on {host} cannot be opened ({os.strerror(error.errno or 0)})"
        )
    return ""
