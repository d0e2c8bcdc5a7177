"""Where the processor's time goes while the service works: seconds by process, from the kernel's own accounting."""

from __future__ import annotations

import re

import psutil

from perf.service import Service

Profile = dict[str, dict[str, float]]  # arm -> process -> microseconds per text, token or chunk

_PARTS = {  # word of a command -> name in a profile
    "tritonserver": "tritonserver",
    "redis-server": "redis-server",
    "gateway.app": "gateway",
    "perf.relay_worker": "gateway",
    "gateway.ingest_app": "ingest",
    "supervise.guard": "guard",
    "perf.relay_guard": "guard",
}
_STUB_MODEL = re.compile(r"python_backend_stub .*?/([\w-]+)/\d+/model\.py")


def processor_seconds(service: Service) -> dict[str, float]:
    """User and system seconds so far of every process of the service, and of this one (`client`)."""
    out: dict[str, float] = {"client": _seconds(psutil.Process())}
    for process in psutil.Process(service.pid).children(recursive=True):
        try:
            name = name_of(process.cmdline())
            if name:
                out[name] = out.get(name, 0.0) + _seconds(process)
        except psutil.Error:
            continue
    return out


def tree_seconds(pid: int) -> float:
    """User and system seconds so far of a process and all below it."""
    root = psutil.Process(pid)
    return sum(_seconds(each) for each in (root, *root.children(recursive=True)))


def spent(before: dict[str, float], after: dict[str, float], count: int) -> dict[str, float]:
    """Microseconds for each of `count`, largest first; below 1 left out."""
    used = {name: (after[name] - before.get(name, 0.0)) / count * 1e6 for name in after}
    return {
        name: round(value, 1) for name, value in sorted(used.items(), key=lambda item: -item[1]) if value >= 1
    }


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def name_of(command: list[str]) -> str:
    """What a process is called in a profile; "" = not a part of the service."""
    words = " ".join(command)
    if found := _STUB_MODEL.search(words):
        return f"stub {found[1]}"
    for word, name in _PARTS.items():
        if word in words:
            return name
    return "envoy" if "envoy" in (command[0] if command else "") else ""
