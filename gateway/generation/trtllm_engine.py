"""TensorRT-LLM's LLM API as an engine: the flow that goes on after release 1.3, where engine files ended.

Typed against what the library publishes for 1.0 and later (its reference pages and the signatures that its own tests
hold); the protocols below are exactly the calls that are made. Nothing is imported before an engine is opened.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from gateway.checkpoint.chat_format import positive
from gateway.checkpoint.gpu_machine import OLDEST, is_older
from gateway.generation.gpu_engine import EngineMissing, GpuEngine, Piece, RequestFailed
from gateway.generation.slot_gate import SlotGate
from gateway.ports import GenerationParams
from gateway.tier_config import GenerateTier

LETTING_GO_S = 2.0  # longest wait for the library to confirm an abort before the slot counts as free
# Ours counts up from 0 = first; theirs is 0..1 with 1 = first and 0.5 = ordinary.
PRIORITIES = (0.75, 0.5, 0.25)


class CompletionOutput(Protocol):
    """token_ids: all so far. stop_reason: the stop token or text, None for the model's own end token."""

    token_ids: list[int]
    finish_reason: str | None  # stop, length, timeout, cancelled
    stop_reason: int | str | None


class RequestOutput(Protocol):
    """A request under way: each `async for` step is the request itself, with more in it."""

    outputs: Sequence[CompletionOutput]
    finished: bool

    def __aiter__(self) -> AsyncIterator[RequestOutput]: ...
    def abort(self) -> None: ...
    async def aresult(self) -> object: ...


class Llm(Protocol):
    def generate_async(
        self, inputs: list[int], sampling_params: object, *, streaming: bool, **more: object
    ) -> RequestOutput: ...
    def shutdown(self) -> None: ...


class Library(Protocol):
    """The package `tensorrt_llm` with its `llmapi`."""

    __version__: str
    LLM: type[Any]
    SamplingParams: type[Any]
    llmapi: Any  # GuidedDecodingParams, KvCacheConfig, SchedulerConfig, RequestError


def find_library() -> Library:
    """Raises: EngineMissing."""
    # Neither asks nor tells anybody outside: checkpoints are folders.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        library = importlib.import_module("tensorrt_llm")
        importlib.import_module("tensorrt_llm.llmapi")
    except ImportError as error:
        raise EngineMissing(
            f'engine = "tensorrt_llm" needs TensorRT-LLM in the Python that Triton runs ({error}): '
            "use NVIDIA's image tritonserver:<release>-trtllm-python-py3."
        ) from error
    if is_older(library.__version__, OLDEST["tensorrt_llm"]):
        raise EngineMissing(
            f"TensorRT-LLM {library.__version__} is too old: the LLM API is used from {OLDEST['tensorrt_llm']} on."
        )
    return cast(Library, library)


def open_trtllm(
    folder: Path, tier: GenerateTier, end_ids: Collection[int], library: Library | None = None
) -> GpuEngine:
    """Loads the checkpoint, which takes minutes. Raises: EngineMissing, and whatever the library raises."""
    gate = SlotGate(tier.slots, tier.context_tokens, positive(folder, "vocab_size"))
    return GpuEngine(TrtllmBackend(library or find_library(), folder, tier, end_ids), gate, end_ids)


class TrtllmBackend:
    """gpu_engine.Backend."""

    def __init__(self, library: Library, folder: Path, tier: GenerateTier, end_ids: Collection[int]) -> None:
        self._library = library
        self._end_ids = sorted(end_ids)
        has_priorities = "priority" in inspect.signature(library.LLM.generate_async).parameters
        self._has_priorities = has_priorities
        self._llm: Llm = library.LLM(**llm_arguments(library, folder, tier, has_priorities=has_priorities))
        self._is_closed = False

    async def pieces(
        self, number: int, prompt_ids: Sequence[int], params: GenerationParams, max_tokens: int
    ) -> AsyncGenerator[Piece, None]:
        more = {"priority": _priority(params.priority)} if self._has_priorities else {}
        failure = self._library.llmapi.RequestError
        try:
            request = self._llm.generate_async(
                list(prompt_ids), self._sampling(params, max_tokens), streaming=True, **more
            )
        except (ValueError, failure) as error:  # of the arguments
            raise RequestFailed(str(error)) from error
        num_seen = 0
        try:
            async for step in request:
                output = step.outputs[0]
                fresh = output.token_ids[num_seen:]
                num_seen += len(fresh)
                finish = (output.finish_reason or "") if step.finished else ""
                yield Piece(fresh, finish, self._stop_id(output) if finish == "stop" else None)
                if finish:
                    return
        except failure as error:
            raise RequestFailed(str(error)) from error
        finally:
            if not request.finished and not self._is_closed:
                await _let_go(request)

    def shut_down(self) -> None:
        self._is_closed = True
        self._llm.shutdown()

    def _sampling(self, params: GenerationParams, max_tokens: int) -> object:
        """Its default for what is left out is not always the harmless one: 32 tokens, and the seed 0 for everybody."""
        choices: dict[str, object] = {"max_tokens": max_tokens, "detokenize": False}
        if params.temperature > 0:
            choices |= {"temperature": params.temperature, "top_p": params.top_p}
            choices["seed"] = secrets.randbits(63) if params.seed is None else params.seed
        else:
            choices["top_k"] = 1  # a temperature of 0 is refused
        if params.ignore_eos:
            choices["ignore_eos"] = True
        elif self._end_ids:
            # As stop words they would be cut off the output, and with them what a continuation needs.
            choices |= {"stop_token_ids": self._end_ids, "include_stop_str_in_output": True}
        if params.json_schema:
            choices["guided_decoding"] = self._library.llmapi.GuidedDecodingParams(json=params.json_schema)
        return self._library.SamplingParams(**choices)

    def _stop_id(self, output: CompletionOutput) -> int | None:
        if isinstance(output.stop_reason, int):
            return output.stop_reason
        return self._end_ids[0] if self._end_ids else None


def llm_arguments(
    library: Library, folder: Path, tier: GenerateTier, *, has_priorities: bool = False
) -> dict[str, object]:
    """What LLM(...) is called with. The batch is the tier's slots, so the library's own queue stays empty."""
    cache = library.llmapi.KvCacheConfig(
        enable_block_reuse=True,
        free_gpu_memory_fraction=tier.gpu_memory,  # of what the weights leave; the smaller of this and the next wins
        max_tokens=tier.slots * tier.context_tokens,
        dtype=tier.kv_cache,
    )
    arguments: dict[str, object] = {
        "model": str(folder),
        "trust_remote_code": False,
        "tensor_parallel_size": tier.tensor_parallel,
        "pipeline_parallel_size": tier.pipeline_parallel,
        "max_batch_size": tier.slots,
        "max_num_tokens": tier.batch_tokens,
        "max_seq_len": tier.context_tokens,
        "kv_cache_config": cache,
        "enable_chunked_prefill": True,  # a long prompt must not hold up the others, nor be refused
        "guided_decoding_backend": "xgrammar",
    }
    if has_priorities and "waiting_queue_policy" in library.llmapi.SchedulerConfig.model_fields:
        arguments["scheduler_config"] = library.llmapi.SchedulerConfig(waiting_queue_policy="priority")
    return arguments


async def _let_go(request: RequestOutput) -> None:
    """Abort, and hold the slot until the library has really ended the request."""
    request.abort()
    try:
        async with asyncio.timeout(LETTING_GO_S):
            await request.aresult()
    except Exception:  # noqa: BLE001, S110 - the request is over in any case; why does not matter to anybody
        pass


def _priority(number: int) -> float:
    return PRIORITIES[min(number, len(PRIORITIES) - 1)]
