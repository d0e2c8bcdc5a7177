"""Waits until every part of a fresh start is ready, showing each; gives up when one keeps dying."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import time
import xmlrpc.client
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from gateway.settings import Settings
from gateway.supervise.render import programs
from gateway.supervise.triton_server import start_limit_s

MAX_DEATHS = 3
TAIL_LINES = 15
PROBE_TIMEOUT_S = 1.0

Probe = Callable[[], str]  # why the part is not ready yet; "" when it is


class StartFailed(RuntimeError):
    """A part does not come up. The text says which and shows the end of its log."""


@dataclass
class Part:
    name: str
    probe: Probe
    since_s: float = field(default_factory=time.monotonic)
    ready_s: float = -1.0  # seconds until it was ready
    waiting_for: str = ""

    def ask(self) -> bool:
        """Probe once. True when the part has just become ready."""
        if self.ready_s >= 0:
            return False
        self.waiting_for = self.probe()
        if self.waiting_for:
            return False
        self.ready_s = time.monotonic() - self.since_s
        return True


def http_probe(port: int, path: str) -> Probe:
    def probe() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read(4096)
        except (OSError, http.client.HTTPException):
            return "starting"
        finally:
            connection.close()
        return "" if answer.status == 200 else _reason(body)

    return probe


def _reason(body: bytes) -> str:
    """What a 503 says about itself, in a few words."""
    with contextlib.suppress(ValueError):
        said = json.loads(body)
        if isinstance(said, dict):
            away = [name for name, state in (said.get("parts") or {}).items() if state not in {"ok", True}]
            return str(said.get("reason") or (f"waiting for {', '.join(away)}" if away else "starting"))[:80]
    return "starting"


def port_probe(port: int) -> Probe:
    def probe() -> str:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PROBE_TIMEOUT_S).close()
        except OSError:
            return "starting"
        return ""

    return probe


class Supervisor:
    """supervisord over its XML-RPC interface."""

    def __init__(self, settings: Settings, password: str) -> None:
        self._address = f"http://tidegate:{password}@127.0.0.1:{settings.supervisor_port}/RPC2"

    def processes(self) -> dict[str, dict[str, Any]]:
        """Info by program name; empty while supervisord does not answer."""
        with contextlib.suppress(OSError, xmlrpc.client.Error, http.client.HTTPException):
            with xmlrpc.client.ServerProxy(self._address) as proxy:
                answer: Any = proxy.supervisor.getAllProcessInfo()
            return {str(info["name"]): info for info in answer}
        return {}


def parts_of(settings: Settings, supervisor: Supervisor) -> list[Part]:
    """One part for each program, and the whole of it seen through the public port."""

    def running(name: str) -> Probe:
        def probe() -> str:
            state = supervisor.processes().get(name, {}).get("statename")
            return "" if state == "RUNNING" else "starting"

        return probe

    parts = []
    for program in programs(settings):
        kind, _, index = program.name.partition("-")
        if kind == "redis":
            probe = port_probe(settings.redis_port)
        elif kind == "triton":
            probe = http_probe(settings.triton_ports(int(index))[3], "/health")
        elif kind == "envoy":
            probe = http_probe(settings.edge_admin_port(int(index or 0)), "/ready")
        elif kind == "gateway":
            probe = http_probe(settings.worker_port(int(index)), "/health/ready")
        elif kind == "prometheus":
            probe = http_probe(settings.prometheus_port, "/-/ready")
        elif kind == "alertmanager":
            probe = http_probe(settings.alertmanager_port, "/-/ready")
        else:
            probe = running(program.name)
        parts.append(Part(program.name, probe))
    parts.append(Part("public port", _edge_probe(settings)))
    return parts


def _edge_probe(settings: Settings) -> Probe:
    """Asked on the address that the operator chose, which may be any of this machine's."""
    if settings.host in {"127.0.0.1", "localhost", "0.0.0.0"}:  # noqa: S104 - compared, not bound
        return http_probe(settings.port, "/health/ready")

    def probe() -> str:
        with contextlib.suppress(OSError):
            socket.create_connection((settings.host, settings.port), timeout=PROBE_TIMEOUT_S).close()
            return ""
        return "starting"

    return probe


class Board:
    """Shows the parts: a live table on a terminal, else a line for each one that becomes ready."""

    def __init__(self, parts: list[Part], echo: Callable[[str], None], console: Console) -> None:
        self._parts, self._echo, self._console = parts, echo, console
        self._live = Live(self._table(), console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, fresh: list[Part]) -> None:
        if self._console.is_terminal:
            self._live.update(self._table())
            return
        for part in fresh:
            self._echo(f"  {part.name:<12} ready after {part.ready_s:.1f} s")

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for part in self._parts:
            if part.ready_s >= 0:
                table.add_row("[green]✓[/]", part.name, f"[dim]{part.ready_s:.1f} s[/]")
            else:
                table.add_row(Spinner("dots"), part.name, f"[dim]{part.waiting_for}[/]")
        return table


class DeathWatch:
    """Counts how often each program was started again."""

    def __init__(self) -> None:
        self._last_start: dict[str, int] = {}
        self.deaths: Counter[str] = Counter()

    def look(self, processes: dict[str, dict[str, Any]]) -> str:
        """Take supervisord's view. Returns the program that keeps dying, or ''."""
        for name, info in processes.items():
            last = self._last_start.get(name)
            if info["start"] and last not in {None, info["start"]}:
                self.deaths[name] += 1
            if info["start"]:
                self._last_start[name] = info["start"]
            if self.deaths[name] >= MAX_DEATHS or info["statename"] == "FATAL":
                return name
        return ""


def wait_until_ready(
    settings: Settings, supervisor: Supervisor, echo: Callable[[str], None], is_over: Callable[[], bool]
) -> bool:
    """True when all parts are ready; False when `is_over` said so first.

    Raises: StartFailed.
    """
    parts, watch = parts_of(settings, supervisor), DeathWatch()
    limit_s = start_limit_s(settings)
    deadline_s = time.monotonic() + limit_s
    with Board(parts, echo, Console(force_terminal=sys.stdout.isatty())) as board:
        while not is_over():
            board.update([part for part in parts if part.ask()])
            if all(part.ready_s >= 0 for part in parts):
                return True
            dying = watch.look(supervisor.processes())
            if dying:
                raise StartFailed(_with_log(f"{dying} keeps dying", settings.log_dir / f"{dying}.log"))
            late = [part for part in parts if part.ready_s < 0]
            if time.monotonic() > deadline_s:
                first = late[0]
                log = settings.log_dir / f"{first.name}.log"
                raise StartFailed(_with_log(f"{first.name} is not ready after {limit_s:g} s", log))
            time.sleep(0.1)
    return False


def _with_log(problem: str, log: Path) -> str:
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = log.read_text("utf-8", "replace").splitlines()[-TAIL_LINES:]
    return "\n".join([f"{problem}. The end of {log}:", *(f"  | {line}" for line in lines)])
