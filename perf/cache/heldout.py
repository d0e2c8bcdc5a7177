"""The guards on questions and rules that they were not written with: `python -m perf.cache.heldout --out NAME …`.

    --documentation   the project's own labelled questions
    --places N        seven questions each on so many invented places (--seed)
    --faq FILE        the questions of a pod file; repeatable. Its text is not kept in the rows.
    --half 0|1        of the tables of words that the rules exchange; both where it is not given

Texts are those of perf/cache/heldout_texts.py, pairs those of perf/cache/heldout_pairs.py; each source is an index of
its own. What decides a hit runs as in perf/cache_false_hits.py. `guards_alone` counts what no guard objects to, with
any similarity and evidence. Writes NAME.json and NAME-pairs.csv.gz to perf/results/cache.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from gateway.caching.guards import objection
from gateway.caching.threshold import upper_bound
from perf.cache.heldout_pairs import Draw, heldout_pairs
from perf.cache.heldout_texts import Texts, almanac, documentation, faq
from perf.cache_false_hits import Judged, judge, summary
from perf.cache_pairs import Pair, names_in
from perf.environment import environment
from perf.eval_reader import Corpus, Embed, encoder

OUT = Path(__file__).parents[1] / "results" / "cache"
MIN_NAME = 4  # letters
COLUMNS = ("source", "number", "rule", "same", "similarity", "objects", "guards", "first", "asked")


def drawn(texts: Texts, half: int | None, seed: int) -> list[Pair]:
    names = dict.fromkeys(name for text in texts.texts for name in names_in(text) if len(name) >= MIN_NAME)
    return heldout_pairs(texts.questions, Draw(list(names), half), seed)


def judged(texts: Texts, made: list[Pair], embed: Embed) -> list[Judged]:
    return judge(Corpus([""] * len(texts.texts), texts.texts, []), made, embed)


def bounded(rows: list[Judged]) -> dict[str, Any]:
    """The summary, with the bounds of shares, and what the guards alone would let by."""
    told = summary(rows)
    swaps = [row for row in rows if not row.pair.same]
    passed = sum(objection(row.pair.first, row.pair.asked) is None for row in swaps)
    paraphrases = [row for row in rows if row.pair.same]
    missed = sum(bool(row.objects) for row in paraphrases)
    told["hits"] |= {"lower_95": round(1 - upper_bound(missed, len(paraphrases)), 4)}  # type: ignore[operator]
    told["guards_alone"] = {
        "false_hits": passed,
        "share": round(passed / max(1, len(swaps)), 5),
        "upper_95": round(upper_bound(passed, len(swaps)), 5),
    }
    told["wrong"] = [row.pair[:3] for row in swaps if not row.objects]
    return told


def write_rows(path: Path, sources: dict[str, tuple[Texts, list[Judged]]]) -> None:
    buffer = io.StringIO()
    sheet = csv.writer(buffer)
    sheet.writerow(COLUMNS)
    for source, (texts, rows) in sources.items():
        number = {question: at for at, (question, _) in enumerate(texts.questions)}
        for row in rows:
            pair = row.pair
            words = ("", "") if source == "faq" else (pair.first, pair.asked)
            guards = objection(pair.first, pair.asked) or ""
            told = (source, number[pair.first], pair.rule, int(pair.same), f"{row.similarity:.4f}")
            sheet.writerow([*told, row.objects, guards, *words])
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write(buffer.getvalue().encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documentation", action="store_true")
    parser.add_argument("--places", type=int, default=0)
    parser.add_argument("--faq", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--half", type=int, choices=(0, 1))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="heldout")
    args = parser.parse_args()
    texts = {"documentation": documentation()} if args.documentation else {}
    if args.places:
        texts["almanac"] = almanac(args.places, args.seed)
    if args.faq:
        texts["faq"] = faq(args.faq)
    embed, sources = encoder(), dict[str, tuple[Texts, list[Judged]]]()
    for name, each in texts.items():
        sources[name] = each, judged(each, drawn(each, args.half, args.seed), embed)
    every = [row for _, rows in sources.values() for row in rows]
    told: dict[str, Any] = {
        "environment": environment(),
        "asked": {"half": args.half, "seed": args.seed, "faq": [file.name for file in args.faq]},
        "all": bounded(every),
        "by_source": {
            name: {"questions": len(each.questions)} | bounded(rows) for name, (each, rows) in sources.items()
        },
    }
    text = json.dumps(told, indent=1)
    print(json.dumps(told["all"], indent=1))
    (OUT / f"{args.out}.json").write_text(text + "\n")
    write_rows(OUT / f"{args.out}-pairs.csv.gz", sources)


if __name__ == "__main__":
    main()
