"""Very many streams at once: opened through Envoy and the gateway, kept waiting, then all answered.

The engine is shut at first, so a few streams fill its slots and the others wait in the service's own line; every one
of them gets keep-alives. Then the engine opens and everyone must get his answer, whole, once. Meanwhile the resident
memory of the gateway's workers is sampled.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import msgspec
import psutil

from perf.load import arms, summary
from perf.load.arms import Arm
from perf.load.arrivals import plan
from perf.load.generator import send
from perf.load.rows import LoadRow
from perf.load.runs import ArmRun
from perf.load.scenario import Phase, Scenario
from perf.profile import name_of

SAMPLE_S = 1.0
ANSWER_S = 900.0  # the longest that the line may take to empty


@dataclass
class Memory:
    """Resident bytes of all gateway workers, over the run. at_s: seconds after its start."""

    at_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    open_files: list[int] = field(default_factory=list)


def run(scenario: Scenario) -> ArmRun:
    size = scenario.hold
    settings = {
        "gateway_workers": size.workers,
        "edge_processes": size.envoys,
        "edge_requests_per_s": 0,
        "queue_max": size.num_streams + 1000,
        "queue_ttl_s": ANSWER_S + size.num_streams / size.connect_rate + size.hold_s,
        "request_timeout_s": ANSWER_S + size.num_streams / size.connect_rate + size.hold_s,
        **scenario.settings,
    }
    held = msgspec.structs.replace(scenario, settings=settings, patience_s=ANSWER_S)
    with arms.tidegate(held, is_shut=True) as arm:
        return asyncio.run(_hold(arm, held))


async def _hold(arm: Arm, scenario: Scenario) -> ArmRun:
    size, out, memory = scenario.hold, ArmRun(arm.endpoint.arm), Memory()
    connect_s = size.num_streams / size.connect_rate
    phase = Phase(name="held", duration_s=connect_s, rate=size.connect_rate, arrivals="even")
    planned, _ = plan(scenario, [phase], 0.0, seed=scenario.seed)
    empty = _resident(arm)

    async def beside(start_s: float) -> None:
        sampling = asyncio.create_task(_sample(arm, memory, start_s))
        try:
            await asyncio.sleep(max(0.0, start_s - perf_counter()) + connect_s + size.hold_s)
            await asyncio.to_thread(_open, arm.engine_port)
            await asyncio.Event().wait()
        finally:
            sampling.cancel()

    out.rows = await send(
        arm.endpoint, planned, patience_s=ANSWER_S + connect_s + size.hold_s, label="hold", beside=beside
    )
    stats = await asyncio.to_thread(_stats, arm.engine_port)
    out.figures = figures(out.rows, memory, empty, connect_s, size.hold_s) | {"engine": stats}
    if size.churn_s:
        out.figures |= await _churn(arm, scenario)
    return out


def figures(
    rows: list[LoadRow], memory: Memory, empty_bytes: int, connect_s: float, hold_s: float
) -> dict[str, Any]:
    """lost: no whole answer; doubled: an event or a word came twice. Memory is that of the plateau's median."""
    plateau = [
        rss
        for at_s, rss in zip(memory.at_s, memory.rss_bytes, strict=True)
        if connect_s <= at_s < connect_s + hold_s
    ]
    held = summary.max_concurrent(rows)
    typical = sorted(plateau)[len(plateau) // 2] if plateau else empty_bytes
    return {
        "held_streams": held,
        "complete": sum(row.is_complete for row in rows),
        "lost": sum(not row.is_complete for row in rows),
        "doubled": sum(row.code in {"event_lost_or_doubled", "wrong_text"} for row in rows),
        "least_keepalives": min((row.num_keepalives for row in rows if row.is_complete), default=0),
        "keepalives": sum(row.num_keepalives for row in rows),
        "outcomes": dict(Counter(row.outcome for row in rows)),
        "codes": dict(Counter(row.code for row in rows if row.code).most_common(8)),
        "kib_per_stream": round((typical - empty_bytes) / 1024 / max(1, held), 2),
        "rss_mib": {
            "empty": empty_bytes >> 20,
            "held": typical >> 20,
            "most": max(memory.rss_bytes, default=0) >> 20,
        },
        "most_open_files_of_a_worker": max(memory.open_files, default=0),
        "generator": summary.lateness(rows),
    }


async def _churn(arm: Arm, scenario: Scenario) -> dict[str, Any]:
    """Streams come and go; memory at the end of the first fifth against that of the last."""
    size, memory = scenario.hold, Memory()
    phase = Phase(name="churn", duration_s=size.churn_s, rate=size.churn_rate)
    planned, _ = plan(scenario, [phase], 0.0, seed=scenario.seed + 1)

    async def beside(start_s: float) -> None:
        await _sample(arm, memory, start_s)

    found = await send(arm.endpoint, planned, patience_s=60.0, label="churn", beside=beside)
    fifth = max(1, len(memory.rss_bytes) // 5)
    first, last = memory.rss_bytes[fifth : 2 * fifth], memory.rss_bytes[-fifth:]
    if not first:
        return {}
    return {
        "churn_requests": len(found),
        "churn_failed": sum(not row.is_complete for row in found),
        "churn_memory_growth": round(sum(last) / len(last) / (sum(first) / len(first)), 4),
    }


async def _sample(arm: Arm, memory: Memory, start_s: float) -> None:
    while True:
        memory.at_s.append(perf_counter() - start_s)
        workers = await asyncio.to_thread(_workers, arm)
        memory.rss_bytes.append(sum(each.memory_info().rss for each in workers))
        memory.open_files.append(max((each.num_fds() for each in workers), default=0))
        await asyncio.sleep(SAMPLE_S)


def _resident(arm: Arm) -> int:
    return sum(each.memory_info().rss for each in _workers(arm))


def _workers(arm: Arm) -> list[psutil.Process]:
    assert arm.service is not None
    return [each for each in psutil.Process(arm.service.pid).children(recursive=True) if _is_worker(each)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return name_of(process.cmdline()) == "gateway"
    except psutil.Error:
        return False


def _open(port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/open", data=b"", method="POST")
    with urllib.request.urlopen(request, timeout=10):
        pass


def _stats(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as answer:
        told = msgspec.json.decode(answer.read())
    return {name: told[name] for name in ("asked", "answered", "left", "most_waiting")}
