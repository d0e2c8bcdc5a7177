"""How good the extractive reader is on labelled questions, without Triton: `python perf/eval_reader.py [FILE]`.

FILE holds {"documents": [{id, title, text}], "questions": [{question, document, answers}]}, or is in SQuAD's format.
Each question gets what retrieval would give: the five nearest documents by the sentence encoder where its weights are
installed, else by shared words. `measure` puts the right document among the five; `measure_left_out` removes half of
the documents and counts refusals. Formulas:

    first      the answer's text is in the first sentence        answer   it is in any sentence
    precise    share of citations that cite the right document   refused  no answer although there is one
    abstained  no answer, and there is none
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.generation import extractive
from gateway.language.terms import is_content, stem, words
from gateway.settings import load_settings
from gateway.types import Passage

DEFAULT = Path(__file__).parents[1].parent / "shared" / "eval" / "xquad_dev.json"
K = 5


class Labelled(NamedTuple):
    text: str
    document: int
    answers: tuple[str, ...]


class Corpus(NamedTuple):
    titles: list[str]
    texts: list[str]
    questions: list[Labelled]


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


def encoder() -> Callable[[Sequence[str]], npt.NDArray[np.float32]] | None:
    """The sentence encoder, if its model is built already or its weights are installed."""
    from gateway.embedding.export import EmbedderUnavailable, prepare_embedder
    from gateway.embedding.runtime import SentenceEmbedder

    settings = load_settings()
    try:
        folder = prepare_embedder(settings.models_dir, print)
        return SentenceEmbedder(
            folder, precision=settings.embed_precision, threads=settings.embed_threads
        ).embed
    except EmbedderUnavailable as missing:
        print(f"no encoder ({missing}): passages by shared words, `deep` skipped")
        return None


def nearness(corpus: Corpus, embed: Callable[[Sequence[str]], npt.NDArray[np.float32]] | None) -> npt.NDArray:
    """Score of each question with each document, shape [questions, documents]."""
    asked = [question.text for question in corpus.questions]
    if embed is not None:
        return embed(asked) @ embed(corpus.texts).T
    bags = [{stem(w.text) for w in words(text) if is_content(w.text)} for text in corpus.texts]
    idf = {term: np.log(len(bags) / sum(term in bag for bag in bags)) for bag in bags for term in bag}

    def share(terms: list[str], bag: set[str]) -> float:
        return sum(idf.get(t, 0.0) for t in terms if t in bag) / (sum(idf.get(t, 8.0) for t in terms) or 1.0)

    terms = [[stem(w.text) for w in words(text) if is_content(w.text)] for text in asked]
    return np.array([[share(t, bag) for bag in bags] for t in terms])


def passages(corpus: Corpus, numbers: Sequence[int], scores: npt.NDArray) -> list[Passage]:
    return [
        Passage(
            chunk_id=n, collection_id="eval", file_id=str(n), filename=corpus.titles[n], ordinal=0, heading="",
            start=0, end=len(corpus.texts[n]), text=corpus.texts[n], score=float(scores[n]),
        )
        for n in numbers
    ]  # fmt: skip


def holds(text: str, answers: Sequence[str]) -> bool:
    return any(answer.lower().rstrip(".") in text.lower() for answer in answers)


def measure(
    corpus: Corpus,
    near: npt.NDArray,
    params: extractive.ReaderParams,
    similarity: extractive.Similarity | None,
) -> dict[str, float]:
    """Every answerable question with its own document among the five."""
    rows, precise, took = [], [], []
    for question, scores in zip(corpus.questions, near, strict=True):
        others = [n for n in np.argsort(-scores) if n != question.document][: K - 1]
        given = sorted([*others, question.document], key=lambda n: -scores[n])
        found_in = passages(corpus, given, scores)
        started = time.perf_counter()
        found = extractive.answer(question.text, found_in, params, similarity)
        took.append((time.perf_counter() - started) * 1000)
        hits = [holds(citation.text, question.answers) for citation in found.citations]
        rows.append((bool(hits) and hits[0], any(hits), not found.answered, len(hits)))
        precise += [given[citation.passage - 1] == question.document for citation in found.citations]
    first, anywhere, refused, length = np.mean(np.array(rows, float), axis=0)
    return {
        "first": first, "answer": anywhere, "precise": float(np.mean(precise)), "refused": refused,
        "sentences": length, "p50_ms": float(np.median(took)), "p99_ms": float(np.quantile(took, 0.99)),
    }  # fmt: skip


def measure_left_out(
    corpus: Corpus,
    near: npt.NDArray,
    params: extractive.ReaderParams,
    similarity: extractive.Similarity | None,
) -> dict[str, float]:
    """Half of the documents removed, three times (seeded): refusals where the document is gone, and where it is not."""
    refusals: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(3):
        kept = np.random.default_rng(seed).permutation(len(corpus.texts)) < len(corpus.texts) / 2
        for question, scores in zip(corpus.questions, near, strict=True):
            given = [n for n in np.argsort(-scores) if kept[n]][:K]
            found = extractive.answer(question.text, passages(corpus, given, scores), params, similarity)
            refusals[bool(kept[question.document])].append(not found.answered)
    return {"abstained": float(np.mean(refusals[False])), "refused_half": float(np.mean(refusals[True]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    if not arguments.file.is_file():
        print(f"skipped: {arguments.file} is not there; give the path of a labelled file")
        return
    corpus = load(arguments.file)
    embed = encoder()
    near = nearness(corpus, embed)
    at = [
        int((-scores).argsort().tolist().index(q.document))
        for q, scores in zip(corpus.questions, near, strict=True)
    ]
    print(f"{len(corpus.questions)} questions, {len(corpus.texts)} documents; retrieval alone:", end=" ")
    print(f"recall@1 {np.mean(np.array(at) < 1):.3f}, recall@{K} {np.mean(np.array(at) < K):.3f}")

    def similarity(question: str, texts: list[str]) -> npt.NDArray[np.float32]:
        assert embed is not None
        vectors = embed([question, *texts])
        return vectors[1:] @ vectors[0]

    results = {}
    for mode in ("fast", "deep") if embed is not None else ("fast",):
        deep = similarity if mode == "deep" else None
        params = extractive.ReaderParams(mode=mode)
        numbers = measure(corpus, near, params, deep) | measure_left_out(corpus, near, params, deep)
        results[mode] = numbers
        print(f"{mode}:", "  ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
