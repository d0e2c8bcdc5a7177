"""`make perf-analyzer`: NVIDIA's own load generator over our models, through Envoy's inner listener.

Starts the whole service, runs the real perf_analyzer on each model at a few concurrencies, keeps what it wrote
(one CSV a model) and draws latency over throughput as one picture. perf_analyzer is a closed loop: every one of its
clients waits for its answer before it asks again, so its latencies hold no waiting before the send. The latency of a
decoupled model is that of the whole stream.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from gateway.checkpoint.errors import CheckpointError
from gateway.generation.extractive import ReaderParams
from gateway.retrieval.triton_models import TritonRetriever
from gateway.settings import Settings
from gateway.tensors import EMBED, READER, RETRIEVE, Model, generate_model
from gateway.tier_config import generate_tiers
from gateway.triton import TritonClient
from gateway.types import Passage, Scope
from perf.checkpoint import random_tier, tiers_file
from perf.curves import draw
from perf.environment import environment
from perf.overhead import QUESTIONS
from perf.points import NUM_TOKENS, Point, merged, parse
from perf.service import running_service

ROOT = Path(__file__).parents[1]
TOOL = ROOT / ".venv" / "perf-analyzer"
RESULTS = Path(__file__).parent / "results" / "perf_analyzer"
SCOPE = Scope(tenant_id="default", k=5)
MEASURE_S = 180.0  # limit of one concurrency
CONCURRENCIES = (1, 2, 4, 8, 16, 32)

Step = dict[str, list[Any]]  # one request: tensor -> values


class ToolMissing(RuntimeError):
    """The text is one sentence that says what to do."""


@dataclass(frozen=True)
class Load:
    """What one model is asked. steps: the requests, in turn.

    turns: requests of each client in a window, for a model whose answers take about as long as a window; 0 = by time.
    """

    model: Model
    steps: Sequence[Step]
    concurrencies: tuple[int, ...] = CONCURRENCIES
    turns: int = 0


def tool_environment() -> dict[str, str]:
    """Variables under which the binary finds its libraries. Raises: ToolMissing."""
    if not binary().exists():
        raise ToolMissing(
            "perf_analyzer is not installed: run `make perf-analyzer`, or scripts/tools perf-analyzer."
        )
    folders = [TOOL / "lib", *TOOL.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")]
    return {"PATH": os.defpath, "LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))}


def binary() -> Path:
    return TOOL / "bin" / "perf_analyzer"


def command(
    load: Load, target: str, concurrency: int, data: Path, report: Path, window_s: float
) -> list[str]:
    """How to measure one concurrency.

    Three windows are averaged whatever they show (stability 999 %): on a machine that client and servers share, the
    tool's own criterion would throw away the very points where queues begin.
    """
    argv = [str(binary()), "-m", load.model.name, "-i", "grpc", "-u", target, "--input-data", str(data)]
    argv += ["--concurrency-range", f"{concurrency}:{concurrency}", "--percentile", "95", "-f", str(report)]
    argv += ["--max-trials", "3", "--stability-percentage", "999"]
    if load.turns:
        argv += ["--measurement-mode", "count_windows"]
        argv += ["--measurement-request-count", str(load.turns * max(concurrency, 4))]
    else:
        argv += ["--measurement-interval", str(int(window_s * 1000))]
    return [*argv, "--streaming"] if load.model.decoupled else argv


def loads(settings: Settings, passages: Sequence[Passage]) -> list[Load]:
    """Every model that callers reach, with requests as the gateway makes them."""
    scope, found = _text(SCOPE), _text(list(passages))
    reader = _text(ReaderParams(mode="fast"))
    out = [
        Load(EMBED, [{"text": [question]} for question in QUESTIONS]),
        Load(RETRIEVE, [{"text": [question], "scope": [scope]} for question in QUESTIONS]),
        Load(READER, [{"question": [q], "passages": [found], "params": [reader]} for q in QUESTIONS]),
    ]
    for tier in generate_tiers(settings):
        steps = [
            {"prompt": [question], "max_tokens": [NUM_TOKENS], "ignore_eos": [True]} for question in QUESTIONS
        ]
        fitting = tuple(number for number in CONCURRENCIES if number <= tier.slots)
        out.append(Load(generate_model(tier.name), steps, fitting, turns=1))
    return out


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def measure(load: Load, target: str, window_s: float) -> str:
    """perf_analyzer's report on one model. Raises: RuntimeError with the tool's own words."""
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder) / "data.json", Path(folder) / "report.csv"
        data.write_text(json.dumps({"data": load.steps}))
        for concurrency in load.concurrencies:
            argv = command(load, target, concurrency, data, report, window_s)
            done = subprocess.run(
                argv,
                env=tool_environment(),
                capture_output=True,
                text=True,
                timeout=MEASURE_S,
                check=False,
            )
            if done.returncode or not report.exists():
                raise RuntimeError(f"perf_analyzer failed on {load.model.name}:\n{done.stdout}{done.stderr}")
            reports.append(report.read_text())
            report.unlink()
    return merged(reports)


async def some_passages(target: str) -> list[Passage]:
    client = TritonClient(target)
    try:
        return (await TritonRetriever(client).retrieve(QUESTIONS[0], SCOPE, timeout_s=10)).passages
    finally:
        await client.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--window-s", type=float, default=1.5, help="length of each of a point's three windows"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two concurrencies and short windows: shows that it works"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the reports and the picture")
    args = parser.parse_args()
    window_s = 0.4 if args.quick else args.window_s
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        tool_environment()
    except ToolMissing as missing:
        print(missing)
        return 2
    env = environment()
    with tempfile.TemporaryDirectory() as folder, running_service(**_tier(Path(folder))) as service:
        target = service.settings.triton_target
        for load in loads(service.settings, uvloop.run(some_passages(target))):
            if args.quick:
                load = replace(load, concurrencies=load.concurrencies[:2])
            report = measure(load, target, window_s)
            (args.out / f"{load.model.name}.csv").write_text(report)
            show(load.model.name, parse(report))
    (args.out / "environment.json").write_bytes(msgspec.json.format(msgspec.json.encode(env), indent=2))
    print(f"\nreports and picture: {draw(args.out)}")
    return 0


def _tier(folder: Path) -> dict[str, str]:
    """Settings of a generative tier; none, having said why, where no checkpoint can be made."""
    try:
        return tiers_file(folder, random_tier(slots=max(CONCURRENCIES), context_tokens=256))
    except CheckpointError as missing:
        print(f"the generative tier is left out: {missing}")
        return {}


def show(model: str, points: list[Point]) -> None:
    print(f"\n{model}, through Envoy's inner listener")
    for point in points:
        print(
            f"  {point.concurrency:3} clients  {point.requests_per_s:7.0f} requests/s  "
            f"p50 {point.p50_ms:7.2f} ms  p99 {point.p99_ms:7.2f} ms"
        )


if __name__ == "__main__":
    raise SystemExit(main())
