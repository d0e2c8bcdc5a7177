"""A real tritonserver for tests: chosen models, free ports, its log shown when the start fails."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.settings import Settings, load_settings
from gateway.supervise.assets import Assets
from gateway.supervise.triton_server import remove_shared_memory, triton_command

MODELS = Path(__file__).parents[2] / "model_repository"
FAKE_MODELS = Path(__file__).with_name("models")
START_S = 60.0
STOP_S = 8.0


@dataclass
class TritonProcess:
    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.settings.triton_ports(0)[0]}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.settings.triton_ports(0)[1]}"

    def stub_pids(self, model: str) -> list[int]:
        """Processes of the python backend that run this model."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            is_ours = parent == self.process.pid and b"triton_python_backend_stub" in words[0]
            if is_ours and f"/{model}/".encode() in b" ".join(words):
                found.append(int(folder.name))
        return found


def free_port() -> int:
    """A TIDEGATE_PORT whose Triton ports are free. TEST_PORT in the environment fixes it."""
    fixed = os.environ.get("TEST_PORT")
    if fixed:
        return int(fixed)
    while True:
        port = random.randrange(12_000, 31_000)
        if all(_is_free(port + 300 + offset) for offset in range(4)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def running_tiers(folder: Path, models_dir: Path, *tables: str, **options: Any) -> Iterator[TritonProcess]:
    """Triton with generative tiers alone. tables: of their tiers file; models_dir: of their converted checkpoints."""
    file = folder / "tiers.toml"
    file.write_text("\n".join(tables), "utf-8")
    settings = load_settings({}, var=folder / "var", port=free_port(), tiers_file=str(file), **options)
    settings.var.mkdir()
    settings.models_dir.symlink_to(models_dir)
    with running_triton(folder / "triton", [], settings) as process:
        yield process


@contextmanager
def running_triton(folder: Path, models: Sequence[Path], settings: Settings) -> Iterator[TritonProcess]:
    """Triton with links to these model folders, ready; killed at the end. folder: scratch, for one server."""
    repository = folder / "model_repository" / "retrieval"
    repository.mkdir(parents=True)
    (folder / "model_repository" / "generation").mkdir()
    (folder / "model_repository" / "tiers").symlink_to(
        MODELS / "tiers"
    )  # used where the settings have a tier
    for model in models:
        (repository / model.name).symlink_to(model)
    command = triton_command(settings, 0, Assets(root=folder, documents_root=folder))
    log = folder / "triton.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command.argv, env=command.env, stdout=out, stderr=out)
    triton = TritonProcess(settings, process, log)
    try:
        _wait_ready(triton)
        yield triton
    finally:
        _stop(process)
        remove_shared_memory(settings, 0)


def _wait_ready(triton: TritonProcess) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and triton.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{triton.http}/v2/health/ready", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"tritonserver did not get ready:\n{triton.log.read_text(errors='replace')[-6000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
