"""Beside GPTCache: the same questions, the same vectors, in one run; rounds alternate.

Each remembers every question of the labelled set at once, and is asked the pairs of perf/cache_pairs.py. Ours is the
answer memory of a worker (perf/cache/memory.py), with everything that decides a hit. GPTCache is at its own threshold
(0.8 of its scale, a cosine of 0.6) and at three stricter ones.

    exact       a question that is remembered, word for word
    semantic    a paraphrase whose answer both give; of ours, evidence given and with the retrieval it needs
    hits        share of the paraphrases that get the answer of their own question
    false_hits  share of the swaps that get any answer
    crossed     share of the paraphrases that get another question's answer
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gateway.caching.key import normalised
from gateway.caching.threshold import upper_bound
from gateway.generation import extractive
from gateway.pipeline.request import Evidence
from gateway.retrieval.rerank import reranked
from perf.cache.memory import Ours, ours, said
from perf.cache_pairs import Pair, pairs
from perf.eval_reader import DEFAULT, Corpus, Embed, candidates, encoder, index_of, load
from perf.rows import Row

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv" / "gptcache"
SERVER = Path(__file__).with_name("gptcache_server.py")
THRESHOLDS = {0.8: 0.60, 0.9: 0.80, 0.95: 0.90, 0.975: 0.95}  # of GPTCache -> the cosine that it means
K = 5


@dataclass(frozen=True)
class Size:
    """num_questions: of the labelled set, 0 = all. per_round: hits of each kind."""

    num_questions: int = 0
    num_rounds: int = 7
    per_round: int = 150


QUICK = Size(num_questions=40, num_rounds=1, per_round=20)


class Told(NamedTuple):
    """What a pair's second question got: the remembered question, "" = no answer."""

    pair: Pair
    given: str

    @property
    def is_right(self) -> bool:
        own = self.pair.same and self.given == self.pair.first
        return own or normalised(self.given) == normalised(self.pair.asked)


class Measured(NamedTuple):
    """told: by arm. retrieval_s: of one question, beside the model's own time."""

    rows: list[Row]
    told: dict[str, list[Told]]
    embed_ms: float
    retrieval_ms: float


class Retrieved:
    """What retrieval finds for each text, as in the gateway: encoder, hybrid index, rerank."""

    def __init__(self, corpus: Corpus, texts: Sequence[str], embed: Embed) -> None:
        self.vectors = dict(zip(texts, embed(texts), strict=True))
        self._index = index_of(corpus, embed(corpus.texts), np.ones(len(corpus.texts), bool))
        self._params = msgspec.convert({"mode": "fast"}, extractive.ReaderParams)
        self._found: dict[str, Evidence] = {}

    def evidence(self, text: str) -> Evidence:
        if text not in self._found:
            self._found[text] = self.search(text)
        return self._found[text]

    def search(self, text: str) -> Evidence:
        vector = self.vectors[text]
        return Evidence(reranked(text, candidates(self._index, text, vector), K), [], vector, 0)

    def cites(self, text: str) -> list[Any]:
        return list(extractive.answer(text, self.evidence(text).passages, self._params).citations)


class Peer:
    """GPTCache in its own process."""

    def __init__(self, folder: Path, vectors: dict[str, Any]) -> None:
        kept = folder / "vectors.npz"
        np.savez(kept, texts=np.array(list(vectors)), vectors=np.array(list(vectors.values())))
        argv = [str(ENVIRONMENT / "bin" / "python"), str(SERVER), str(folder), str(kept)]
        self._process = subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, order: str, texts: Sequence[str], threshold: float = 0.8) -> tuple[list[str], list[float]]:
        """What it answered (the remembered question, "" = a miss), and the seconds each took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        told = {"do": order, "texts": list(texts), "threshold": threshold}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline() or "null")
        if reply is None:
            raise RuntimeError("GPTCache ended")
        answers = [str(each or "").removeprefix(said("")) for each in reply["answers"]]
        return answers, reply["seconds"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def is_installed() -> bool:
    return (ENVIRONMENT / "bin" / "python").exists()


def version() -> str:
    paths = [str(path) for path in ENVIRONMENT.glob("lib/python3*/site-packages")]
    return next((each.version for each in metadata.distributions(name="gptcache", path=paths)), "unknown")


@contextmanager
def _peer(vectors: dict[str, Any]) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory(prefix="tidegate-gptcache-") as folder:
        peer = Peer(Path(folder), vectors)
        try:
            yield peer
        finally:
            peer.close()


async def measure(size: Size) -> Measured:
    corpus, embed = load(DEFAULT), encoder()
    questions = corpus.questions[: size.num_questions or None]
    made = pairs([(each.text, each.document) for each in questions], corpus.texts)
    first = list(dict.fromkeys(each.text for each in questions))
    texts = list(dict.fromkeys([*first, *(pair.asked for pair in made)]))
    retrieved = Retrieved(corpus, texts, embed)
    embed_ms = _median_ms(lambda text: embed([text]), texts[: size.per_round])
    retrieval_ms = _median_ms(retrieved.search, texts[: size.per_round])
    with _peer(retrieved.vectors) as peer, tempfile.TemporaryDirectory(prefix="tidegate-ours-") as folder:
        async with ours(Path(folder)) as mine:
            await asyncio.to_thread(peer.do, "put", first)
            for text in first:
                await mine.remember("acme", text, retrieved.evidence(text), retrieved.cites(text))
            told = {f"gptcache/{at}": await asyncio.to_thread(_told, made, peer, at) for at in THRESHOLDS}
            told["tidegate"] = [
                Told(pair, await _given(mine, pair.asked, retrieved.evidence(pair.asked))) for pair in made
            ]
            both = [own.pair.asked for own, its in zip(told["tidegate"], told["gptcache/0.8"], strict=True)
                    if own.is_right and its.is_right and own.pair.same]  # fmt: skip
            rows = await _rounds(mine, peer, {"exact": first, "semantic": both}, retrieved, size)
    return Measured(rows, told, embed_ms, retrieval_ms)


def _told(made: Sequence[Pair], peer: Peer, threshold: float) -> list[Told]:
    answers, _ = peer.do("get", [pair.asked for pair in made], threshold)
    return [Told(pair, given) for pair, given in zip(made, answers, strict=True)]


async def _given(mine: Ours, text: str, evidence: Evidence) -> str:
    return (await mine.ask("acme", text, evidence))[1].removeprefix(said(""))


async def _rounds(
    mine: Ours, peer: Peer, texts: dict[str, list[str]], retrieved: Retrieved, size: Size
) -> list[Row]:
    out = []
    for number in range(size.num_rounds):
        for kind, all_texts in texts.items():
            at = number * size.per_round
            asked = [all_texts[(at + step) % len(all_texts)] for step in range(size.per_round)]
            _, seconds = await asyncio.to_thread(peer.do, "get", asked)  # our watch goes on meanwhile
            out += [Row(f"gptcache/{kind}", number, 0.0, 0.0, each) for each in seconds]
            for text in asked:
                evidence = retrieved.evidence(text)
                sent = time.perf_counter()
                verdict, _ = await mine.ask("acme", text, evidence)
                took = time.perf_counter() - sent
                if kind == "exact" and verdict != kind:
                    raise RuntimeError(f"a remembered question was {verdict}: {text}")
                out.append(Row(f"tidegate/{kind}", number, 0.0, 0.0, took))
    return out


def _median_ms(work: Any, texts: Sequence[str]) -> float:
    took = []
    for text in texts:
        started = time.perf_counter()
        work(text)
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def keep(path: Path, measured: Measured) -> None:
    """What every pair got, by arm."""
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "rule", "same", "first", "asked", "given"])
        for arm, told in measured.told.items():
            writer.writerows(
                [arm, each.pair.rule, int(each.pair.same), each.pair.first, each.pair.asked, each.given]
                for each in told
            )


def summarise(measured: Measured) -> dict[str, Any]:
    times = {
        arm: statistics.median(row.latency_ms for row in measured.rows if row.arm == arm)
        for arm in dict.fromkeys(row.arm for row in measured.rows)
    }
    found = {arm: _shares(told) for arm, told in measured.told.items()}
    mine, its = found["tidegate"], found["gptcache/0.8"]
    model, search = measured.embed_ms, measured.retrieval_ms
    return {
        "version": version(),
        "p50_ms": times | {"the model": model, "search and rerank": search},
        "time_over_gptcache": {
            "exact": times["tidegate/exact"] / times["gptcache/exact"],
            "exact, its model counted": times["tidegate/exact"] / (times["gptcache/exact"] + model),
            "semantic": times["tidegate/semantic"] / times["gptcache/semantic"],
            "semantic, both with the model": (times["tidegate/semantic"] + model)
            / (times["gptcache/semantic"] + model),
            "semantic, with the model and our retrieval": (times["tidegate/semantic"] + model + search)
            / (times["gptcache/semantic"] + model),
        },
        "pairs": found,
        "wrong": [
            (each.given, each.pair.asked)
            for each in measured.told["tidegate"]
            if each.given and not each.is_right
        ],
        "false_hits_over_gptcache": mine["false_hits"] / its["false_hits"] if its["false_hits"] else None,
        "hits_over_gptcache": mine["hits"] / its["hits"],
    }


def _shares(told: Sequence[Told]) -> dict[str, float]:
    same, other = ([each for each in told if each.pair.same is wanted] for wanted in (True, False))
    wrong = sum(bool(each.given) and not each.is_right for each in other)
    return {
        "hits": sum(each.is_right for each in same) / len(same),
        "crossed": sum(bool(each.given) and not each.is_right for each in same) / len(same),
        "false_hits": wrong / len(other),
        "false_hits_upper_95": upper_bound(wrong, len(other)),
        "paraphrases": len(same),
        "swaps": len(other),
    }


def show(summary: dict[str, Any]) -> None:
    print("\nbeside GPTCache " + summary["version"] + " (p50, ms)")
    for arm, value in summary["p50_ms"].items():
        print(f"  {arm:20} {value:8.3f}")
    for name, value in summary["time_over_gptcache"].items():
        print(f"  time, {name:44} 1/{1 / value:.1f}")
    print("  (targets: exact 1/50, semantic 1/3)")
    for arm, row in summary["pairs"].items():
        print(
            f"  {arm:16} hits {row['hits']:.4f}  crossed {row['crossed']:.4f}  false {row['false_hits']:.4f} "
            f"(upper 95 % {row['false_hits_upper_95']:.4f})"
        )
    print(
        f"  false hits over its {summary['false_hits_over_gptcache']} (target 0.04), "
        f"hits over its {summary['hits_over_gptcache']:.3f} (target 0.95)"
    )
