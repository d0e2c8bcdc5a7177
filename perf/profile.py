"""Where the processor's time goes while the service works: seconds by process, from the kernel's own accounting."""

from __future__ import annotations

import psutil

from perf.service import Service

Profile = dict[str, dict[str, float]]  # texts' length -> process -> microseconds per text


def processor_seconds(service: Service) -> dict[str, float]:
    """User and system seconds so far of every process of the service, and of this one (`client`)."""
    out: dict[str, float] = {"client": _seconds(psutil.Process())}
    for process in psutil.Process(service.pid).children(recursive=True):
        try:
            name = _name(process.cmdline())
            if name:
                out[name] = out.get(name, 0.0) + _seconds(process)
        except psutil.Error:
            continue
    return out


def spent(before: dict[str, float], after: dict[str, float], count: int) -> dict[str, float]:
    """Microseconds per text, largest first; below 1 left out."""
    used = {name: (after[name] - before.get(name, 0.0)) / count * 1e6 for name in after}
    return {
        name: round(value, 1) for name, value in sorted(used.items(), key=lambda item: -item[1]) if value >= 1
    }


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _name(command: list[str]) -> str:
    words = " ".join(command)
    for model in ("embed", "search", "reader"):
        if "python_backend_stub" in words and f"/{model}/" in words:
            return f"stub {model}"
    for part in ("tritonserver", "redis-server", "gateway.app", "gateway.ingest_app", "supervise.guard"):
        if part in words:
            return part
    return "envoy" if "envoy" in (command[0] if command else "") else ""
