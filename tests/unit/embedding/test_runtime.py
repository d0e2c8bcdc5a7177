from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from gateway.embedding.engines import CPU, CUDA, OPENVINO, OnnxRuntimeEngine, open_engine
from gateway.embedding.export import MODEL_FILE, EmbedderUnavailable
from gateway.embedding.runtime import RUN_OVERHEAD_TOKENS, SentenceEmbedder, split
from gateway.embedding.tokens import pad

from .reference import ReferenceEmbedder

TEXTS = [
    "How do I rotate an API key?",
    "The gateway answers with 429 and a Retry-After header when a tenant is over its limit.",
    "",
    " \n\t ",
    "x",
    "?!",
    "Where are receipts stored?",
    "Ein Gezeitentor lässt das Wasser nur in eine Richtung durch.",
    "潮汐门让水单向流动。",
    "Что делает шлюз при перегрузке?",
    "emoji 🌊🚪 and a ZWJ family 👩‍👩‍👧",
    "e\u0301 combining and NUL \x00 inside",
    "[CLS] [SEP] [PAD] special words",
    "SELECT * FROM chunks WHERE epoch > 12;",
    "a" * 500,
    "Refunds are paid within 14 days. " * 4,
    "one two three four five six seven eight nine ten eleven twelve thirteen",
    "http://example.com/a/very/long/path?with=query&and=more#fragment",
    "مرحبا بالعالم",
    "The tide comes in twice a day. " * 60,  # well above 256 tokens
]


@pytest.fixture(scope="module")
def expected(packaged_model: Path) -> np.ndarray:
    reference = ReferenceEmbedder(packaged_model)
    return np.stack([reference.embed(text) for text in TEXTS])


@pytest.fixture(scope="module")
def embedder(model_dir: Path) -> SentenceEmbedder:
    return SentenceEmbedder(model_dir)


def opened(model_dir: Path, precision: str) -> SentenceEmbedder:
    try:
        return SentenceEmbedder(model_dir, precision=precision)
    except EmbedderUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_vectors_agree_with_the_reference(model_dir: Path, expected: np.ndarray, precision: str) -> None:
    embedder = opened(model_dir, precision)
    assert embedder.precision == precision
    vectors = embedder.embed(TEXTS)
    cosines = (vectors * expected).sum(axis=1)
    assert cosines.min() >= (0.99999 if precision == "f32" else 0.9995), dict(
        zip(TEXTS, cosines, strict=True)
    )


def test_vectors_of_the_plain_cpu_provider_agree_with_the_reference(
    model_dir: Path, expected: np.ndarray
) -> None:
    engine = OnnxRuntimeEngine(onnxruntime, model_dir / MODEL_FILE, "CPUExecutionProvider", "f32", 0)
    ids, mask = pad(SentenceEmbedder(model_dir, precision="f32")._tokenizer.encode(TEXTS))
    assert (engine.run(ids, mask) * expected).sum(axis=1).min() >= 0.99999


def test_vectors_are_float32_of_unit_length_in_order(embedder: SentenceEmbedder) -> None:
    together = embedder.embed(TEXTS)
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS), 384)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-3)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    assert (together * alone).sum(axis=1).min() > 0.9995


def test_no_texts_give_no_vectors(embedder: SentenceEmbedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def test_lone_surrogates_are_replaced_and_leave_their_neighbours_alone(embedder: SentenceEmbedder) -> None:
    bad = embedder.embed(["broken \ud800 text", "How do I rotate an API key?"])
    good = embedder.embed(["broken \ufffd text", "How do I rotate an API key?"])
    assert np.allclose(bad, good, atol=1e-3)


def test_a_vector_does_not_alias_a_later_one(embedder: SentenceEmbedder) -> None:
    first = embedder.embed(["first"])
    kept = first.copy()
    embedder.embed(["second"])
    assert np.array_equal(first, kept)


def test_callers_in_several_threads_get_their_own_vectors(embedder: SentenceEmbedder) -> None:
    expected = [embedder.embed([text])[0] for text in TEXTS[:4]]
    cosines: list[float] = []

    def call(index: int) -> None:
        for _ in range(5):
            cosines.append(float(embedder.embed([TEXTS[index]])[0] @ expected[index]))

    threads = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cosines) == 20
    assert min(cosines) > 0.999


class FakeRuntime:
    """ONNX Runtime on a machine where of all installed providers only `works` (and the CPU's own) can start."""

    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, works: str) -> None:
        self._works = works

    def get_available_providers(self) -> list[str]:
        return [CUDA, OPENVINO, CPU]

    def InferenceSession(self, model: str, options: object, providers: list) -> FakeRuntime:
        self._asked = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        return self

    def get_providers(self) -> list[str]:
        return [provider for provider in self._asked if provider in {self._works, CPU}]


@pytest.mark.parametrize(
    ("works", "told"),
    [
        (CUDA, ("onnxruntime CUDA", "cuda", "f32")),
        (OPENVINO, ("onnxruntime OpenVINO", "cpu", "bf16")),
        (CPU, ("onnxruntime CPU", "cpu", "f32")),
    ],
)
def test_what_is_told_is_what_runs_not_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, works: str, told: tuple[str, str, str]
) -> None:
    monkeypatch.setattr("gateway.embedding.engines._cpu_has_bf16", lambda: True)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime(works))  # type: ignore[arg-type]
    engine = open_engine(Path("model.onnx"), "auto", 0)
    assert (engine.name, engine.device, engine.precision) == told


def test_bf16_on_a_processor_without_it_is_refused_with_the_setting(model_dir: Path, monkeypatch) -> None:
    monkeypatch.setattr("gateway.embedding.engines._cpu_has_bf16", lambda: False)
    with pytest.raises(EmbedderUnavailable, match="TIDEGATE_EMBED_PRECISION"):
        open_engine(model_dir / MODEL_FILE, "bf16", 0)
    assert open_engine(model_dir / MODEL_FILE, "auto", 0).precision == "f32"


def test_a_machine_without_the_runtime_says_so(model_dir: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what a missing package looks like to import
    with pytest.raises(EmbedderUnavailable, match="ONNX Runtime is not installed"):
        open_engine(model_dir / MODEL_FILE, "auto", 0)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbedderUnavailable, match="holds no embedding model"):
        SentenceEmbedder(tmp_path)


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        pytest.param([], [], id="none"),
        pytest.param([12, 10, 11], [[0, 1, 2]], id="alike: one run in the given order"),
        pytest.param([5, 200, 6], [[1], [2, 0]], id="a long one runs alone"),
        pytest.param([10] * 40, [list(range(32)), list(range(32, 40))], id="more rows than a run takes"),
    ],
)
def test_rows_are_split_where_padding_costs_more_than_a_run(
    lengths: list[int], runs: list[list[int]]
) -> None:
    assert list(split(lengths)) == runs


def test_every_row_runs_once_and_little_of_it_is_padding() -> None:
    rng = np.random.default_rng(7)
    for size in (1, 2, 31, 32, 33, 200):
        lengths = rng.integers(2, 257, size).tolist()
        runs = list(split(lengths))
        assert sorted(row for run in runs for row in run) == list(range(size))
        padded = sum(max(lengths[row] for row in run) * len(run) for run in runs)
        assert padded - sum(lengths) <= RUN_OVERHEAD_TOKENS * len(runs) + 0.1 * sum(lengths)
