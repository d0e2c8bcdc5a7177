"""A tier on another server beside LiteLLM, in front of the same one: `python -m perf.upstream_relay`, also a scenario
of perf.bench.

One upstream (perf/upstream.py: 64 prepared chunks an answer, in one go or token by token) stands behind both at the
same time, and both have the same number of workers. Every chunk that comes in goes out as an event of its own, and
every stream is checked chunk by chunk. Arms, interleaved in one run:

    upstream   the upstream itself, read by the same client (the floor)
    bare       through Envoy and a handler of the gateway's own libraries that only passes bytes on: the way's floor
    plain      through Envoy and the gateway, `retrieval: off`: nothing is searched for, as LiteLLM does
    documents  the same with retrieval: passages are found, the prompt holds them, marks are verified
    litellm    the LiteLLM proxy

rate    chunks/s at 32 streams, rounds of each arm in turn
first   time to the first chunk at concurrency 1, all arms in turn
row     the same, FIRST_IN_A_ROW of each arm in a row: what comes in between leaves every process cold
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from perf import bare_relay, litellm_proxy, rows
from perf.bare_edge import bare_behind_envoy
from perf.environment import environment
from perf.litellm_proxy import Proxy
from perf.profile import processor_seconds, spent, tree_seconds
from perf.rounds import Ask, Http, check_ours, check_plain, first_chunks, round_of
from perf.service import Service, free_port, running_service
from perf.stacks import stacks_of
from perf.upstream import TOKEN_BY_TOKEN
from perf.upstream_report import Measured, show, summarise

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "upstream"
TIER = "relay"
QUESTION = "What happens when a Triton replica dies?"
NUM_STREAMS = 32
START_S = 10.0
FIRST_IN_A_ROW = 30
TIERS_FILE = """[{tier}]
base_url = "http://127.0.0.1:{port}/v1"
model = "relay"
slots = 1024
fallback = []
"""


@dataclass(frozen=True)
class Size:
    num_rounds: int = 5
    round_s: float = 3.0
    num_first: int = 150
    workers: tuple[int, ...] = (1, 2)
    is_each: bool = False  # the upstream writes token by token


QUICK = Size(num_rounds=1, round_s=0.5, num_first=5, workers=(1,))


def body_of(**extension: object) -> dict[str, Any]:
    """What all arms are asked. extension: the `tidegate` object."""
    asked = {"model": TIER, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    return asked | ({"tidegate": extension} if extension else {})


async def measure(
    service: Service,
    upstream_port: int,
    upstream_pid: int,
    bare: tuple[int, list[int]],
    proxy: Proxy | None,
    num_workers: int,
    size: Size,
) -> Measured:
    ours = service.settings.port, service.headers, check_ours
    asked = {
        "upstream": (upstream_port, {}, check_plain, body_of()),
        "bare": (bare[0], {}, check_plain, body_of()),
        "plain": (*ours, body_of(retrieval="off")),
        "documents": (*ours, body_of()),
    }
    if proxy is not None:
        asked["litellm"] = (proxy.port, proxy.headers, check_plain, body_of())
    https = {
        name: await Http.connect(port, body, headers, verify, NUM_STREAMS)
        for name, (port, headers, verify, body) in asked.items()
    }
    arms = {name: http.asks() for name, http in https.items()}
    out = Measured(num_workers, is_each=size.is_each)
    trees = {"upstream": upstream_pid, **dict(zip(("bare envoy", "bare worker"), bare[1], strict=True))}
    trees |= {"litellm": proxy.pid} if proxy is not None else {}
    try:
        for name, asks in arms.items():  # warm every worker of every path before anything counts
            await round_of(name, 0, asks, 1.0)
        await _rates(service, trees, arms, size, out)
        out.rows += await first_chunks("first", arms, size.num_first)
        out.rows += await first_chunks("row", arms, size.num_first, in_a_row=FIRST_IN_A_ROW)
        if size is not QUICK:
            out.stacks = await stacks_of(service, "gateway.app", arms["plain"])
    finally:
        for http in https.values():
            http.close()
    return out


async def _rates(
    service: Service, trees: dict[str, int], arms: dict[str, list[Ask]], size: Size, out: Measured
) -> None:
    def seconds() -> dict[str, float]:
        others = {name: tree_seconds(pid) for name, pid in trees.items()}
        return processor_seconds(service) | others

    used: dict[str, Counter[str]] = {name: Counter() for name in arms}
    for number in range(size.num_rounds):
        for name, asks in arms.items():
            before = seconds()
            out.rows += await round_of(f"rate/{name}", number, asks, size.round_s)
            used[name].update({part: value - before.get(part, 0) for part, value in seconds().items()})
    for name, total in used.items():
        num_chunks = sum(each.count for each in out.rows if each.arm == f"rate/{name}")
        out.profile[name] = spent({}, total, num_chunks)


@contextmanager
def upstream(*, is_each: bool = False) -> Iterator[tuple[int, int]]:
    """The upstream's port and process id."""
    port = free_port()
    argv = [sys.executable, "-m", "perf.upstream", str(port), *([TOKEN_BY_TOKEN] if is_each else [])]
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        uvloop.run(_until_open(port))
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


async def _until_open(port: int) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def run(size: Size) -> list[Measured]:
    """By number of workers: the service and, where it is installed, LiteLLM, measured in this process."""
    installed = litellm_proxy.is_installed()
    if not installed:
        print("LiteLLM is left out: its environment is not there (scripts/tools litellm)")
    found = []
    for workers in size.workers:
        with (
            upstream(is_each=size.is_each) as (port, pid),
            tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder,
        ):
            tiers = Path(folder) / "tiers.toml"
            tiers.write_text(TIERS_FILE.format(tier=TIER, port=port))
            peer = litellm_proxy.litellm_proxy(port, num_workers=workers) if installed else nullcontext()
            settings = {"gateway_workers": workers, "tiers_file": str(tiers), "log_level": "warning"}
            bare = bare_behind_envoy(bare_relay.worker(port))
            with running_service(**settings) as service, bare as bare_arm, peer as proxy:
                found.append(uvloop.run(measure(service, port, pid, bare_arm, proxy, workers, size)))
    return found


def keep(folder: Path, measured: list[Measured]) -> dict[str, Any]:
    """Rows, stacks and the summary; of an earlier run the other parts stay."""
    path = folder / "upstream.json"
    summary: dict[str, Any] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    for each in measured:
        name = f"workers-{each.num_workers}" + (f"-{TOKEN_BY_TOKEN}" if each.is_each else "")
        rows.write(folder / f"{name}.jsonl.gz", each.rows)
        if each.stacks:
            with gzip.open(folder / f"{name}-stacks.txt.gz", "wt") as file:
                file.write(each.stacks)
        peer = {"litellm": litellm_proxy.version()}
        summary[name] = {"environment": environment() | peer, **summarise(each)}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2))
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes: shows that it works")
    parser.add_argument("--workers", type=int, help="only with so many workers")
    parser.add_argument("--each", action="store_true", help="the upstream writes token by token")
    parser.add_argument("--out", type=Path, help="folder for rows and summary; nothing is kept without it")
    args = parser.parse_args()
    size = QUICK if args.quick else Size()
    size = replace(size, is_each=args.each, workers=(args.workers,) if args.workers else size.workers)
    measured = run(size)
    if args.out:
        keep(args.out, measured)
    for each in measured:
        show(summarise(each))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
