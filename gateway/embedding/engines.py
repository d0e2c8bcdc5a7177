"""Who runs the graph: ONNX Runtime, through the best provider that is installed and that the machine has.

An engine takes ids and mask [batch, length] INT64 and gives embeddings [batch, 384] FP32. The order of preference:
a CUDA GPU (f32); OpenVINO (bf16 where the processor has it: twice the speed of f32 at cosine 0.9999); ONNX Runtime's
own CPU kernels (f32).
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.embedding.export import EmbedderUnavailable

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

CUDA, OPENVINO, CPU = "CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"


def open_engine(model: Path, precision: str, threads: int) -> OnnxRuntimeEngine:
    """The best engine here. precision: auto, bf16 or f32. threads: 0 = all cores.

    Raises: EmbedderUnavailable when ONNX Runtime is missing or the machine cannot compute in bf16 as asked.
    """
    runtime = _runtime()
    providers = set(runtime.get_available_providers())
    if CUDA in providers and precision != "bf16":
        engine = OnnxRuntimeEngine(runtime, model, CUDA, "f32", threads)
        if engine.device == "cuda":  # the provider may be installed on a machine without a GPU
            return engine
    if OPENVINO in providers:
        return OnnxRuntimeEngine(
            runtime, model, OPENVINO, _settle(precision, native=_cpu_has_bf16()), threads
        )
    return OnnxRuntimeEngine(runtime, model, CPU, _settle(precision, native=False), threads)


class OnnxRuntimeEngine:
    """name: for the log. device: `cpu` or `cuda`. precision: `bf16` or `f32`, what is really computed in."""

    def __init__(self, runtime: Any, model: Path, provider: str, precision: str, threads: int) -> None:
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # its warnings about provider fallback are told by `device` instead
        options.intra_op_num_threads = threads
        settings: dict[str, str] = {}
        if provider == OPENVINO:
            # OpenVINO fuses better when it sees the graph as written.
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
            settings = {
                "device_type": "CPU",
                "load_config": json.dumps({"CPU": _openvino_options(precision, threads)}),  # text, not a path
            }
        elif provider == CUDA:
            settings = {"use_tf32": "0"}  # f32 is promised
        chain: list[Any] = [(provider, settings)]
        if provider != CPU:
            chain.append(CPU)
        self._session = runtime.InferenceSession(str(model), options, providers=chain)
        active = self._session.get_providers()[0]
        self.name = f"onnxruntime {active.removesuffix('ExecutionProvider')}"
        self.device = "cuda" if active == CUDA else "cpu"
        self.precision = precision if active == provider else "f32"

    def run(self, ids: Ids, mask: Ids) -> Vectors:
        result: Vectors = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return result


def _openvino_options(precision: str, threads: int) -> dict[str, str]:
    """One stream that uses all threads: a batch is one unit of work, and the next one waits for it anyway."""
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",  # the cores are shared with Triton, Envoy and the gateway
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    return options


def _settle(precision: str, *, native: bool) -> str:
    if precision == "bf16" and not native:
        raise EmbedderUnavailable(
            "This processor has no bf16 arithmetic: set TIDEGATE_EMBED_PRECISION to auto or f32."
        )
    return ("bf16" if native else "f32") if precision == "auto" else precision


def _cpu_has_bf16() -> bool:
    """OpenVINO computes in bf16 on these; elsewhere the hint would be ignored in silence."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EmbedderUnavailable("ONNX Runtime is not installed: set the project up again.") from error
