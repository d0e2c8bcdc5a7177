"""TensorRT-LLM as far as its LLM API is used here, without a GPU: the published arguments alone, and its traps.

Requests beyond the batch wait in a queue; stop words are cut off the output unless it is told to leave them; a request
without a seed gets seed 0; a temperature must be above 0; each step of a stream is the request itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from tests.fakes.token_engine import random_tokens

VOCAB_SIZE = 768
END_ID = 2  # that the checkpoint's own configuration names
__version__ = "1.2.1"


class RequestError(RuntimeError):
    pass


@dataclasses.dataclass(kw_only=True)
class GuidedDecodingParams:
    json: str | dict[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None
    json_object: bool = False


@dataclasses.dataclass(kw_only=True)
class KvCacheConfig:
    enable_block_reuse: bool = True
    free_gpu_memory_fraction: float = 0.9
    max_tokens: int | None = None
    dtype: str = "auto"


class SchedulerConfig:
    model_fields = ("capacity_scheduler_policy", "waiting_queue_policy")

    def __init__(self, *, waiting_queue_policy: str = "fcfs") -> None:
        assert waiting_queue_policy in {"fcfs", "priority"}
        self.waiting_queue_policy = waiting_queue_policy


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    n: int = 1
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    ignore_eos: bool = False
    detokenize: bool = True
    guided_decoding: GuidedDecodingParams | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"require temperature > 0, got {self.temperature}")

    @property
    def is_greedy(self) -> bool:
        return self.top_k == 1 or (self.temperature is None and self.top_p is None)


@dataclasses.dataclass
class CompletionOutput:
    token_ids: list[int] = dataclasses.field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class RequestOutput:
    def __init__(self, llm: Llm, prompt: list[int], params: SamplingParams) -> None:
        self.outputs = [CompletionOutput()]
        self.finished = False
        self.params = params
        seed = None if params.is_greedy else params.seed or 0
        self._left = random_tokens(prompt, seed, params.max_tokens, VOCAB_SIZE)
        self._llm = llm
        self._is_aborted = False

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.finished:
            raise StopAsyncIteration
        while self not in self._llm.batch:  # noqa: ASYNC110 - a stand-in steps as fast as it is asked
            await asyncio.sleep(0)  # in the library's queue
        await asyncio.sleep(0)  # a step
        self._llm.check()
        self._step()
        return self

    def abort(self) -> None:
        self._is_aborted = True

    async def aresult(self) -> RequestOutput:
        async for _ in self:
            pass
        return self

    def _step(self) -> None:
        output, params = self.outputs[0], self.params
        if self._is_aborted:
            self._end("cancelled")
            return
        if output.token_ids and output.token_ids[-1] in self._llm.poison:
            self._end(None)
            raise RequestError("this request cannot be served")
        output.token_ids.append(self._left.pop(0))
        stops = params.stop_token_ids or []
        if not params.ignore_eos and output.token_ids[-1] in {END_ID, *stops}:
            if output.token_ids[-1] in stops:
                output.stop_reason = output.token_ids[-1]
                if not params.include_stop_str_in_output:
                    output.token_ids = output.token_ids[:-1]
            self._end("stop")
        elif not self._left:
            self._end("length")

    def _end(self, reason: str | None) -> None:
        self.outputs[0].finish_reason = reason
        self.finished = True
        self._llm.requests.remove(self)


class Llm:
    """poison: a request that has just made one of these tokens fails. is_dead: every request fails."""

    def __init__(
        self,
        model: str,
        *,
        max_batch_size: int,
        max_num_tokens: int,
        max_seq_len: int,
        kv_cache_config: KvCacheConfig,
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        trust_remote_code: bool = False,
        enable_chunked_prefill: bool = False,
        guided_decoding_backend: str | None = None,
        scheduler_config: SchedulerConfig | None = None,
    ) -> None:
        assert not trust_remote_code
        self.arguments = {name: value for name, value in locals().items() if name != "self"}
        self.requests: list[RequestOutput] = []
        self.asked: list[tuple[SamplingParams, float]] = []
        self.poison: set[int] = set()
        self.is_dead = self.is_down = False

    @property
    def batch(self) -> list[RequestOutput]:
        return self.requests[: self.arguments["max_batch_size"]]

    def generate_async(
        self,
        inputs: list[int],
        sampling_params: SamplingParams | None = None,
        *,
        streaming: bool = False,
        priority: float = 0.5,
    ) -> RequestOutput:
        asyncio.get_running_loop()  # it makes its queues there
        assert streaming
        assert 0 <= priority <= 1
        params = sampling_params or SamplingParams()
        if len(inputs) + params.max_tokens > self.arguments["max_seq_len"]:
            raise ValueError("prompt and max_tokens exceed max_seq_len")
        if params.guided_decoding and isinstance(params.guided_decoding.json, str):
            schema = json.loads(params.guided_decoding.json)
            if schema.get("type") == "unheard of":
                raise ValueError("the schema is not understood")
        self.check()
        request = RequestOutput(self, list(inputs), params)
        self.requests.append(request)
        self.asked.append((params, priority))
        return request

    def check(self) -> None:
        if self.is_down or self.is_dead:
            raise RuntimeError("LLM is shutting down")

    def shutdown(self) -> None:
        self.is_down = True


def library(version: str = __version__) -> Any:
    """A module's stand-in; `llm` is the last one that was made."""
    made = SimpleNamespace(__version__=version, SamplingParams=SamplingParams, llm=None)

    class Kept(Llm):
        def __init__(self, model: str, **arguments: Any) -> None:
            super().__init__(model, **arguments)
            made.llm = self

    made.LLM = Kept
    made.llmapi = SimpleNamespace(
        GuidedDecodingParams=GuidedDecodingParams,
        KvCacheConfig=KvCacheConfig,
        SchedulerConfig=SchedulerConfig,
        RequestError=RequestError,
    )
    return made
