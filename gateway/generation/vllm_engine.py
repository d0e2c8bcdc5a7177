"""vLLM's asynchronous engine as an engine.

Typed against what the library publishes for 0.11 and later; the protocols below are exactly the calls that are made.
Nothing is imported before an engine is opened.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gateway.checkpoint.chat_format import positive
from gateway.checkpoint.gpu_machine import OLDEST, is_older
from gateway.generation.gpu_engine import EngineMissing, GpuEngine, Piece, RequestFailed
from gateway.generation.slot_gate import SlotGate
from gateway.ports import GenerationParams
from gateway.tier_config import GenerateTier


class CompletionOutput(Protocol):
    """token_ids: of this step alone, as it was asked for. stop_reason: None for the model's own end token."""

    token_ids: Sequence[int]
    finish_reason: str | None  # stop, length, abort, error
    stop_reason: int | str | None


class RequestOutput(Protocol):
    outputs: Sequence[CompletionOutput]
    finished: bool


class AsyncLlm(Protocol):
    """Leaving the generator aborts the request."""

    @property
    def errored(self) -> bool: ...
    def generate(
        self, prompt: dict[str, Any], sampling_params: object, request_id: str, *, priority: int
    ) -> AsyncGenerator[RequestOutput, None]: ...
    def shutdown(self) -> None: ...


class Library(NamedTuple):
    """The names that are used, wherever in the package they stand. async_llm: has from_engine_args."""

    async_llm: Any
    engine_args: Any
    sampling_params: Any
    structured_outputs: Any
    output_kind: Any


def find_library() -> Library:
    """Raises: EngineMissing."""
    # Neither asks nor tells anybody outside: checkpoints are folders.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        version = importlib.import_module("vllm").__version__
        if is_older(version, OLDEST["vllm"]):
            raise EngineMissing(f"vLLM {version} is too old: it is used from {OLDEST['vllm']} on.")
        sampling = importlib.import_module("vllm.sampling_params")
        return Library(
            importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM,
            importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs,
            sampling.SamplingParams,
            sampling.StructuredOutputsParams,
            sampling.RequestOutputKind,
        )
    except (ImportError, AttributeError) as error:
        raise EngineMissing(
            f'engine = "vllm" needs vLLM in the Python that Triton runs ({error}): '
            "use NVIDIA's image tritonserver:<release>-vllm-python-py3."
        ) from error


def open_vllm(
    folder: Path, tier: GenerateTier, end_ids: Collection[int], library: Library | None = None
) -> GpuEngine:
    """Loads the checkpoint, which takes minutes. Raises: EngineMissing, and whatever the library raises."""
    gate = SlotGate(tier.slots, tier.context_tokens, positive(folder, "vocab_size"))
    return GpuEngine(VllmBackend(library or find_library(), folder, tier, end_ids), gate, end_ids)


class VllmBackend:
    """gpu_engine.Backend."""

    def __init__(self, library: Library, folder: Path, tier: GenerateTier, end_ids: Collection[int]) -> None:
        self._library = library
        self._end_ids = sorted(end_ids)
        arguments = library.engine_args(**engine_arguments(folder, tier))
        self._llm: AsyncLlm = library.async_llm.from_engine_args(arguments)

    async def pieces(
        self, number: int, prompt_ids: Sequence[int], params: GenerationParams, max_tokens: int
    ) -> AsyncGenerator[Piece, None]:
        # With its type: else it is a raw prompt, which the library reads the longer way, and not for ever.
        prompt = {"type": "token", "prompt_token_ids": list(prompt_ids)}
        try:
            sampling = self._sampling(params, max_tokens)
            outputs = self._llm.generate(prompt, sampling, str(number), priority=params.priority)
            async with aclosing(outputs):
                async for step in outputs:
                    output = step.outputs[0]
                    finish = (output.finish_reason or "") if step.finished else ""
                    yield Piece(output.token_ids, finish, self._stop_id(output) if finish == "stop" else None)
                    if finish:
                        return
        except Exception as error:
            if self._llm.errored:
                raise
            raise RequestFailed(_reason(error)) from error

    def shut_down(self) -> None:
        self._llm.shutdown()

    def _sampling(self, params: GenerationParams, max_tokens: int) -> object:
        choices: dict[str, object] = {
            "max_tokens": max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": params.seed,
            "ignore_eos": params.ignore_eos,
            "detokenize": False,
            "output_kind": self._library.output_kind.DELTA,
        }
        if not params.ignore_eos:
            choices["stop_token_ids"] = self._end_ids
        if params.json_schema:
            choices["structured_outputs"] = self._library.structured_outputs(json=params.json_schema)
        return self._library.sampling_params(**choices)

    def _stop_id(self, output: CompletionOutput) -> int | None:
        if isinstance(output.stop_reason, int):
            return output.stop_reason
        return self._end_ids[0] if self._end_ids else None


def _reason(error: Exception) -> str:
    """What it did not expect, the library puts behind an EngineGenerateError without a text."""
    told = next((each for each in (error, error.__cause__) if each is not None and str(each)), error)
    return str(told) or type(told).__name__


def engine_arguments(folder: Path, tier: GenerateTier) -> dict[str, object]:
    """What AsyncEngineArgs is called with. The batch is the tier's slots, so the library's own queue stays empty."""
    return {
        "model": str(folder),
        "trust_remote_code": False,
        "tensor_parallel_size": tier.tensor_parallel,
        "pipeline_parallel_size": tier.pipeline_parallel,
        "max_num_seqs": tier.slots,
        "max_num_batched_tokens": tier.batch_tokens,
        "max_model_len": tier.context_tokens,
        "gpu_memory_utilization": tier.gpu_memory,
        "kv_cache_dtype": tier.kv_cache,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,  # a long prompt must not hold up the others
        "scheduling_policy": "priority",
        "disable_log_stats": True,
    }
