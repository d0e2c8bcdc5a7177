"""What limits cost and how well they hold: `python -m perf.limits`, also a scenario of perf.bench.

Workers are processes of their own over one real Redis (perf/limits_worker.py), each offered requests by a schedule
that waits for nobody.

rate     a limit that is far away: trips to Redis for each request
tenants  the same, the rate being that of many tenants: their trips are shared
flood    several times a limit is offered: what the fullest minute let in beyond it
frozen   Redis stands still in mid-run (SIGSTOP), or is killed: what a reservation takes then, beside before
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway.settings import load_settings
from gateway.supervise.binaries import find_redis
from perf import rows
from perf.environment import environment
from perf.limits_worker import Plan, argument
from perf.rows import Row
from perf.service import free_port

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "limits"
START_S = 4.0  # for every worker to be there
FAR = {"requests_per_minute": 10_000_000, "tokens_per_minute": 2_000_000_000}
MINUTE_S = 60.0
TARGETS = {"requests_per_trip": 50, "over_admission": 0.01, "added_p99_ms": 5.0}


@dataclass(frozen=True)
class Size:
    """rates: requests a second for each of two workers. flood_s: more than a minute, or there is no full one."""

    rates: tuple[int, ...] = (100, 400, 1500)
    rate_s: float = 10.0
    # how many, requests/s of each
    tenants: tuple[tuple[int, float], ...] = ((20, 20.0), (100, 10.0), (300, 2.0))
    tenants_s: float = 30.0  # after warm_s, in which most of them come for the first time
    warm_s: float = 10.0
    floods: tuple[tuple[int, int], ...] = ((600, 2), (6000, 4))  # a limit, workers
    flood_s: float = 75.0
    flood_times: int = 5
    frozen_rate: int = 300
    frozen_s: float = 20.0


QUICK = Size(
    rates=(400,),
    rate_s=3.0,
    tenants=((20, 20.0),),
    tenants_s=4.0,
    warm_s=2.0,
    floods=((600, 2),),
    flood_s=6.0,
    frozen_s=6.0,
)
Measured = tuple[list[Row], list[dict[str, Any]]]  # of requests; of arms


@contextmanager
def running_redis() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its URL, and its process."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tidegate-limits-") as folder:
        argv = [str(find_redis(load_settings({}))), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        process = subprocess.Popen([*argv, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}/0", process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)


def arm(
    name: str,
    num_workers: int,
    *,
    rate: float,
    seconds: float,
    limits: dict[str, int],
    num_tenants: int = 1,
    warm_s: float = 0.0,
    halfway: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> tuple[list[Row], int]:
    """Rows of all workers, and their trips; both from warm_s on. halfway: done to Redis in the middle."""
    with running_redis() as (url, redis), tempfile.TemporaryDirectory(prefix="tidegate-limits-") as folder:
        start_s = time.perf_counter() + START_S
        plans = [
            Plan(
                out=f"{folder}/{at}.gz",
                redis_url=url,
                arm=name,
                number=at,
                num_workers=num_workers,
                start_s=start_s,
                seconds=seconds,
                rate=rate,
                estimated=900,
                actual=500,
                limits=limits,
                num_tenants=num_tenants,
                warm_s=warm_s,
            )
            for at in range(num_workers)
        ]
        command = [sys.executable, "-m", "perf.limits_worker"]
        workers = [
            subprocess.Popen(
                [*command, argument(plan)], cwd=ROOT, stdout=subprocess.PIPE, env=dict(os.environ)
            )
            for plan in plans
        ]
        if halfway is not None:
            time.sleep(max(0.0, start_s + seconds / 2 - time.perf_counter()))
            halfway(redis)
        trips = [int(worker.communicate()[0] or -1) for worker in workers]
        if min(trips) < 0:
            raise RuntimeError(f"a worker of {name} did not get to its end")
        found = [row for plan in plans for row in rows.read(Path(plan.out))]
    shifted = [_from(row, start_s) for row in found if row.intended_s >= start_s + warm_s]
    return shifted, sum(trips)


def _from(row: Row, start_s: float) -> Row:
    """Times since the arm's start, to the microsecond."""
    times = (round(each - start_s, 6) for each in (row.intended_s, row.sent_s, row.done_s))
    return Row(row.arm, row.round, *times, row.count)


def run(size: Size) -> Measured:
    kept: list[Row] = []
    arms: list[dict[str, Any]] = []

    def measure(part: str, name: str, num_workers: int, limit: int = 0, **how: Any) -> None:
        found, trips = arm(name, num_workers, **how)
        kept.extend(found)
        arms.append({"part": part, "arm": name, "workers": num_workers, "limit": limit, "trips": trips})
        print(f"{name}: {len(found)} requests, {trips} trips")

    for rate in size.rates:
        measure("rate", f"rate/{rate}", 2, rate=rate, seconds=size.rate_s, limits=FAR)
    for number, each in size.tenants:
        how = {"rate": number * each / 2, "seconds": size.warm_s + size.tenants_s, "warm_s": size.warm_s}
        measure("tenants", f"tenants/{number}", 2, limits=FAR, num_tenants=number, **how)
    for limit, num_workers in size.floods:
        rate = size.flood_times * limit / MINUTE_S / num_workers
        limits = {"requests_per_minute": limit}
        name = f"flood/{limit}/{num_workers}"
        measure("flood", name, num_workers, limit, rate=rate, seconds=size.flood_s, limits=limits)
    for name, halfway in (("frozen", _freeze), ("killed", _kill)):
        how = {"rate": size.frozen_rate, "seconds": size.frozen_s, "limits": FAR, "halfway": halfway}
        measure("frozen", f"frozen/{name}", 2, **how)
    return kept, arms


def _freeze(redis: subprocess.Popen[bytes]) -> None:
    redis.send_signal(signal.SIGSTOP)


def _kill(redis: subprocess.Popen[bytes]) -> None:
    redis.kill()


def fullest_minute(times_s: Sequence[float]) -> int:
    """The most that any sixty seconds let in."""
    ordered, first, most = sorted(times_s), 0, 0
    for at, time_s in enumerate(ordered):
        while time_s - ordered[first] >= MINUTE_S:
            first += 1
        most = max(most, at + 1 - first)
    return most


def summarise(kept: Sequence[Row], arms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for row in kept:
        by_arm[row.arm].append(row)
    found = [each | _figures(each, by_arm[each["arm"]]) for each in arms]
    return {"limits": {"targets": TARGETS, "arms": found}}


def _figures(of: dict[str, Any], kept: list[Row]) -> dict[str, Any]:
    took = [(row.done_s - row.sent_s) * 1000 for row in kept]
    admitted = [row.sent_s for row in kept if row.count]
    out: dict[str, Any] = {
        "requests": len(kept),
        "admitted": len(admitted),
        "requests_per_trip": round(len(kept) / max(1, of["trips"]), 1),
        "reserve_ms": _spread(took),
    }
    if of["part"] == "flood":
        out["fullest_minute"] = most = fullest_minute(admitted)
        out["over_admission"] = round(max(0.0, most / of["limit"] - 1), 5)
        out["is_full_minute"] = max(row.sent_s for row in kept) >= MINUTE_S
    if of["part"] == "frozen":
        middle_s = (max(row.intended_s for row in kept)) / 2
        before = [(row.done_s - row.sent_s) * 1000 for row in kept if row.intended_s < middle_s]
        after = [(row.done_s - row.sent_s) * 1000 for row in kept if row.intended_s >= middle_s]
        out["before_ms"], out["away_ms"] = _spread(before), _spread(after)
        out["added_ms"] = {
            name: round(out["away_ms"][name] - out["before_ms"][name], 3) for name in ("p50", "p99")
        }
    return out


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "p50": round(statistics.median(values), 4),
        "p99": round(rows.percentile(values, 99), 4),
        "max": round(max(values), 3),
    }


def show(summary: dict[str, Any]) -> None:
    for each in summary["limits"]["arms"]:
        line = f"{each['arm']:>16}: {each['requests']} requests, {each['requests_per_trip']} for each trip"
        line += f", reserve p50 {each['reserve_ms']['p50']} p99 {each['reserve_ms']['p99']} ms"
        if "over_admission" in each:
            minute = "fullest minute" if each["is_full_minute"] else "all of it, less than a minute"
            line += (
                f"; {minute} {each['fullest_minute']} of {each['limit']}, over {each['over_admission']:.2%}"
            )
        if "added_ms" in each:
            line += f"; added p50 {each['added_ms']['p50']} p99 {each['added_ms']['p99']} ms"
        print(line)


def keep(out: Path, measured: Measured, summary: dict[str, Any]) -> None:
    rows.write(out / "limits.jsonl.gz", measured[0])
    body = msgspec.json.encode({"environment": environment()} | summary)
    (out / "limits.json").write_bytes(msgspec.json.format(body, indent=2))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="half a minute: shows that everything works")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of rows and summary")
    args = parser.parse_args()
    measured = run(QUICK if args.quick else Size())
    summary = summarise(*measured)
    keep(args.out, measured, summary)
    show(summary)
    print(json.dumps(TARGETS))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
