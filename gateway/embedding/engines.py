"""Who runs the graph: ONNX Runtime, through the best provider that is installed and that the machine has.

An engine takes ids and mask [batch, length] INT64 and gives embeddings [batch, D] FP32. The order of preference,
where none is asked for: a CUDA GPU (f32); OpenVINO (bf16 where the processor has it: twice the speed of f32 at cosine
0.9999); ONNX Runtime's own CPU kernels (f32).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.embedding.export import EmbedderUnavailable

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

CUDA, OPENVINO, CPU = "CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
ON_GPU = {"cuda": CUDA, "tensorrt": TENSORRT}
MAX_ROWS = 32  # of a run, and so of a TensorRT profile


def open_engine(
    model: Path, precision: str, threads: int, provider: str = "auto", *, buckets: Sequence[int] = ()
) -> OnnxRuntimeEngine:
    """The best engine here, or the one that is asked for. precision: auto, bf16, f16 or f32. threads: 0 = all cores.

    provider, buckets: as TIDEGATE_EMBED_PROVIDER and TIDEGATE_EMBED_BUCKETS say.
    Raises: EmbedderUnavailable when ONNX Runtime, the provider or its GPU is missing, or it has no such arithmetic.
    """
    runtime = _runtime()
    providers = set(runtime.get_available_providers())
    if precision == "f16" and provider != "tensorrt":
        raise EmbedderUnavailable(
            "TIDEGATE_EMBED_PRECISION=f16 is of the provider tensorrt: set TIDEGATE_EMBED_PROVIDER to it."
        )
    if provider in ON_GPU:
        return _open_on_gpu(runtime, model, provider, precision, threads=threads, buckets=buckets)
    if provider == "auto" and CUDA in providers and precision != "bf16":
        _load_cuda(runtime)
        engine = OnnxRuntimeEngine(runtime, model, CUDA, "f32", threads)
        if engine.device == "cuda":  # the provider may be installed on a machine without a GPU
            return engine
    if OPENVINO in providers:
        return OnnxRuntimeEngine(
            runtime, model, OPENVINO, _settle(precision, native=_cpu_has_bf16()), threads
        )
    return OnnxRuntimeEngine(runtime, model, CPU, _settle(precision, native=False), threads)


def _open_on_gpu(
    runtime: Any, model: Path, provider: str, precision: str, *, threads: int, buckets: Sequence[int]
) -> OnnxRuntimeEngine:
    """Nothing else will do: a slower one in silence would be found under load."""
    if precision == "bf16":
        raise EmbedderUnavailable(
            "TIDEGATE_EMBED_PRECISION=bf16 is of the processor: set it to auto, f32 or, with tensorrt, f16."
        )
    wanted = ON_GPU[provider]
    if wanted not in runtime.get_available_providers():
        raise EmbedderUnavailable(
            f"TIDEGATE_EMBED_PROVIDER={provider}: this ONNX Runtime has no {wanted}: install onnxruntime-gpu in place "
            "of onnxruntime-openvino."
        )
    _load_cuda(runtime)
    kept = "f32" if precision == "auto" else precision
    engine = OnnxRuntimeEngine(runtime, model, wanted, kept, threads, buckets=buckets)
    if engine.device != "cuda":
        raise EmbedderUnavailable(
            f"TIDEGATE_EMBED_PROVIDER={provider}: {wanted} does not start here: check with `nvidia-smi` that there is "
            "a GPU, and that the libraries of CUDA and the provider are installed."
        )
    return engine


class OnnxRuntimeEngine:
    """name: for the log. device: `cpu` or `cuda`. precision: `bf16`, `f16` or `f32`, what is really computed in.

    buckets: lengths that it was built for, rising; () = any length.
    """

    def __init__(
        self,
        runtime: Any,
        model: Path,
        provider: str,
        precision: str,
        threads: int,
        *,
        buckets: Sequence[int] = (),
    ) -> None:
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
        elif provider == TENSORRT:
            settings = _tensorrt_options(model, precision, buckets)
        chain: list[Any] = [(provider, settings)]
        if provider == TENSORRT:
            chain.append((CUDA, {"use_tf32": "0"}))  # for what TensorRT does not take
        if provider != CPU:
            chain.append(CPU)
        self._session = runtime.InferenceSession(str(model), options, providers=chain)
        active = self._session.get_providers()[0]
        self.name = f"onnxruntime {active.removesuffix('ExecutionProvider')}"
        self.device = "cuda" if active in {CUDA, TENSORRT} and active == provider else "cpu"
        self.buckets = tuple(buckets) if active == TENSORRT else ()
        self.precision = precision if active == provider else "f32"

    def run(self, ids: Ids, mask: Ids) -> Vectors:
        result: Vectors = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return result


def _tensorrt_options(model: Path, precision: str, buckets: Sequence[int]) -> dict[str, str]:
    """One profile for each bucket. A shape outside them would build an engine in the middle of a question (30 s and
    more), so batches are padded to a bucket. What is built is kept beside the model, for this GPU and version."""

    def shapes(rows: int) -> str:
        named = (f"{name}:{rows}x{length}" for length in buckets for name in ("input_ids", "attention_mask"))
        return ",".join(named)

    return {
        "trt_fp16_enable": str(precision == "f16"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(model.parent / "tensorrt"),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(model.parent / "tensorrt"),
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(8),
        "trt_profile_max_shapes": shapes(MAX_ROWS),
    }


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


def _load_cuda(runtime: Any) -> None:
    """CUDA's libraries from where pip puts them: ONNX Runtime itself looks on the loader's path alone.

    It prints those that it does not find; what comes of that is told by `device`.
    """
    load = getattr(runtime, "preload_dlls", None)  # from 1.21 on
    if load is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            load()


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EmbedderUnavailable("ONNX Runtime is not installed: set the project up again.") from error
