"""`python -m perf.load SCENARIO…`: measure under load that does not wait for answers; rows, page and picture are kept.

A scenario is a name from perf/load/scenarios/ or the path of a TOML file. Several run one after the other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from perf.environment import environment, loop_ms
from perf.load import charts, hold, report, rows, runs
from perf.load.arms import ArmMissing
from perf.load.rows import LoadRow
from perf.load.scenario import Scenario, ScenarioError, load, names

OUT = Path(__file__).parents[1] / "out" / "load"
QUICK = 0.25


def run(scenario: Scenario, out: Path, peak: float, wanted: list[str]) -> dict[str, Any]:
    """Every arm in turn, in one run. Returns figures by arm."""
    folder = out / scenario.name
    env = environment()
    found: dict[str, dict[str, Any]] = {}
    kept: dict[str, list[LoadRow]] = {}
    for arm in wanted or scenario.arms:
        print(f"== {scenario.name}: {arm} (a million additions now take {loop_ms():.0f} ms)", flush=True)
        try:
            measured = hold.run(scenario) if scenario.kind == "hold" else runs.run_arm(arm, scenario, peak)
        except ArmMissing as missing:
            print(f"  left out: {missing}")
            found[arm] = {"missing": str(missing), "figures": {}}
            continue
        rows.write(folder / f"{arm}.jsonl.gz", measured.rows)
        kept[arm] = measured.rows
        found[arm] = {"peak": measured.peak, "probes": measured.probes, "figures": measured.figures}
        if scenario.needs_peak:
            peak = peak or measured.peak  # every arm gets the same offered load
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"environment": env, "scenario": scenario, "arms": found}
    (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2))
    (folder / "report.md").write_text(report.page(scenario, found, env))
    if scenario.kind == "phases" and kept:
        charts.draw(folder, scenario, found, kept)
    print(report.page(scenario, found, env))
    print(f"rows, summary, page: {folder}")
    return found


def shortened(scenario: Scenario) -> Scenario:
    """A quarter of the time: shows that everything works, and no more."""
    replace = msgspec.structs.replace
    phases = [
        replace(p, duration_s=max(2.0, p.duration_s * QUICK), warm_s=p.warm_s * QUICK)
        for p in scenario.phases
    ]
    size = scenario.rejection
    return replace(
        scenario,
        phases=phases,
        peak=replace(scenario.peak, probe_s=4.0, warm_s=1.0, max_probes=4),
        rejection=replace(size, num_accepted=40, num_rejected=400),
        hold=replace(scenario.hold, num_streams=min(200, scenario.hold.num_streams), hold_s=4.0, churn_s=0.0),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m perf.load", description=__doc__.splitlines()[0])
    parser.add_argument(
        "scenarios", nargs="+", metavar="SCENARIO", help=f"one of {', '.join(names())}; or a file"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of rows, summaries, pages and pictures")
    parser.add_argument("--peak", type=float, default=0.0, help="G in requests/s, instead of looking for it")
    parser.add_argument("--arms", default="", help="only these, with commas between")
    parser.add_argument("--quick", action="store_true", help="a quarter of the time: shows that it works")
    args = parser.parse_args()
    try:
        wanted = [load(name) for name in args.scenarios]
    except ScenarioError as error:
        parser.error(str(error))
    for scenario in wanted:
        chosen = shortened(scenario) if args.quick else scenario
        run(chosen, args.out, args.peak, [arm for arm in args.arms.split(",") if arm])
    return 0


if __name__ == "__main__":
    sys.exit(main())
