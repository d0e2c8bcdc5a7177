"""`tidegate status`: what runs, how it is, and what is in it.

Three sources: the instance file (which service), the process manager (its parts), the HTTP API (its state). Each may
be silent; the report then says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.terminal import (
    CommandFailed,
    ExitCode,
    JsonOption,
    KeyOption,
    UrlOption,
    VarOption,
    console,
    print_json,
    print_table,
    settings_of,
)
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.cli.client import Api, Target
    from gateway.cli.processes import Part

_EPILOG = """\b
Examples:
  tidegate status
  tidegate status --json | jq -r .state
  until tidegate status >/dev/null; do sleep 1; done

\b
Exit codes: 0 ready, 1 degraded (some part is down), 2 wrong usage, 3 not running."""


@dataclass
class Report:
    url: str
    state: str = "not running"  # ready, degraded, not running
    version: str = ""
    pid: int = 0
    uptime_s: int = 0
    problems: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    waiting: int | None = None  # requests in the queue, over all gateway workers
    inflight: int | None = None
    collections: list[dict[str, Any]] | None = None  # None: not to be had

    def settle(self, *, is_ready: bool, is_there: bool) -> None:
        """Set `state` from what was found. Raises: nothing."""
        self.problems += [f"{part.name} is {part.state}" for part in self.parts if part.state != "RUNNING"]
        if is_ready:
            self.state = "degraded" if self.problems else "ready"
        else:
            self.state = "degraded" if is_there or self.parts else "not running"

    @property
    def exit_code(self) -> ExitCode:
        return {"ready": ExitCode.DONE, "degraded": ExitCode.FAILED}.get(self.state, ExitCode.NOT_RUNNING)


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(status)


def status(
    as_json: JsonOption = False, url: UrlOption = None, key: KeyOption = None, var: VarOption = None
) -> None:
    """Show whether the service is ready, its parts and its content."""
    from gateway.cli.client import resolve_target

    settings = settings_of(var)
    target = resolve_target(settings, url, key)
    report = Report(target.url)
    worker_ports = _read_parts(report, settings) if url is None else []
    asyncio.run(_ask_service(report, target, worker_ports))
    if as_json:
        print_json(asdict(report))
    else:
        _print(report)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _read_parts(report: Report, settings: Settings) -> list[int]:
    """Fill in what this machine's process manager knows. Returns the loopback ports of the gateway workers."""
    from gateway.cli.processes import ManagerSilent, read_parts
    from gateway.supervise.instance import all_ports, is_running, read_instance

    if not is_running(settings):
        return []
    instance = read_instance(settings)
    if instance is None:  # written once all is ready
        report.problems.append("it is starting")
        instance = {"ports": all_ports(settings)}
    report.pid = int(instance.get("pid", 0))
    report.version = str(instance.get("version", ""))
    report.uptime_s = seconds_since(instance.get("started_at"), time.time())
    ports = instance["ports"]
    try:
        report.parts = read_parts(settings, ports)
    except ManagerSilent:
        report.problems.append("the process manager does not answer")
    return [port for name, port in ports.items() if name.startswith("gateway-")]


def seconds_since(started_at: object, now: float) -> int:
    return max(0, int(now - started_at)) if isinstance(started_at, int | float) else 0


async def _ask_service(report: Report, target: Target, worker_ports: list[int]) -> None:
    """Fill in what the API tells, and settle the state."""
    from gateway.cli.client import Api, ApiError

    is_there, is_ready = False, False
    async with Api(target) as api:
        try:
            health = await api.get("/health/ready")
            is_there = is_ready = True
            report.version = str(health.get("version", report.version))
            _note_health(report, health)
        except ApiError as error:
            is_there = True
            report.problems.append(str(error))
        except CommandFailed as error:
            if error.exit_code != ExitCode.NOT_RUNNING:
                raise
            if report.parts:
                report.problems.append("the public port does not answer")
        if is_ready:
            try:
                report.collections = [item async for item in api.pages("/v1/vector_stores")]
            except CommandFailed as error:
                report.problems.append(f"collections cannot be listed: {error}")
            await _read_queue(report, api, worker_ports)
    report.settle(is_ready=is_ready, is_there=is_there)


def _note_health(report: Report, health: dict[str, Any]) -> None:
    for name, text in (health.get("parts") or {}).items():
        if text not in {"ok", True}:
            report.problems.append(f"{name}: {text}")


async def _read_queue(report: Report, api: Api, worker_ports: list[int]) -> None:
    """Sum what every gateway worker counts. Workers answer on loopback only, so a remote service has no figure."""
    texts = []
    for port in worker_ports:
        with contextlib.suppress(CommandFailed):
            texts.append(await api.text(f"http://127.0.0.1:{port}/metrics"))
    if texts:
        report.waiting = sum(gauge_sum(text, "tidegate_waiting") for text in texts)
        report.inflight = sum(gauge_sum(text, "tidegate_inflight") for text in texts)


def gauge_sum(exposition: str, name: str) -> int:
    """The sum of a gauge over its labels in Prometheus' text format."""
    return int(sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", exposition, re.MULTILINE))))


def _print(report: Report) -> None:
    style = {"ready": "bold green", "degraded": "bold yellow"}.get(report.state, "bold red")
    out = console()
    from rich.text import Text

    head = Text(report.state, style=style).append(f"  {report.url}", style="default")
    if report.version:
        head.append(f"  version {report.version}", style="dim")
    if report.pid:
        head.append(f"  pid {report.pid}, up {span(report.uptime_s)}", style="dim")
    out.print(head, soft_wrap=True)
    for problem in report.problems:
        out.print(Text(f"  {problem}", style="yellow"), soft_wrap=True)
    if report.state == "not running":
        out.print("Start it with `tidegate up`, or name another with --url.")
    if report.parts:
        out.print()
        print_table(
            ("part", "state", "pid", "up", "restarts"),
            map(_part_row, report.parts),
            right=("pid", "up", "restarts"),
        )
    if report.waiting is not None:
        out.print(f"\n{report.inflight} requests in work, {report.waiting} waiting.")
    if report.collections:
        out.print()
        print_table(
            ("collection", "id", "files", "indexing", "failed"),
            map(_collection_row, report.collections),
            right=("files", "indexing", "failed"),
        )


def _part_row(part: Part) -> tuple[str, ...]:
    up = span(part.uptime_s) if part.uptime_s or part.state == "RUNNING" else ""
    restarts = str(part.restarts) if part.restarts >= 0 else "?"
    return part.name, part.state.lower(), str(part.pid or ""), up, restarts


def _collection_row(item: dict[str, Any]) -> tuple[str, ...]:
    counts = item.get("file_counts") or {}
    numbers = (str(counts.get(name, "")) for name in ("completed", "in_progress", "failed"))
    return str(item.get("name") or ""), str(item["id"]), *numbers


def span(seconds: int) -> str:
    """A length of time in its two largest units: 42s, 3m 5s, 2h 40m, 5d 3h."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m {seconds % 60}s" if minutes else f"{seconds}s"
