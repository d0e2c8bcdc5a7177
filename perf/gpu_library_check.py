"""The real GPU libraries behind our adapters: `python -m perf.gpu_library_check --out FILE PART…`.

search: faiss-gpu, through gateway/retrieval: found rows beside exact ones, memory, times. embedder: onnxruntime-gpu,
through gateway/embedding/engines.py: vectors beside the processor's, texts a second; needs --model, the model.onnx of
an embedder's folder. generation: vLLM, through gateway/generation/vllm_engine.py: tokens a second and their gaps; needs
--checkpoint. What vLLM keeps of the engines' contract, tests/fakes/gpu_checkpoint.py says how to test.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from perf.parts import measure_parts

Vectors = npt.NDArray[np.float32]
DIM = 384
K = 32
ROWS = 32
LENGTHS = (16, 32, 64, 128, 256, 512)
SLOTS, CONTEXT_TOKENS = 32, 2048


def unit_vectors(count: int, seed: int) -> Vectors:
    """In neighbourhoods of a hundred, as texts have them. Shapes: [count, DIM]."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(count // 100, 1), DIM), np.float32)
    made = random.standard_normal((count, DIM), np.float32) + centres[random.integers(0, len(centres), count)]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def times_ms(work: Callable[[], Any], times: int) -> dict[str, float]:
    work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - started))
    taken.sort()
    return {"p50_ms": statistics.median(taken), "p95_ms": taken[int(0.95 * (len(taken) - 1))]}


def gpu_used_bytes() -> int:
    """Of the first GPU, by all processes. 0 without the driver's tool."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def agreement(found: Any, expected: Any) -> dict[str, float]:
    """Each holds scores and rows [Q, K]. same_rows: share of the places with the same row."""
    alike = [len(set(one) & set(other)) / len(one) for one, other in zip(found[1], expected[1], strict=True)]
    return {
        "same_rows": float((found[1] == expected[1]).mean()),
        "recall": float(np.mean(alike)),
        "largest_score_difference": float(np.abs(found[0] - expected[0]).max()),
    }


def search(num_rows: int, num_large: int, num_threads: int) -> dict[str, Any]:
    """num_rows: with a graph beside the copy, as a collection has them. num_large: the copy alone."""
    import faiss

    from gateway.retrieval.gpu_search import MAX_K, GpuSearch
    from gateway.retrieval.nearest import VectorRows

    found: dict[str, Any] = {"faiss": faiss.__version__, "threads": num_threads}
    before = gpu_used_bytes()
    gpu = GpuSearch()
    copied(gpu, unit_vectors(64, 9)).search(unit_vectors(1, 8), 4)
    found["bytes_before_vectors"] = gpu_used_bytes() - before
    vectors, queries = unit_vectors(num_rows, 1), unit_vectors(256, 2)
    plain = VectorRows(None, vectors, num_rows)
    started = time.perf_counter()
    on_processor = plain.in_graph(num_threads)
    found["graph_built_s"] = time.perf_counter() - started
    before, started = gpu_used_bytes(), time.perf_counter()
    placed = on_processor.in_graph(num_threads, gpu)
    found["copied_s"] = time.perf_counter() - started
    found["copied_bytes"], found["copied_bytes_said"] = gpu_used_bytes() - before, 4 * DIM * num_rows
    exact = plain.nearest(queries, K, None)
    found["gpu_to_exact"] = agreement(placed.nearest(queries, K, None), exact)
    found["graph_to_exact"] = agreement(on_processor.nearest(queries, K, None), exact)
    most = placed.nearest(queries[:8], MAX_K, None)
    found["most_results"] = agreement(most, plain.nearest(queries[:8], MAX_K, None))
    late = unit_vectors(500, 5)
    grown = placed.with_added(late)
    found["late_rows_found"] = bool(
        (grown.nearest(late, 1, None).rows.ravel() == num_rows + np.arange(500)).all()
    )
    for size in (1, 8, 32, 256):
        some = np.ascontiguousarray(queries[:size])
        rows = found[f"{size} at once"] = {
            "gpu": times_ms(lambda some=some: placed.nearest(some, K, None), 200),
            "graph": times_ms(lambda some=some: on_processor.nearest(some, K, None), 20),
        }
        if size <= 32:
            rows["exact"] = times_ms(lambda some=some: plain.nearest(some, K, None), 5)
    found["threads_at_once"] = at_once(placed, queries, exact.rows)
    found["used_at_the_end_bytes"] = gpu_used_bytes()
    found["large"] = large_copy(gpu, num_large)
    return found


def at_once(placed: Any, queries: Vectors, expected: Any) -> dict[str, Any]:
    """Sixteen threads, one query each time."""
    numbers = [number % len(queries) for number in range(2000)]
    with ThreadPoolExecutor(16) as pool:
        started = time.perf_counter()
        rows = list(
            pool.map(lambda number: placed.nearest(queries[number : number + 1], K, None).rows[0], numbers)
        )
        taken = time.perf_counter() - started
    right = [bool((row == expected[number]).all()) for row, number in zip(rows, numbers, strict=True)]
    return {"searches_per_s": len(numbers) / taken, "right": float(np.mean(right))}


def copied(gpu: Any, vectors: Vectors) -> Any:
    copy = gpu.copy_of(vectors)
    if copy is None:
        raise RuntimeError(f"no room for {len(vectors)} vectors")
    return copy


def large_copy(gpu: Any, count: int) -> dict[str, Any]:
    before = gpu_used_bytes()
    found = _copied(gpu, count)
    return found | {"bytes_after_letting_go": gpu_used_bytes() - before}


def _copied(gpu: Any, count: int) -> dict[str, Any]:
    import faiss

    vectors, queries = unit_vectors(count, 3), unit_vectors(32, 4)
    before, started = gpu_used_bytes(), time.perf_counter()
    placed = copied(gpu, vectors)
    found: dict[str, Any] = {"rows": count, "copied_s": time.perf_counter() - started}
    found |= {"copied_bytes": gpu_used_bytes() - before, "copied_bytes_said": 4 * DIM * count}
    exact = faiss.knn(queries, vectors, K, faiss.METRIC_INNER_PRODUCT)
    found["gpu_to_exact"] = agreement(placed.search(queries, K), exact)
    found["1 at once"] = times_ms(lambda: placed.search(queries[:1], K), 200)
    found["32 at once"] = times_ms(lambda: placed.search(queries, K), 50)
    return found


def full_memory(num_rows: int) -> dict[str, Any]:
    """What becomes of a copy for which there is no room, with torch holding the rest of the memory."""
    import torch

    from gateway.retrieval.gpu_search import GpuSearch

    gpu = GpuSearch()
    vectors = unit_vectors(num_rows, 1)
    first = copied(gpu, vectors[:1000])
    held = torch.empty(torch.cuda.mem_get_info()[0] - num_rows * DIM * 2, dtype=torch.uint8, device="cuda")
    found: dict[str, Any] = {"held_bytes": held.nbytes, "is_refused": gpu.copy_of(vectors) is None}
    del held
    torch.cuda.empty_cache()
    for name, placed in (("first_copy_right", first), ("copied_later_right", copied(gpu, vectors))):
        found[name] = bool((placed.search(vectors[:8], 1)[1].ravel() == np.arange(8)).all())
    return found


def embedder(model: Path, provider: str) -> dict[str, Any]:
    import onnxruntime

    from gateway.embedding.engines import open_engine

    started = time.perf_counter()
    before = gpu_used_bytes()
    engine, plain = open_engine(model, "f32", 0, provider), open_engine(model, "f32", 0, "cpu")
    found: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__,
        "engine": engine.name,
        "device": engine.device,
        "precision": engine.precision,
        "beside": f"{plain.name} {plain.device}",
        "opened_s": time.perf_counter() - started,
    }
    random = np.random.default_rng(1)
    for length in LENGTHS:
        ids = random.integers(1000, 30000, (ROWS, length))
        mask = (np.arange(length) < random.integers(length // 2, length + 1, (ROWS, 1))).astype(np.int64)
        vectors, expected = engine.run(ids, mask), plain.run(ids, mask)
        rows = found[str(length)] = {
            "least_cosine": float((vectors * expected).sum(1).min()),
            "largest_difference": float(np.abs(vectors - expected).max()),
            "one": times_ms(lambda ids=ids, mask=mask: engine.run(ids[:1], mask[:1]), 50),
            "batch": times_ms(lambda ids=ids, mask=mask: engine.run(ids, mask), 50),
        }
        rows["texts_per_s"] = 1e3 * ROWS / rows["batch"]["p50_ms"]
    found["gpu_bytes"] = gpu_used_bytes() - before
    return found


def generation(checkpoint: Path) -> dict[str, Any]:
    return asyncio.run(_generation(checkpoint))


async def _generation(checkpoint: Path) -> dict[str, Any]:
    import vllm

    from gateway.generation.vllm_engine import open_vllm
    from gateway.tier_config import GenerateTier

    tier = GenerateTier(checkpoint=str(checkpoint), engine="vllm", slots=SLOTS, context_tokens=CONTEXT_TOKENS)
    started = time.perf_counter()
    engine = open_vllm(checkpoint, tier, {2})
    found: dict[str, Any] = {"vllm": vllm.__version__, "opened_s": time.perf_counter() - started}
    found["gpu_bytes"] = gpu_used_bytes()
    for prompt in (64, 1024):
        for at_once in (1, SLOTS):
            await asyncio.gather(*(_stream(engine, prompt, number) for number in range(at_once)))
            started = time.perf_counter()
            streams = await asyncio.gather(
                *(_stream(engine, prompt, 50 + number) for number in range(at_once))
            )
            taken = time.perf_counter() - started
            found[f"{at_once} at once, {prompt} tokens of prompt"] = summary(streams, taken)
    started = time.perf_counter()
    await engine.close()
    return found | {"closed_s": time.perf_counter() - started}


async def _stream(engine: Any, prompt: int, seed: int) -> list[float]:
    """Seconds: when it was asked for, then of each token."""
    from gateway.ports import GenerationParams

    ids = np.random.default_rng(seed).integers(300, 700, prompt).tolist()
    at = [time.perf_counter()]
    async for step in engine.generate(ids, GenerationParams(max_tokens=256, ignore_eos=True)):
        at += [time.perf_counter()] * len(step.token_ids)
    return at


def summary(streams: Sequence[list[float]], taken_s: float) -> dict[str, float]:
    pairs = (pair for each in streams for pair in itertools.pairwise(each[1:]))
    gaps = sorted(1e3 * (later - at) for at, later in pairs)
    return {
        "first_token_p50_ms": 1e3 * statistics.median(each[1] - each[0] for each in streams),
        "gap_p50_ms": statistics.median(gaps),
        "gap_p99_ms": gaps[int(0.99 * (len(gaps) - 1))],
        "tokens_per_s": sum(len(each) - 1 for each in streams) / taken_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=("search", "full_memory", "embedder", "generation"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model.onnx")
    parser.add_argument("--provider", default="cuda", help="as TIDEGATE_EMBED_PROVIDER")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=16, help="that build the graph")
    given = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "search": lambda: search(given.rows, given.large, given.threads),
        "full_memory": lambda: full_memory(given.large),
        "embedder": lambda: embedder(given.model, given.provider),
        "generation": lambda: generation(given.checkpoint),
    }
    measure_parts({name: parts[name] for name in given.parts}, given.out)


if __name__ == "__main__":
    main()
