"""Search over a large corpus, in one process and without Triton: `python -m perf.search [--chunks 1000000]`.

A million real embeddings would take hours, so the sentences of the project's pages are embedded, and each chunk is a
mixture of two of them with noise: that lies as unevenly as a real corpus does. Its words come from the same two. What
is measured:

    apply      chunks/s through CorpusIndex.apply, in pages as the tail reads them
    graph      seconds to build the graph over all of them, with --threads
    recall@10  share of the exact ten nearest chunks that search finds; exact = a product with all vectors
    p50, p99   of one question at a time, dense, hybrid, and hybrid filtered to a tenth and a thousandth of the files;
               batch: of 32 at once (ms)
    delete     one file's removal until a search no longer finds it, without the tail's 100 ms of polling (ms)
    snapshot   seconds to write, GiB, and seconds from an empty process to the first answer, checksums included

Writes perf/results/search/<chunks>.json.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.embedding.export import prepare_embedder
from gateway.embedding.runtime import SentenceEmbedder
from gateway.filters import Filter
from gateway.ports import SearchRequest
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.snapshot import SnapshotFolder
from gateway.settings import load_settings
from gateway.storage.changes import ChunkRow, FileRow, RemovalRow, Tail
from gateway.types import Passage, Scope
from perf.environment import environment

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "search"
PAGE = 2000
CHUNKS_PER_FILE = 50
NUM_QUESTIONS = 200
BATCH = 32
K = 10
NOISE = 0.3  # length of the noise beside a vector of length 1

Vectors = npt.NDArray[np.float32]
_decode = msgspec.json.Decoder(list[Passage]).decode


class Sentences(NamedTuple):
    texts: list[str]
    vectors: Vectors


def sentences() -> Sentences:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "perf").glob("*.md")]
    parts = (re.split(r"(?<=[.:;])\s+|\n\n|\n- ", path.read_text()) for path in pages)
    texts = sorted({" ".join(part.split()) for page in parts for part in page if len(part) > 40})
    settings = load_settings()
    embedder = SentenceEmbedder(
        prepare_embedder(settings.models_dir, print),
        precision=settings.embed_precision,
        threads=settings.embed_threads,
    )
    return Sentences(texts, embedder.embed(texts))


def mixtures(base: Sentences, count: int, seed: int) -> Iterator[tuple[Vectors, list[str]]]:
    """Pages of vectors and their texts; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, PAGE):
        size = min(PAGE, count - start)
        first, second = rng.integers(len(base.texts), size=(2, size))
        share = rng.uniform(0.5, 1.0, (size, 1))
        noise = rng.standard_normal((size, base.vectors.shape[1])) * (NOISE / base.vectors.shape[1] ** 0.5)
        mixed = share * base.vectors[first] + (1 - share) * base.vectors[second] + noise
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        texts = [
            f"{base.texts[one]} {base.texts[other]} No. {start + number}."
            for number, (one, other) in enumerate(zip(first, second, strict=True))
        ]
        yield mixed.astype(np.float32), texts


def tails(base: Sentences, count: int) -> Iterator[Tail]:
    number = 0
    for epoch, (vectors, texts) in enumerate(mixtures(base, count, 1), 1):
        rows, names = [], {}
        for vector, text in zip(vectors, texts, strict=True):
            file = number // CHUNKS_PER_FILE
            names[f"file-{file}"] = file
            place = number % CHUNKS_PER_FILE
            rows.append(
                ChunkRow(
                    id=number + 1,
                    tenant_id="t",
                    collection_id="c",
                    file_id=f"file-{file}",
                    filename=f"file-{file}.md",
                    ordinal=place,
                    text=text,
                    start_char=place * 1000,
                    end_char=place * 1000 + len(text),
                    heading="",
                    vector=vector.tobytes(),
                    epoch=epoch,
                )
            )
            number += 1
        files = [
            FileRow("t", "c", name, {"tenth": file % 10, "thousandth": file % 1000}, epoch)
            for name, file in names.items()
        ]
        yield Tail(epoch, rows, [], False, files)


def times_ms(index: CorpusIndex, requests: list[SearchRequest], batch: int = 1) -> dict[str, float]:
    index.search(requests[:batch])
    taken = []
    for start in range(0, len(requests) - batch + 1, batch):
        started = time.perf_counter()
        index.search(requests[start : start + batch])
        taken.append((time.perf_counter() - started) * 1000.0)
    return {"p50": round(float(np.median(taken)), 2), "p99": round(float(np.percentile(taken, 99)), 2)}


def recall(index: CorpusIndex, base: Sentences, count: int, questions: Vectors) -> float:
    """The exact nearest are found by going through all vectors once more, a page at a time."""
    best_scores = np.full((len(questions), K), -np.inf, np.float32)
    best_ids = np.zeros((len(questions), K), np.int64)
    number = 1
    for vectors, _ in mixtures(base, count, 1):
        scores = np.concatenate([best_scores, questions @ vectors.T], axis=1)
        ids = np.concatenate(
            [
                best_ids,
                np.broadcast_to(np.arange(number, number + len(vectors)), (len(questions), len(vectors))),
            ],
            axis=1,
        )
        order = np.argsort(-scores, axis=1)[:, :K]
        best_scores, best_ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
        number += len(vectors)
    found = 0
    for question, expected in zip(questions, best_ids, strict=True):
        (answer,) = index.search([SearchRequest(question, "", Scope(tenant_id="t", k=K, ranking="dense"))])
        assert isinstance(answer, bytes)
        found += len({passage.chunk_id for passage in _decode(answer)[:K]} & set(expected.tolist()))
    return found / best_ids.size


def requests_of(questions: Vectors, texts: list[str], **scope: Any) -> list[SearchRequest]:
    wanted = Scope(tenant_id="t", **scope)
    return [SearchRequest(vector, text, wanted) for vector, text in zip(questions, texts, strict=True)]


def delete_ms(index: CorpusIndex, count: int) -> float:
    """Of a file in the middle of the corpus."""
    file = f"file-{count // CHUNKS_PER_FILE // 2}"
    started = time.perf_counter()
    index.apply(Tail(index.epoch + 1, [], [RemovalRow(index.epoch + 1, "t", "c", file)], False))
    return round((time.perf_counter() - started) * 1000.0, 1)


def measure(count: int, threads: int, folder: Path) -> dict[str, Any]:
    base = sentences()
    (folder / "words").mkdir()
    index = CorpusIndex(folder / "words")
    apply_s = 0.0
    for tail in tails(base, count):
        started = time.perf_counter()
        index.apply(tail)
        apply_s += time.perf_counter() - started
    report: dict[str, Any] = {"chunks": count, "sentences": len(base.texts), "apply": round(count / apply_s)}
    print(report, flush=True)
    started = time.perf_counter()
    while index.refit(threads):
        pass
    report["graph_s"] = round(time.perf_counter() - started, 1)
    (vectors, texts) = next(mixtures(base, NUM_QUESTIONS, 2))
    texts = [text.split(". ")[0][:120] for text in texts]
    report["recall@10"] = round(recall(index, base, count, vectors), 4)
    print(report, flush=True)
    tenth = Filter(type="eq", key="tenth", value=3)
    thousandth = Filter(type="eq", key="thousandth", value=3)
    report["dense"] = times_ms(index, requests_of(vectors, texts, ranking="dense"))
    report["hybrid"] = times_ms(index, requests_of(vectors, texts))
    report["hybrid_batch"] = times_ms(index, requests_of(vectors, texts), BATCH)
    report["tenth"] = times_ms(index, requests_of(vectors, texts, filters=tenth))
    report["thousandth"] = times_ms(index, requests_of(vectors, texts, filters=thousandth))
    report["delete_ms"] = delete_ms(index, count)
    print(report, flush=True)
    return report | snapshot(index, folder, vectors[0])


def snapshot(index: CorpusIndex, folder: Path, question: Vectors) -> dict[str, Any]:
    snapshots = SnapshotFolder(folder / "snapshots", "perf")
    started = time.perf_counter()
    with snapshots.writing() as draft:
        index.save(draft)
    write_s = time.perf_counter() - started
    num_bytes = sum(path.stat().st_size for path in draft.folder.rglob("*") if path.is_file())
    started = time.perf_counter()
    fresh = CorpusIndex()
    path, epoch = snapshots.verified()
    verify_s = time.perf_counter() - started
    fresh.load(path, folder / "loaded", epoch)
    fresh.search([SearchRequest(question, "words", Scope(tenant_id="t"))])
    return {
        "snapshot_write_s": round(write_s, 1),
        "snapshot_gib": round(num_bytes / 2**30, 2),
        "snapshot_verify_s": round(verify_s, 1),
        "ready_s": round(time.perf_counter() - started, 1),
        "max_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the index and its snapshot lie meanwhile")
    parser.add_argument("--out", type=Path, help="default: perf/results/search/<chunks>.json")
    given = parser.parse_args()
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="perf-search-", dir=given.folder) as folder:
        report = measure(given.chunks, given.threads, Path(folder))
    out = given.out or RESULTS / f"{given.chunks}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"environment": environment(), **report}, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
