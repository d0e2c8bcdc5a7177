"""The whole service as real processes, started by its own command on free ports with a var folder of its own."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.settings import Settings, load_settings
from gateway.supervise.credentials import secret
from gateway.supervise.instance import all_ports
from gateway.supervise.preflight import check_binaries
from gateway.supervise.readiness import Supervisor
from gateway.supervise.triton_server import SHM_DIR, shm_prefix

READY_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0
PORTS = range(int(os.environ.get("TEST_PORTS_FROM", "20000")), int(os.environ.get("TEST_PORTS_TO", "32000")))
PORT_BLOCK = 700  # ports of one service lie within this many above its first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # the first test of a service also waits for its start
        if "/e2e/" in str(item.path) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


def wait_for(condition: Callable[[], object], limit_s: float, what: str) -> float:
    """Seconds until the condition held. Fails the test when it does not in time."""
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < limit_s, f"not within {limit_s:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - start_s


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port_block(var: Path, **explicit: object) -> int:
    """A public port whose whole block is free now."""
    candidates = list(range(PORTS.start, PORTS.stop - PORT_BLOCK, 20)) or [PORTS.start]
    for port in random.sample(candidates, len(candidates)):
        settings = load_settings({}, var=var, port=port, **explicit)
        if all(is_free(taken) for taken in all_ports(settings).values()):
            return port
    raise RuntimeError("no free block of ports")


@dataclass
class Service:
    """One running `tidegate up`."""

    settings: Settings
    process: subprocess.Popen[bytes]
    output: Path
    seen: list[psutil.Process] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def api_key(self) -> str:
        return secret(self.settings, "dev-key")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def var(self) -> Path:
        return self.settings.var

    def client(self, **options: object) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.api_key}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=30, **options)  # type: ignore[arg-type]

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.base_url}/health/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def part_pid(self, name: str) -> int:
        """Process of a supervised part; 0 while it is not up."""
        supervisor = Supervisor(self.settings, secret(self.settings, "supervisor"))
        info = supervisor.processes().get(name, {})
        return int(info["pid"]) if info.get("statename") in {"RUNNING", "STARTING"} else 0

    def triton(self, replica: int) -> psutil.Process:
        return psutil.Process(self.part_pid(f"triton-{replica}")).children()[0]

    def replica_is_healthy(self, replica: int, timeout_s: float = 2) -> bool:
        port = self.settings.triton_ports(replica)[3]
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=timeout_s).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + READY_LIMIT_S
        while "tidegate is ready" not in self.output.read_text():
            assert self.process.poll() is None, f"`up` ended with {self.process.returncode}\n{self.tail()}"
            assert time.monotonic() < deadline_s, f"not ready after {READY_LIMIT_S:g} s\n{self.tail()}"
            time.sleep(0.05)
        self.seen = psutil.Process(self.pid).children(recursive=True)

    def tail(self) -> str:
        """The end of everything that was logged."""
        logs = [self.output, *sorted(self.settings.log_dir.glob("*.log"))]
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in logs
        )

    def stop(self) -> int:
        """SIGTERM, as an operator would. Returns the exit code."""
        self.remember()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_LIMIT_S)

    def press_ctrl_c(self) -> int:
        """SIGINT to all of the foreground process group, as a terminal does. Returns the exit code."""
        self.remember()
        os.killpg(self.pid, signal.SIGINT)
        return self.process.wait(STOP_LIMIT_S)

    def remember(self) -> None:
        """Note the processes there are now, to look for them afterwards."""
        if self.process.poll() is None:
            self.seen += psutil.Process(self.pid).children(recursive=True)

    def leftovers(self) -> list[str]:
        """Whatever of a stopped service is still there: processes, ports, lock, run files, shared memory."""
        left = [f"process {p.pid} {p.name()}" for p in self.seen if p.is_running() and p.status() != "zombie"]
        left += [
            f"port {port} ({name})" for name, port in all_ports(self.settings).items() if not is_free(port)
        ]
        left += [f"file {path}" for path in self.settings.run_dir.iterdir()]
        left += [f"file {path}" for path in self.var.glob("models/.*")]
        for replica in range(self.settings.triton_replicas):
            left += [
                f"shared memory {path}" for path in SHM_DIR.glob(shm_prefix(self.settings, replica) + "*")
            ]
        return left


Launch = Callable[..., Service]


def spawn(var: Path, output: Path, environ: Mapping[str, str] | None = None, **explicit: object) -> Service:
    """`tidegate up` with these settings, not waited for. environ: added to our own environment."""
    settings = load_settings({}, var=var, **explicit)
    outside = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")} | dict(environ or {})
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "up"],
            env=outside | settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
            process_group=0,
        )
    return Service(settings, process, output)


@contextmanager
def launching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Starts services; those still running at the end are stopped, and must leave nothing."""
    missing = [check.sentence() for check in check_binaries(load_settings({})) if not check.ok]
    if missing:
        pytest.skip("the real servers are not installed: " + " ".join(missing))
    services: list[Service] = []

    def start(
        var: Path | None = None, environ: Mapping[str, str] | None = None, **explicit: object
    ) -> Service:
        folder = var or tmp_path_factory.mktemp("var")
        port = explicit.pop("port", None) or free_port_block(folder, **explicit)
        service = spawn(folder, tmp_path_factory.mktemp("out") / "up.log", environ, port=port, **explicit)
        services.append(service)
        service.wait_until_ready()
        return service

    yield start
    problems = []
    for service in services:
        if service.process.poll() is None:
            code = service.stop()
            problems += [f"exit code {code}"] if code else []
            problems += service.leftovers()
    assert not problems


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """For one module: a service that nobody asks any more still takes a part of the processor."""
    with launching(tmp_path_factory) as launch:
        yield launch


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service that most tests share: one replica, one worker, the sample collection ingested."""
    with launching(tmp_path_factory) as launch:
        yield launch()
