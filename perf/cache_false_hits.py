"""How often the cache would give another question's answer: `python perf/cache_false_hits.py [FILE] [--out FILE]`.

FILE is a labelled set as perf/eval_reader.py takes it. The pairs are those of perf/cache_pairs.py. Everything that
decides a hit by similarity runs here as in the gateway: encoder, hybrid index, rerank, reader, threshold, guards,
evidence. Each pair's first question has been answered and is alone in its scope; the second one is asked. Formulas:

    hits         share of the paraphrases that get the remembered answer
    false_hits   share of the swaps that do, with its upper 95 % bound
    at           the same by similarity alone (thresholds as they are usual elsewhere), for comparison
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from gateway.caching.entry import Entry, Piece
from gateway.caching.guards import objection
from gateway.caching.threshold import Thresholds, upper_bound
from gateway.generation import extractive
from gateway.pipeline.remember import stands_on
from gateway.pipeline.request import Evidence
from gateway.retrieval.rerank import reranked
from gateway.types import Passage
from perf.cache_pairs import Pair, pairs
from perf.eval_reader import DEFAULT, Corpus, Embed, candidates, encoder, index_of, load

K = 5
BUDGET = 0.005
ALONE = (0.70, 0.80, 0.90, 0.95)


class Judged(NamedTuple):
    pair: Pair
    similarity: float
    objects: str  # the first that objected; empty = a hit


def judge(corpus: Corpus, made: Sequence[Pair], embed: Embed) -> list[Judged]:
    texts = list(dict.fromkeys(text for pair in made for text in (pair.first, pair.asked)))
    vectors = dict(zip(texts, embed(texts), strict=True))
    index = index_of(corpus, embed(corpus.texts), np.ones(len(corpus.texts), bool))
    params = msgspec.convert({"mode": "fast"}, extractive.ReaderParams)
    threshold = Thresholds(BUDGET).start
    found: dict[str, list[Passage]] = {}
    entries: dict[str, Entry] = {}

    def passages(text: str) -> list[Passage]:
        if text not in found:
            found[text] = reranked(text, candidates(index, text, vectors[text]), K)
        return found[text]

    def answered(text: str) -> Entry:
        if text not in entries:
            answer = extractive.answer(text, passages(text), params)
            entries[text] = Entry(
                tenant_id="t", scope="s", digest=text, question=text, pieces=[Piece("", list(answer.citations))],
                passages=passages(text), tier="fast", edition="", finish_reason="stop", prompt_tokens=0,
                completion_tokens=0, epoch=0, created=0, expires=0,
            )  # fmt: skip
        return entries[text]

    judged = []
    for pair in made:
        similarity = float(vectors[pair.first] @ vectors[pair.asked])
        objects = "similarity" if similarity < threshold else objection(pair.first, pair.asked) or ""
        if not objects and not stands_on(answered(pair.first), Evidence(passages(pair.asked), [])):
            objects = "evidence"
        judged.append(Judged(pair, similarity, objects))
    return judged


def share(rows: Sequence[Judged]) -> dict[str, float]:
    count = sum(not row.objects for row in rows)
    return {"pairs": len(rows), "hits": count, "share": round(count / max(1, len(rows)), 5)}


def summary(rows: Sequence[Judged]) -> dict[str, object]:
    same, other = ([row for row in rows if row.pair.same is wanted] for wanted in (True, False))
    by_rule: dict[str, list[Judged]] = defaultdict(list)
    for row in rows:
        by_rule[f"{'paraphrase' if row.pair.same else 'swap'}: {row.pair.rule}"].append(row)
    wrong = share(other)
    return {
        "hits": share(same),
        "false_hits": wrong | {"upper_95": round(upper_bound(int(wrong["hits"]), len(other)), 5)},
        "by_rule": {name: share(found) for name, found in sorted(by_rule.items())},
        "objected": Counter(row.objects for row in other if row.objects).most_common(),
        "paraphrases_lost_to": Counter(row.objects for row in same if row.objects).most_common(),
        "by_similarity_alone": {
            f"{floor:.2f}": {
                "hits": round(float(np.mean([row.similarity >= floor for row in same])), 4),
                "false_hits": round(float(np.mean([row.similarity >= floor for row in other])), 4),
            }
            for floor in ALONE
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    corpus = load(args.file)
    made = pairs([(question.text, question.document) for question in corpus.questions], corpus.texts)
    started = time.perf_counter()
    rows = judge(corpus, made, encoder())
    told = summary(rows) | {
        "num_pairs": len(made), "file": args.file.name, "seconds": round(time.perf_counter() - started, 1),
        "wrong": [row.pair[:3] for row in rows if not row.objects and not row.pair.same],
    }  # fmt: skip
    text = json.dumps(told, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
