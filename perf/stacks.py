"""What a gateway worker does under load, as py-spy sees it from outside."""

from __future__ import annotations

import asyncio
import subprocess

import psutil

from perf.litellm_proxy import ENVIRONMENT
from perf.rounds import Ask, round_of
from perf.service import Service

PY_SPY = ENVIRONMENT / "bin" / "py-spy"
SPY_S, SPY_HZ = 5, 100


async def stacks_of(service: Service, module: str, asks: list[Ask]) -> str:
    """Stacks of a worker while these ask, one a line with its count; "" where py-spy is not there or may not look.

    module: what the worker runs.
    """
    if not PY_SPY.exists():
        return ""
    children = psutil.Process(service.pid).children(recursive=True)
    worker = next(each for each in children if module in each.cmdline())
    path = service.settings.run_dir / "stacks"
    argv = [str(PY_SPY), "record", "--pid", str(worker.pid), "--format", "raw", "--output", str(path)]
    argv += ["--duration", str(SPY_S), "--rate", str(SPY_HZ), "--gil"]
    spy = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await round_of("", 0, asks, SPY_S + 1)
    await spy.wait()
    return path.read_text() if path.exists() else ""
