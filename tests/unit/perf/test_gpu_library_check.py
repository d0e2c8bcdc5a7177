"""The checks of the GPU libraries, with what stands in for them on a machine without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest

from gateway.embedding.export import MODEL_FILE, prepare_embedder
from gateway.generation import vllm_engine
from perf import gpu_library_check as check
from tests.fakes import vllm_library


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda resources, device, index: index, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(check, "gpu_used_bytes", lambda: 0)


def test_agreement_tells_other_rows_from_another_order() -> None:
    scores = np.array([[0.9, 0.8, 0.7]])
    expected = scores, np.array([[1, 2, 3]])
    assert check.agreement(expected, expected)["same_rows"] == 1
    swapped = check.agreement((scores, np.array([[1, 3, 2]])), expected)
    assert (round(swapped["same_rows"], 2), swapped["recall"]) == (0.33, 1.0)
    other = check.agreement((scores - 0.1, np.array([[1, 2, 9]])), expected)
    assert (round(other["recall"], 2), round(other["largest_score_difference"], 3)) == (0.67, 0.1)


@pytest.mark.usefixtures("gpu")
def test_searches_are_held_to_exact_ones() -> None:
    found = check.search(num_rows=2500, num_large=3000, num_threads=1)
    assert found["gpu_to_exact"]["same_rows"] == 1
    assert found["most_results"]["same_rows"] == 1
    assert found["threads_at_once"]["right"] == 1
    assert found["late_rows_found"]
    assert found["large"]["gpu_to_exact"]["recall"] == 1
    assert found["copied_bytes_said"] == 4 * 384 * 2500


@pytest.mark.usefixtures("gpu")
def test_an_embedder_is_held_to_the_processors_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LENGTHS", (16,))
    monkeypatch.setattr(check, "ROWS", 2)
    model = prepare_embedder(tmp_path, lambda text: None) / MODEL_FILE
    found = check.embedder(model, "cpu")
    assert (found["device"], found["precision"]) == ("cpu", "f32")
    assert found["16"]["least_cosine"] > 0.9999
    assert found["16"]["texts_per_s"] > 0


@pytest.mark.usefixtures("gpu")
def test_tokens_and_gaps_of_vllm_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 768}))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.24.0"))  # type: ignore[arg-type]
    monkeypatch.setattr(vllm_engine, "find_library", lambda: vllm_library.library()[0])
    monkeypatch.setattr(check, "SLOTS", 3)
    found = check.generation(tmp_path)
    assert found["vllm"] == "0.24.0"
    row = found["3 at once, 64 tokens of prompt"]
    assert row["tokens_per_s"] > 0
    assert row["gap_p50_ms"] <= row["gap_p99_ms"]


def test_a_part_that_fails_leaves_the_others_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "found.json"
    monkeypatch.setattr(check, "generation", lambda checkpoint: {"tokens": 3})
    monkeypatch.setattr(
        sys,
        "argv",
        ["check", "embedder", "generation", "--out", str(out), "--model", "nowhere", "--provider", "cuda"],
    )
    check.main()
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["generation"] == {"tokens": 3}
    assert found["embedder"]["error"].startswith("EmbedderUnavailable: TIDEGATE_EMBED_PROVIDER=cuda")
