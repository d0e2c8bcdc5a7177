"""Providers of a GPU without one: what they are asked for, and what is said where they are missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from gateway.embedding.embedders import Embedders, bucket_lengths
from gateway.embedding.engines import CPU, CUDA, OPENVINO, TENSORRT, open_engine
from gateway.embedding.export import EmbedderUnavailable
from gateway.embedding.runtime import SentenceEmbedder
from gateway.settings import SettingsError, load_settings

TEXTS = ["How do I rotate an API key?", "x", "The tide comes in twice a day. " * 20]


class GpuRuntime:
    """ONNX Runtime that says it runs on `works`, and runs on the processor. shapes: of every run."""

    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, works: str, installed: tuple[str, ...] = (TENSORRT, CUDA, OPENVINO, CPU)) -> None:
        self._works, self._installed = works, installed
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.shapes: list[tuple[int, int]] = []
        self.has_cuda = True  # its libraries are on the loader's path
        self.num_loads = 0

    def preload_dlls(self) -> None:
        print("Failed to load libcufft.so.12")  # as it does for each that it does not find
        self.num_loads += 1
        self.has_cuda = True

    def get_available_providers(self) -> list[str]:
        return list(self._installed)

    def InferenceSession(self, model: str, options: object, providers: list[Any]) -> GpuRuntime:
        self.asked = [each if isinstance(each, tuple) else (each, {}) for each in providers]
        self._session = onnxruntime.InferenceSession(model, providers=[CPU]) if Path(model).exists() else None
        return self

    def get_providers(self) -> list[str]:
        works = {self._works, CPU} if self.has_cuda else {CPU}
        return [name for name, _ in self.asked if name in works]

    def run(self, outputs: None, inputs: dict[str, Any]) -> Any:
        self.shapes.append(inputs["input_ids"].shape)
        assert self._session is not None
        return self._session.run(outputs, inputs)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> GpuRuntime:
    runtime = GpuRuntime(TENSORRT)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)  # type: ignore[arg-type]
    return runtime


def test_each_bucket_is_a_profile_and_what_is_built_is_kept(tensorrt: GpuRuntime) -> None:
    engine = open_engine(Path("/models/e/model.onnx"), "f16", 0, "tensorrt", buckets=[16, 64])
    assert (engine.name, engine.device, engine.precision) == ("onnxruntime Tensorrt", "cuda", "f16")
    assert [name for name, _ in tensorrt.asked] == [TENSORRT, CUDA, CPU]
    said = tensorrt.asked[0][1]
    assert (
        said["trt_profile_min_shapes"]
        == "input_ids:1x16,attention_mask:1x16,input_ids:1x64,attention_mask:1x64"
    )
    assert said["trt_profile_max_shapes"].startswith("input_ids:32x16,attention_mask:32x16,")
    assert (said["trt_fp16_enable"], said["trt_engine_cache_enable"]) == ("True", "True")
    assert said["trt_engine_cache_path"] == "/models/e/tensorrt"


def test_runs_are_padded_to_buckets_and_give_the_same_vectors(model_dir: Path, tensorrt: GpuRuntime) -> None:
    made = SentenceEmbedder(model_dir, precision="f32", provider="tensorrt", buckets=[16, 32, 1024])
    assert made.buckets == (16, 32, 256)  # no text of this model is longer
    vectors = made.embed(TEXTS)
    assert {length for _, length in tensorrt.shapes} <= {16, 32, 256}
    plain = onnxruntime.InferenceSession(str(model_dir / "model.onnx"), providers=[CPU])
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = np.array(made._tokenizer.encode([text]), np.int64)
        alone = plain.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
        assert float(vector @ alone) > 0.99999


def test_every_bucket_is_warm_before_the_first_question(
    model_dir: Path, tmp_path: Path, tensorrt: GpuRuntime
) -> None:
    (tmp_path / "models").symlink_to(model_dir.parent)
    settings = load_settings(
        {}, var=tmp_path, embed_provider="tensorrt", embed_buckets="16,64", embed_precision="f32"
    )
    Embedders(settings, lambda _: None)
    assert set(tensorrt.shapes) >= {(1, 16), (32, 16), (1, 64), (32, 64), (1, 256), (32, 256)}


@pytest.mark.parametrize(
    ("runtime", "provider", "precision", "sentence"),
    [
        (
            GpuRuntime(CPU, (OPENVINO, CPU)),
            "cuda",
            "auto",
            "has no CUDAExecutionProvider: install onnxruntime-gpu",
        ),
        (GpuRuntime(CPU, (CUDA, CPU)), "tensorrt", "auto", "has no TensorrtExecutionProvider"),
        (
            GpuRuntime(CPU),
            "cuda",
            "auto",
            "CUDAExecutionProvider does not start here: check with `nvidia-smi`",
        ),
        (GpuRuntime(CUDA), "tensorrt", "auto", "TensorrtExecutionProvider does not start here"),
        (GpuRuntime(CUDA), "cuda", "bf16", "TIDEGATE_EMBED_PRECISION=bf16 is of the processor"),
        (GpuRuntime(CUDA), "cuda", "f16", "TIDEGATE_EMBED_PRECISION=f16 is of the provider tensorrt"),
    ],
)
def test_what_is_asked_for_and_missing_is_said(
    runtime: GpuRuntime, provider: str, precision: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)  # type: ignore[arg-type]
    with pytest.raises(EmbedderUnavailable) as caught:
        open_engine(Path("model.onnx"), precision, 0, provider, buckets=[16])
    assert sentence in str(caught.value)


@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_cudas_libraries_are_found_where_pip_puts_them(
    provider: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = GpuRuntime(CUDA)
    runtime.has_cuda = False
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)  # type: ignore[arg-type]
    assert open_engine(Path("model.onnx"), "f32", 0, provider).device == "cuda"
    assert capsys.readouterr().out == ""


def test_a_gpu_is_left_alone_where_the_processor_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = GpuRuntime(OPENVINO)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)  # type: ignore[arg-type]
    assert open_engine(Path("model.onnx"), "f32", 0, "cpu").device == "cpu"
    assert [name for name, _ in runtime.asked] == [OPENVINO, CPU]
    assert not runtime.num_loads


@pytest.mark.parametrize("text", ["", "16,x", "32,16", "0,16", "16,16"])
def test_buckets_must_rise(text: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_EMBED_BUCKETS"):
        bucket_lengths(text)
