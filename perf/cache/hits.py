"""What an exact hit costs: the service beside a bare Sanic handler that returns the same bytes behind an Envoy of the
same configuration. Both are up; rounds and requests alternate.

hit_rate     requests/s of CLIENTS connections, one gateway worker, one bare worker
hit_latency  one request at a time
and where the processor's time goes, by process, and by line of the worker (py-spy, where it is installed)
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import uvloop

from perf import litellm_proxy
from perf import rows as rows_module
from perf.bare_edge import bare_behind_envoy
from perf.cache import bare
from perf.cache.client import Connection, question, request
from perf.profile import processor_seconds, spent
from perf.rows import Row
from perf.service import Service, running_service

CLIENTS = 16
QUESTION = "What happens when a Triton replica dies?"
WARM = 300
PER_ROW = 20
PY_SPY = litellm_proxy.ENVIRONMENT / "bin" / "py-spy"
SPY_HZ = 250


@dataclass(frozen=True)
class Size:
    num_rounds: int = 9
    round_s: float = 3.0
    num_requests: int = 1500  # of each arm, one at a time
    spy_s: int = 10


QUICK = Size(num_rounds=1, round_s=0.5, num_requests=50, spy_s=1)


class Measured(NamedTuple):
    """processor: microseconds a request, by arm and process. stacks: of the worker, one a line with its count."""

    rows: list[Row]
    processor: dict[str, dict[str, float]]
    stacks: str


def run(size: Size) -> Measured:
    with running_service(cache=True, gateway_workers=1) as service:
        body = uvloop.run(_remembered(service))
        with bare_behind_envoy(bare.worker(body)) as (port, pids):
            return uvloop.run(_measure(service, port, pids, size))


def hit_request(service: Service) -> bytes:
    return request(service.key, question(QUESTION))


async def _remembered(service: Service) -> bytes:
    """The body of a hit, once it is one that is given unseen."""
    connection = Connection(service.settings.port)
    reply = await connection.ask(hit_request(service))
    for _ in range(WARM):
        reply = await connection.ask(hit_request(service))
    connection.close()
    if reply.verdict != "exact":
        raise RuntimeError(f"what should be a hit is {reply.verdict}")
    return reply.body


async def _measure(service: Service, bare_port: int, bare_pids: list[int], size: Size) -> Measured:
    raw, ports = hit_request(service), {"bare": bare_port, "hit": service.settings.port}
    pools = {arm: [Connection(port) for _ in range(CLIENTS)] for arm, port in ports.items()}
    for pool in pools.values():
        await _round("", 0, pool, raw, 0.5)
    rows = await _latency({arm: pool[0] for arm, pool in pools.items()}, raw, size.num_requests)
    processor: dict[str, dict[str, float]] = {}
    bare = [psutil.Process(pid) for pid in bare_pids]
    for number in range(size.num_rounds):
        for arm, pool in pools.items():
            before = _seconds(service, bare)
            done = await _round(f"rate/{arm}", number, pool, raw, size.round_s)
            processor[arm] = spent(
                before, _seconds(service, bare), sum(row.count for row in done)
            )  # of the last round
            rows += done
    stacks = await _stacks(service, pools["hit"], raw, size.spy_s)
    for connection in (each for pool in pools.values() for each in pool):
        connection.close()
    return Measured(rows, processor, stacks)


def _seconds(service: Service, bare: Sequence[psutil.Process]) -> dict[str, float]:
    used = processor_seconds(service)
    threads = _worker(service).threads()
    main = next(each for each in threads if each.id == _worker(service).pid)
    used["gateway's main thread"] = main.user_time + main.system_time
    for name, process in zip(("bare envoy", "bare sanic"), bare, strict=True):
        times = process.cpu_times()
        used[name] = times.user + times.system
    return used


def _worker(service: Service) -> psutil.Process:
    parts = psutil.Process(service.pid).children(recursive=True)
    return next(each for each in parts if "gateway.app" in each.cmdline())


async def _latency(connections: dict[str, Connection], raw: bytes, count: int) -> list[Row]:
    rng, out = random.Random(0), []
    for number in range(count):
        for arm in rng.sample(sorted(connections), len(connections)):
            out.append((await connections[arm].ask(raw)).row(arm, number))
    return out


async def _round(arm: str, number: int, pool: list[Connection], raw: bytes, round_s: float) -> list[Row]:
    """A row stands for up to PER_ROW requests of one connection, one after another."""
    end = time.perf_counter() + round_s

    async def client(connection: Connection) -> list[Row]:
        replies = []
        while time.perf_counter() < end:
            replies.append(await connection.ask(raw))
        parts = [replies[at : at + PER_ROW] for at in range(0, len(replies), PER_ROW)]
        return [
            Row(arm, number, part[0].sent_s, part[0].sent_s, part[-1].done_s, len(part)) for part in parts
        ]

    return [row for rows in await asyncio.gather(*map(client, pool)) for row in rows]


async def _stacks(service: Service, pool: list[Connection], raw: bytes, spy_s: int) -> str:
    """Stacks of the worker while it gives hits; "" where py-spy is not there or may not look."""
    if not PY_SPY.exists():
        return ""
    path = service.settings.run_dir / "stacks"
    argv = [
        str(PY_SPY),
        "record",
        "--pid",
        str(_worker(service).pid),
        "--format",
        "raw",
        "--output",
        str(path),
    ]
    argv += ["--duration", str(spy_s), "--rate", str(SPY_HZ), "--threads"]
    spy = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await _round("", 0, pool, raw, spy_s + 1)
    await spy.wait()
    return path.read_text() if path.exists() else ""


def shares(stacks: str, least: float = 0.01) -> dict[str, float]:
    """Share of the main thread's time in each function and all that it calls, largest first. (What py-spy says of other
    threads is left out: it takes one that waits for work for one that works.)"""
    within: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if not thread.endswith("MainThread"):
            continue
        total += int(count)
        for name in {_function(frame) for frame in frames}:
            within[name] += int(count)
    return {name: round(count / total, 3) for name, count in within.most_common() if count / total >= least}


def _function(frame: str) -> str:
    """`answer (gateway/pipeline/remember.py:132)` -> `gateway/pipeline/remember.py answer`."""
    name, _, place = frame.partition(" (")
    file = place.rpartition(":")[0].rpartition("site-packages/")[2]
    return f"{file} {name}".strip()


def summarise(measured: Measured) -> dict[str, Any]:
    rates = rows_module.rates(rows_module.part_of(measured.rows, "rate"))
    return {
        "latency_ms": rows_module.latencies(row for row in measured.rows if not row.arm.startswith("rate/")),
        "requests_per_s": rows_module.medians(rates),
        "hit_over_bare": rows_module.ratio(rates["hit"], rates["bare"]),
        "processor_us_per_request": measured.processor,
        "worker_shares": shares(measured.stacks),
    }


def show(summary: dict[str, Any]) -> None:
    rate, share = summary["requests_per_s"], summary["hit_over_bare"]
    print(
        f"\nexact hits at {CLIENTS} clients: {rate['hit']:.0f}/s, a bare handler {rate['bare']:.0f}/s: "
        f"{share['median']:.2f} of it (quartiles {share['q1']:.2f} to {share['q3']:.2f}; target >= 0.50)"
    )
    for arm, row in summary["latency_ms"].items():
        print(f"  {arm:5} one at a time: p50 {row['p50']:.2f} ms  p99 {row['p99']:.2f} ms  n {row['n']}")
    for arm, used in summary["processor_us_per_request"].items():
        print(f"  {arm:5} processor us a request: " + ", ".join(f"{k} {v:.0f}" for k, v in used.items()))
