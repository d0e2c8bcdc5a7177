"""The service's processes on this machine, as their process manager and its log tell."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import xmlrpc.client
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.settings import Settings

RPC_TIMEOUT_S = 3.0
LOG_TAIL_BYTES = 10 * 2**20  # supervisord's log rotates at this size


@dataclass(frozen=True)
class Part:
    """One process. uptime_s: 0 when it is not up. restarts: since the service was started; -1 = not known."""

    name: str
    state: str  # supervisord's words (RUNNING, STARTING, BACKOFF, EXITED, …), or the guard's for a Triton
    pid: int
    uptime_s: int
    restarts: int


class ManagerSilent(Exception):
    """The process manager does not answer, or its password cannot be read."""


def read_parts(settings: Settings, ports: dict[str, int]) -> list[Part]:
    """Every process of the service. ports: as the instance file tells them. Raises: ManagerSilent."""
    try:
        processes = _process_info(settings, ports["supervisor"])
    except (OSError, ValueError, KeyError, xmlrpc.client.Error, http.client.HTTPException) as error:
        raise ManagerSilent from error
    log = b""
    with contextlib.suppress(OSError):
        log = _tail(settings.log_dir / "supervisord.log")
    parts = [part_of(process, log.decode("utf-8", "replace")) for process in processes]
    return [_judged(part, ports.get(f"{part.name}-health")) for part in parts]


def _judged(part: Part, health_port: int | None) -> Part:
    """A Triton that runs is not yet one that answers: its guard knows."""
    if health_port is None or part.state != "RUNNING":
        return part
    connection = http.client.HTTPConnection("127.0.0.1", health_port, timeout=RPC_TIMEOUT_S)
    try:
        connection.request("GET", "/")
        state = str(json.loads(connection.getresponse().read())["state"])
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
        state = "unknown"
    finally:
        connection.close()
    return part if state == "ready" else replace(part, state=state.upper())


def _process_info(settings: Settings, port: int) -> list[dict[str, Any]]:
    password = (settings.var / "secrets" / "supervisor").read_text("ascii").strip()
    address = f"http://tidegate:{password}@127.0.0.1:{port}/RPC2"
    with xmlrpc.client.ServerProxy(address, transport=_Transport()) as proxy:
        answer: Any = proxy.supervisor.getAllProcessInfo()
    return list(answer)


class _Transport(xmlrpc.client.Transport):
    """A transport that does not wait for ever."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = RPC_TIMEOUT_S
        return connection


def _tail(path: Path) -> bytes:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - LOG_TAIL_BYTES))
        return bytes(stream.read())


def part_of(process: dict[str, Any], log: str) -> Part:
    """A part from supervisord's process info and its log."""
    name = str(process["name"])
    is_up = process["statename"] == "RUNNING"
    uptime_s = max(0, process["now"] - process["start"]) if is_up else 0
    return Part(name, str(process["statename"]), int(process["pid"]), uptime_s, count_restarts(log, name))


def count_restarts(log: str, name: str) -> int:
    """Times the program was started again since supervisord began; -1 when the log does not tell."""
    _, started, recent = log.rpartition("supervisord started with pid")
    if not started:
        return -1
    return max(0, len(re.findall(rf"spawned: '{re.escape(name)}' with pid", recent)) - 1)
