"""How good answers are on labelled questions, without a service: `python perf/eval_reader.py [FILE] [--deep]`.

FILE holds {"documents": [{id, title, text}], "questions": [{question, document, answers}]}, or is in SQuAD's format.
The real pieces run in this process: encoder, hybrid index, `rerank`, reader. One document is one chunk without a
heading, so titles help nobody. `tidegate eval` asks the same through the whole service. Formulas:

    recall@k   the right document is among the first k passages
    first      the answer's text is in the first sentence        answer   it is in any sentence
    precise    share of citations that cite the right document   refused  no answer although there is one
    abstained  half of the documents left out, eight times (seeded): no answer, and there is none
    spread     the least and the most of a measure over the articles' six folds: how far it hangs on what is asked
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.generation import extractive
from gateway.generation.similarity import similarity_of
from gateway.ports import SearchRequest
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.rerank import reranked
from gateway.retrieval.second_hop import planned, with_found
from gateway.settings import load_settings
from gateway.storage.corpus import ChunkRow, Tail
from gateway.types import Passage, Scope

DEFAULT = Path(__file__).parents[1].parent / "shared" / "eval" / "xquad_dev.json"
K = {"fast": 5, "deep": 12}
SEEDS, FOLDS = 8, 6  # halves that are left out; one alone moves the share of abstentions by five points
Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
Search = Callable[[str], list[Passage]]  # the candidates for a text


class Labelled(NamedTuple):
    text: str
    document: int
    answers: tuple[str, ...]


class Corpus(NamedTuple):
    titles: list[str]
    texts: list[str]
    questions: list[Labelled]


class Row(NamedTuple):
    """One question asked. Shares and counts of it; `right` of its citations, `cited` in all."""

    rank: int  # of the right passage, 0-based; K = not among those given
    first: bool
    answer: bool
    refused: bool
    right: int
    cited: int
    rerank_ms: float
    reader_ms: float


def load(path: Path) -> Corpus:
    raw = json.loads(path.read_text())
    if "documents" in raw:
        number = {document["id"]: index for index, document in enumerate(raw["documents"])}
        questions = [
            Labelled(q["question"], number[q["document"]], tuple(q["answers"])) for q in raw["questions"]
        ]
        return Corpus(
            [d["title"] for d in raw["documents"]], [d["text"] for d in raw["documents"]], questions
        )
    paragraphs = [(article["title"], p) for article in raw["data"] for p in article["paragraphs"]]
    questions = [
        Labelled(qa["question"], index, tuple(a["text"] for a in qa["answers"]))
        for index, (_, paragraph) in enumerate(paragraphs)
        for qa in paragraph["qas"]
        if qa["answers"]
    ]
    return Corpus([title for title, _ in paragraphs], [p["context"] for _, p in paragraphs], questions)


def encoder() -> Embed:
    """The sentence encoder. Raises: EmbedderUnavailable where its weights are not installed."""
    from gateway.embedding.export import prepare_embedder
    from gateway.embedding.runtime import SentenceEmbedder

    settings = load_settings()
    folder = prepare_embedder(settings.models_dir, print)
    return SentenceEmbedder(folder, precision=settings.embed_precision, threads=settings.embed_threads).embed


def index_of(corpus: Corpus, vectors: Vectors, kept: npt.NDArray[np.bool_]) -> CorpusIndex:
    rows = [
        ChunkRow(
            n + 1, "eval", "eval", str(n), f"{n}.txt", 0, text, 0, len(text), "", vectors[n].tobytes(), 1
        )
        for n, text in enumerate(corpus.texts)
        if kept[n]
    ]  # fmt: skip
    index = CorpusIndex()
    index.apply(Tail(1, rows, [], False))
    return index


def candidates(index: CorpusIndex, question: str, vector: Vectors) -> list[Passage]:
    (found,) = index.search([SearchRequest(vector, question, Scope(tenant_id="eval"))])
    if not isinstance(found, bytes):
        raise found
    return msgspec.json.decode(found, type=list[Passage])


def holds(text: str, answers: Sequence[str]) -> bool:
    return any(answer.lower().rstrip(".") in text.lower() for answer in answers)


def ask(
    question: Labelled,
    found: list[Passage],
    params: extractive.ReaderParams,
    similarity: extractive.Similarity | None,
    search: Search,
) -> Row:
    """search: for the second hop of `deep`."""
    started = time.perf_counter()
    given = reranked(question.text, found, K[params.mode])
    ranked = time.perf_counter()
    if params.mode == "deep":
        plan = planned(question.text, given)
        hops = [reranked(text, search(text), K[params.mode]) for text in plan.searches]
        given, params = with_found(given, hops), msgspec.structs.replace(params, parts=plan.parts)
    asked = time.perf_counter()
    answer = extractive.answer(question.text, given, params, similarity)
    ended = time.perf_counter()
    documents = [int(passage.file_id) for passage in given]
    hits = [holds(citation.text, question.answers) for citation in answer.citations]
    return Row(
        rank=documents.index(question.document) if question.document in documents else len(documents),
        first=bool(hits) and hits[0],
        answer=any(hits),
        refused=not answer.answered,
        right=sum(documents[citation.passage - 1] == question.document for citation in answer.citations),
        cited=len(hits),
        rerank_ms=(ranked - started) * 1000,
        reader_ms=(ended - asked) * 1000,
    )


def shares(rows: Sequence[Row]) -> dict[str, float]:
    return {
        "recall@1": float(np.mean([row.rank < 1 for row in rows])),
        "recall@5": float(np.mean([row.rank < 5 for row in rows])),
        "first": float(np.mean([row.first for row in rows])),
        "answer": float(np.mean([row.answer for row in rows])),
        "precise": sum(row.right for row in rows) / max(1, sum(row.cited for row in rows)),
        "refused": float(np.mean([row.refused for row in rows])),
    }


def spread(corpus: Corpus, rows: Sequence[Row]) -> dict[str, list[float]]:
    """Of each share over the folds of articles."""
    articles = sorted(set(corpus.titles))
    fold = np.random.default_rng(0).permutation(len(articles)) % FOLDS
    parts = [
        shares(
            [
                row
                for row, question in zip(rows, corpus.questions, strict=True)
                if fold[articles.index(corpus.titles[question.document])] == number
            ]
        )
        for number in range(min(FOLDS, len(articles)))
    ]
    return {name: [min(p[name] for p in parts), max(p[name] for p in parts)] for name in parts[0]}


def measure(corpus: Corpus, embed: Embed, mode: str) -> dict[str, object]:
    vectors, asked = embed(corpus.texts), embed([question.text for question in corpus.questions])
    similarity = similarity_of(embed) if mode == "deep" else None
    params = msgspec.convert({"mode": mode}, extractive.ReaderParams)

    def rows_with(kept: npt.NDArray[np.bool_]) -> list[Row]:
        index = index_of(corpus, vectors, kept)

        def search(text: str) -> list[Passage]:
            return candidates(index, text, embed([text])[0])

        return [
            ask(question, candidates(index, question.text, vector), params, similarity, search)
            for question, vector in zip(corpus.questions, asked, strict=True)
        ]

    rows = rows_with(np.ones(len(corpus.texts), bool))
    refusals: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(SEEDS):
        kept = np.random.default_rng(seed).permutation(len(corpus.texts)) < len(corpus.texts) / 2
        for question, row in zip(corpus.questions, rows_with(kept), strict=True):
            refusals[bool(kept[question.document])].append(row.refused)
    return shares(rows) | {
        "abstained": float(np.mean(refusals[False])),
        "refused_half": float(np.mean(refusals[True])),
        "sentences": float(np.mean([row.cited for row in rows if row.cited])),
        "rerank_p50_ms": float(np.median([row.rerank_ms for row in rows])),
        "reader_p50_ms": float(np.median([row.reader_ms for row in rows])),
        "reader_p99_ms": float(np.quantile([row.reader_ms for row in rows], 0.99)),
        "spread": spread(corpus, rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--deep", action="store_true", help="measure `deep` too: minutes")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    if not arguments.file.is_file():
        print(f"skipped: {arguments.file} is not there; give the path of a labelled file")
        return
    corpus, embed = load(arguments.file), encoder()
    print(f"{len(corpus.questions)} questions, {len(corpus.texts)} documents")
    results = {}
    for mode in ("fast", "deep") if arguments.deep else ("fast",):
        results[mode] = measure(corpus, embed, mode)
        for name, value in results[mode].items():
            shown = f"{value:.3f}" if isinstance(value, float) else json.dumps(value)
            print(f"  {mode}  {name:14} {shown}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
