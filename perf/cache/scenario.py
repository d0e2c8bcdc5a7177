"""The scenario `cache` of the benchmark: its parts, their sizes, what is kept of each.

hits      an exact hit beside a bare handler (hits.py)         gptcache  beside GPTCache (peer.py)
tenants   probes across tenants (tenants.py)                   edit      one document of 1,000 under load (edit.py)
day       a Zipf day over the service (day.py)                 eviction  the policy beside LRU (eviction.py)
ailments  hits and misses while Redis ails (ailments.py)

`python -m perf.cache PART… [--quick] [--out FOLDER]` runs some of them and keeps FOLDER/<part>.json. The part
`whole-day` is `day` with 200,000 questions.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from perf import rows
from perf.cache import ailments, charts, day, edit, eviction, hits, peer, tenants

Part = Callable[[Path, bool], dict[str, Any]]


def run_hits(out: Path, quick: bool) -> dict[str, Any]:
    measured = hits.run(hits.QUICK if quick else hits.Size())
    rows.write(out / "hits.jsonl.gz", measured.rows)
    if measured.stacks:
        with gzip.open(out / "hits-worker-stacks.txt.gz", "wt") as file:
            file.write(measured.stacks)
    summary = hits.summarise(measured)
    hits.show(summary)
    return summary


def run_gptcache(out: Path, quick: bool) -> dict[str, Any]:
    if not peer.is_installed():
        print("GPTCache is left out: its environment is not there (scripts/tools gptcache)")
        return {}
    measured = uvloop.run(peer.measure(peer.QUICK if quick else peer.Size()))
    rows.write(out / "gptcache.jsonl.gz", measured.rows)
    peer.keep(out / "pairs.csv.gz", measured)
    summary = peer.summarise(measured)
    charts.draw_peer(out, summary)
    peer.show(summary)
    return summary


def run_tenants(out: Path, quick: bool) -> dict[str, Any]:
    summary = tenants.run(tenants.QUICK if quick else tenants.Size())
    tenants.show(summary)
    return summary


def run_edit(out: Path, quick: bool) -> dict[str, Any]:
    found, summary = edit.run(edit.QUICK if quick else edit.Size())
    rows.write(out / "edit.jsonl.gz", found)
    edit.show(summary)
    return summary


def run_day(out: Path, quick: bool) -> dict[str, Any]:
    return _day(out, day.QUICK if quick else day.Size())


def run_whole_day(out: Path, quick: bool) -> dict[str, Any]:
    return _day(out, day.QUICK if quick else day.WHOLE)


def _day(out: Path, size: day.Size) -> dict[str, Any]:
    measured = day.run(size)
    day.keep(out / "day-with.csv.gz", measured.with_cache)
    day.keep(out / "day-without.csv.gz", measured.without)
    summary = day.summarise(measured)
    charts.draw_day(out, measured, summary)
    day.show(summary)
    return summary


def run_eviction(out: Path, quick: bool) -> dict[str, Any]:
    summary = eviction.run(eviction.QUICK if quick else eviction.Size())
    charts.draw_eviction(out, summary)
    eviction.show(summary)
    return summary


def run_ailments(out: Path, quick: bool) -> dict[str, Any]:
    found = ailments.run(ailments.QUICK if quick else ailments.Size())
    rows.write(out / "ailments.jsonl.gz", found)
    summary = ailments.summarise(found)
    ailments.show(summary)
    return summary


PARTS: dict[str, Part] = {
    "hits": run_hits,
    "gptcache": run_gptcache,
    "tenants": run_tenants,
    "edit": run_edit,
    "day": run_day,
    "eviction": run_eviction,
    "ailments": run_ailments,
}
LONG: dict[str, Part] = {"whole-day": run_whole_day}  # only where it is asked for: half an hour


def run(out: Path, quick: bool) -> dict[str, Any]:
    return {name: part(out, quick) for name, part in PARTS.items()}
