"""vLLM as far as its asynchronous engine is used here, without a GPU: the published arguments alone, and its traps.

Requests beyond the batch wait; 16 tokens are made unless it is told otherwise; outputs are everything so far unless
deltas are asked for; leaving the generator aborts; an engine that died says so in `errored`. What the real one makes of
the adapter, tests/contract/test_real_vllm.py tells, where there is one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import secrets
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from gateway.generation.vllm_engine import Library
from tests.fakes.token_engine import random_tokens

VOCAB_SIZE = 768
END_ID = 2  # that the checkpoint's own configuration names


class EngineDeadError(Exception):
    pass


class EngineGenerateError(Exception):
    """Without a text: what happened is its cause."""


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclasses.dataclass
class StructuredOutputsParams:
    json: str | dict[str, Any] | None = None
    regex: str | None = None
    json_object: bool | None = None


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None


@dataclasses.dataclass(kw_only=True)
class AsyncEngineArgs:
    model: str
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float = 0.9
    kv_cache_dtype: str = "auto"
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    scheduling_policy: str = "fcfs"
    disable_log_stats: bool = False


class AsyncLLM:
    """poison: a request that has just made one of these tokens fails. is_dead: every request fails."""

    made: AsyncLLM

    def __init__(self, arguments: AsyncEngineArgs) -> None:
        self.arguments = arguments
        self.running: list[str] = []
        self.asked: list[tuple[SamplingParams, int]] = []
        self.poison: set[int] = set()
        self.is_dead = self.is_down = False

    @classmethod
    def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLM:
        cls.made = cls(engine_args)
        return cls.made

    @property
    def errored(self) -> bool:
        return self.is_dead or self.is_down

    async def generate(
        self, prompt: dict[str, Any], sampling_params: SamplingParams, request_id: str, *, priority: int = 0
    ) -> AsyncGenerator[Any, None]:
        assert prompt["type"] == "token"  # as the real one has it; without, it takes the deprecated way
        params, ids = sampling_params, prompt["prompt_token_ids"]
        assert request_id not in self.running
        self._check()
        guide = params.structured_outputs
        if guide and isinstance(guide.json, str) and json.loads(guide.json).get("type") == "unheard of":
            raise ValueError("the schema is not understood")
        assert params.max_tokens is not None
        seed = None if not params.temperature else params.seed
        if params.temperature and seed is None:
            seed = secrets.randbits(62)
        self.running.append(request_id)
        self.asked.append((params, priority))
        try:
            assert self.arguments.max_num_seqs is not None
            while request_id not in self.running[: self.arguments.max_num_seqs]:  # noqa: ASYNC110 - as the other
                await asyncio.sleep(0)
            made: list[int] = []
            for token in random_tokens(ids, seed, params.max_tokens, VOCAB_SIZE):
                await asyncio.sleep(0)
                if self.is_down:  # what still runs is aborted, and the client ends after it
                    yield _output([], "abort", None)
                    return
                self._check()
                if made and made[-1] in self.poison:
                    raise EngineGenerateError from RuntimeError("this request cannot be served")
                made.append(token)
                is_stop = not params.ignore_eos and token in {END_ID, *(params.stop_token_ids or [])}
                reason = "stop" if is_stop else "length" if len(made) == params.max_tokens else None
                is_delta = params.output_kind is RequestOutputKind.DELTA
                stop = token if is_stop and token != END_ID else None
                yield _output([token] if is_delta else list(made), reason, stop)
                if reason:
                    return
        finally:
            self.running.remove(request_id)

    def _check(self) -> None:
        if self.errored:
            raise EngineDeadError("the engine core is dead")

    def shutdown(self) -> None:
        self.is_down = True


def _output(ids: list[int], reason: str | None, stop: int | None) -> SimpleNamespace:
    output = SimpleNamespace(token_ids=ids, finish_reason=reason, stop_reason=stop)
    return SimpleNamespace(outputs=[output], finished=reason is not None)


def library() -> tuple[Library, type[AsyncLLM]]:
    """The names as the adapter takes them; the class keeps the engine that was made last in `made`."""

    class Kept(AsyncLLM):
        pass

    return (
        Library(Kept, AsyncEngineArgs, SamplingParams, StructuredOutputsParams, RequestOutputKind),
        Kept,
    )
