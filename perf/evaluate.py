"""`make eval`: answers measured on labelled questions, through a service of its own that is gone afterwards.

Without a FILE: the project's own set (perf/eval/documentation.json) and, where it lies, ../shared/eval/xquad_dev.json.
Results go to perf/out/eval; those of the own set are compared with the kept ones in perf/results/eval, which
--keep-results replaces. Other options go to `tidegate eval`: `make eval OPTIONS="--model deep --show-failures 20"`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from perf.service import Service, running_service

ROOT = Path(__file__).parents[1]
OWN = ROOT / "perf" / "eval" / "documentation.json"
SHARED = ROOT.parent / "shared" / "eval" / "xquad_dev.json"
OUT = ROOT / "perf" / "out" / "eval"
KEPT = ROOT / "perf" / "results" / "eval"


def files(named: Sequence[Path]) -> list[Path]:
    """What to measure; a set that is not part of the repository is left out with a notice where it is absent."""
    if named:
        return list(named)
    if SHARED.is_file():
        return [OWN, SHARED]
    print(f"skipped: {SHARED.name} is not there (wanted at ../shared/eval/); FILE=… takes any labelled file")
    return [OWN]


def command(
    service: Service, file: Path, model: str, options: Sequence[str], *, keep_results: bool
) -> list[str]:
    """The command line that measures one file with one model."""
    name = f"{file.stem}-{model}.json"
    is_own = file.resolve() == OWN
    out, before = (KEPT if keep_results and is_own else OUT) / name, KEPT / name
    compared = ["--compare", str(before)] if is_own and before.is_file() and out != before else []
    asked = ["eval", str(file), "--model", model, "--url", service.base_url, "--out", str(out)]
    return [sys.executable, "-m", "gateway", *asked, *compared, *options]


def parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own arguments, and what goes on to `tidegate eval`: files stand before a lone --, options behind it."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m perf.evaluate [FILE…] --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        dest="models",
        metavar="NAME",
        help="repeatable; default: fast and deep",
    )
    parser.add_argument("--keep-results", action="store_true", help="replace the kept results of the own set")
    args, options = parser.parse_known_args(arguments[at + 1 :])
    args.files = [Path(name) for name in arguments[:at]]
    return args, options


def main(arguments: Sequence[str]) -> int:
    args, options = parsed(arguments)
    worst = 0
    with running_service() as service:
        environ = os.environ | {"TG_API_KEY": service.key}
        for file in files(args.files):
            for model in args.models or ["fast", "deep"]:
                print(f"\n== {file.stem}, {model}", flush=True)
                line = command(service, file, model, options, keep_results=args.keep_results)
                worst = max(worst, subprocess.run(line, env=environ, cwd=ROOT, check=False).returncode)
    return worst


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
