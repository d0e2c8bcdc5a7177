"""Some parts of the scenario `cache`, each with its summary in a file of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from perf.cache import scenario
from perf.environment import environment

OUT = Path(__file__).parents[1] / "results" / "cache"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=scenario.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"all, or some of: {', '.join(scenario.PARTS)}"
    )
    parser.add_argument("--quick", action="store_true", help="seconds: shows that everything works")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    parts = scenario.PARTS | scenario.LONG
    if unknown := sorted(set(args.parts) - parts.keys()):
        parser.error(f"no such part: {', '.join(unknown)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.parts or scenario.PARTS:
        told = {"environment": environment()} | parts[name](args.out, args.quick)
        raw = msgspec.json.format(msgspec.json.encode(told), indent=2)
        (args.out / f"{name}.json").write_bytes(raw + b"\n")


if __name__ == "__main__":
    main()
