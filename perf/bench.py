"""`make bench`: every scenario in one run, arms interleaved; rows and one summary are kept.

overhead   what the service adds to the bare parts (perf/overhead.py)
relay      what a token costs on its way, beside a bare gRPC client and LiteLLM (perf/relay.py)
upstream   a tier on another server beside LiteLLM in front of the same one (perf/upstream_relay.py)
start      how long the service takes to be ready (perf/starts.py)
answers    how fast whole answers of the quoting tiers are (perf/answers.py)
ingest     what ingest costs: its rate, the latency beside it, its memory (perf/ingest.py)
generate   what Triton costs a generative tier (perf/generate.py)
cache      what a remembered answer costs and saves, beside GPTCache and LRU (perf/cache)
limits     what limits cost and how well they hold, over Redis and without it (perf/limits.py)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from perf import (
    answers,
    generate,
    ingest,
    limits,
    overhead,
    relay,
    relay_report,
    report,
    rows,
    starts,
    upstream_relay,
    upstream_report,
)
from perf.cache import scenario as cache
from perf.environment import environment


def run_overhead(out: Path, quick: bool) -> dict[str, Any]:
    added, rate, profile = overhead.run(overhead.QUICK if quick else overhead.Size())
    rows.write(out / "added_latency.jsonl.gz", added)
    rows.write(out / "retrieve_rate.jsonl.gz", rate)
    summary = overhead.summarise(added, rate, profile)
    overhead.show(summary)
    return summary


def run_starts(out: Path, quick: bool) -> dict[str, Any]:
    found = starts.run(starts.QUICK if quick else starts.Size())
    rows.write(out / "starts.jsonl.gz", found)
    summary = starts.summarise(found)
    starts.show(summary)
    return summary


def run_relay(out: Path, quick: bool) -> dict[str, Any]:
    measured = relay.run(relay.QUICK if quick else relay.Size())
    relay.keep(out, measured)
    summary = relay_report.summarise(measured)
    relay_report.show(summary)
    return {"relay": summary}


def run_upstream(out: Path, quick: bool) -> dict[str, Any]:
    folder = upstream_relay.RESULTS if out == report.LATEST and not quick else out / "upstream"
    measured = upstream_relay.run(upstream_relay.QUICK if quick else upstream_relay.Size())
    for each in measured:
        upstream_report.show(upstream_report.summarise(each))
    return {"upstream": upstream_relay.keep(folder, measured)}


def run_generate(out: Path, quick: bool) -> dict[str, Any]:
    found = generate.run(generate.QUICK if quick else generate.Size())
    if found is None:
        return {}
    rows.write(out / "generate.jsonl.gz", found[0])
    summary = generate.summarise(*found)
    generate.show(summary)
    return {"generate": summary}


def run_answers(out: Path, quick: bool) -> dict[str, Any]:
    size = answers.QUICK if quick else answers.Size()
    found = answers.run(size)
    rows.write(out / "answers.jsonl.gz", found)
    summary = answers.summarise(found, size.flood_s)
    answers.show(summary)
    return summary


def run_ingest(out: Path, quick: bool) -> dict[str, Any]:
    rate, latency, memory = ingest.run(ingest.QUICK if quick else ingest.Size())
    rows.write(out / "ingest_rate.jsonl.gz", rate)
    rows.write(out / "ingest_latency.jsonl.gz", latency)
    summary = ingest.summarise(rate, latency, memory)
    ingest.show(summary)
    return summary


def run_limits(out: Path, quick: bool) -> dict[str, Any]:
    folder = limits.RESULTS if out == report.LATEST and not quick else out / "limits"
    measured = limits.run(limits.QUICK if quick else limits.Size())
    summary = limits.summarise(*measured)
    limits.keep(folder, measured, summary)
    limits.show(summary)
    return summary


def run_cache(out: Path, quick: bool) -> dict[str, Any]:
    folder = report.LATEST.with_name("cache") if out == report.LATEST else out / "cache"
    return {"cache": cache.run(folder, quick)}


SCENARIOS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "overhead": run_overhead,
    "relay": run_relay,
    "upstream": run_upstream,
    "start": run_starts,
    "answers": run_answers,
    "ingest": run_ingest,
    "generate": run_generate,
    "cache": run_cache,
    "limits": run_limits,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"all, or some of: {', '.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute or two, not many: shows that everything works"
    )
    parser.add_argument("--out", type=Path, default=report.LATEST, help="folder of rows and summary")
    args = parser.parse_args()
    unknown = sorted(set(args.scenarios) - SCENARIOS.keys())
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}")
    env = environment()
    print(json.dumps(env, indent=2))
    summary: dict[str, Any] = {"environment": env}
    for name in args.scenarios or SCENARIOS:
        print(f"\n== {name}")
        summary |= SCENARIOS[name](args.out, args.quick)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2))
    if args.out == report.LATEST and not args.quick and not args.scenarios:
        report.write(args.out)
    print(f"\nrows and summary: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
