"""ports.Engine over OpenVINO GenAI's continuous batching, for a CPU.

A step of the pipeline holds the interpreter's lock from beginning to end, so a thread for it would gain nothing:
one task of the event loop steps, hands the new tokens out, lets the other tasks run, and steps again.

Admission is ours. The pipeline takes more than its cache holds and then loses requests, and ids that no token has, and
prompts longer than the model knows: so there is room in the cache for all slots at full length, and everything is
checked before it goes in.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway.checkpoint.chat_format import positive
from gateway.errors import InvalidRequest, UpstreamError
from gateway.generation.slot_gate import SlotGate
from gateway.ports import EngineLoad, GenerationParams, TokenStep
from gateway.tier_config import GenerateTier

BLOCK_TOKENS = 32  # of the cache's blocks on a CPU
BATCH_TOKENS = 256  # a step works on at most so many: bounds how long a long prompt holds the others up

log = logging.getLogger("tidegate.engine")


class OpenVinoEngine:
    """folder: a prepared checkpoint. end_ids: tokens that end an output.

    Loading takes seconds; then everything happens in the running event loop. is_broken: a step has failed, which leaves
    the pipeline in a state that nobody knows; this engine takes nothing any more.
    """

    def __init__(self, folder: Path, tier: GenerateTier, end_ids: Collection[int]) -> None:
        self._gate = SlotGate(tier.slots, tier.context_tokens, positive(folder, "vocab_size"))
        self._end_ids = set(end_ids)
        self._genai, self._pipeline = _load(folder, tier)
        self._tensor = _openvino().Tensor
        self._ids = itertools.count()  # never used twice: that would break the pipeline
        self._running: dict[int, _Request] = {}
        self._leaving: list[int] = []  # cancelled; their slots are free once a step has passed
        self._wake = asyncio.Event()
        self._stepping: asyncio.Task[None] | None = None
        self._is_closed = False
        self.is_broken = False

    async def generate(self, prompt_ids: Sequence[int], params: GenerationParams) -> AsyncIterator[TokenStep]:
        """As in ports.Engine. An equal seed gives equal tokens; only f32 weights keep that under any load."""
        max_tokens = self._check(prompt_ids, params)
        number, request = self._admit(prompt_ids, self._config(params, max_tokens))
        try:
            while True:
                step = await request.next_step()
                yield step
                if step.finish_reason:
                    return
        finally:
            self._leave(number)

    def load(self) -> EngineLoad:
        usage = self._pipeline.get_metrics().cache_usage / 100 if self._running else 0.0
        return EngineLoad(len(self._running), self._gate.slots, float(usage))

    async def close(self) -> None:
        self._is_closed = True
        self._wake.set()
        if self._stepping is not None:
            await self._stepping

    def _check(self, prompt_ids: Sequence[int], params: GenerationParams) -> int:
        """How many tokens may be made. Raises: PromptTooLong, InvalidRequest, EngineFull, UpstreamError."""
        if params.json_schema:
            raise InvalidRequest("json_schema: the engine openvino cannot keep to one.")
        max_tokens = self._gate.check(prompt_ids, params, len(self._running))
        if self.is_broken:
            raise UpstreamError("the engine has failed and is being replaced.")
        if self._is_closed:
            raise UpstreamError("the engine is being closed.")
        return max_tokens

    def _config(self, params: GenerationParams, max_tokens: int) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = params.ignore_eos
        if not params.ignore_eos:
            config.stop_token_ids = self._end_ids
        if params.temperature > 0:
            config.do_sample = True
            config.temperature = params.temperature
            config.top_p = params.top_p
            config.rng_seed = secrets.randbits(63) if params.seed is None else params.seed
        return config

    def _admit(self, prompt_ids: Sequence[int], config: Any) -> tuple[int, _Request]:
        number = next(self._ids)
        ids = self._tensor(np.array([prompt_ids], np.int64))
        try:
            handle = self._pipeline.add_request(number, ids, config)
        except RuntimeError as error:
            raise UpstreamError("the engine refused the request.", detail=str(error)) from error
        self._running[number] = request = _Request(handle)
        if self._stepping is None:
            self._stepping = asyncio.get_running_loop().create_task(self._step_on())
        self._wake.set()
        return number, request

    def _leave(self, number: int) -> None:
        request = self._running.get(number)
        if request is None:
            return
        if request.is_done:
            del self._running[number]
        else:
            request.handle.cancel()
            self._leaving.append(number)

    async def _step_on(self) -> None:
        """Until closed or broken: step while there is work, sleep while there is none."""
        while not self._is_closed and not self.is_broken:
            if not self._running:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._step()
            # Whoever got a token goes on, and what came over the wire meanwhile is taken in.
            await asyncio.sleep(0)
        if self._running and not self.is_broken:
            for request in self._running.values():
                request.handle.cancel()
                request.fail(UpstreamError("the engine is being closed."))
            self._step()  # lets go of them

    def _step(self) -> None:
        leaving, self._leaving = self._leaving, []
        try:
            self._pipeline.step()
        except Exception as error:
            log.exception("a step failed")
            self.is_broken = True
            for request in self._running.values():
                request.fail(UpstreamError("the engine failed on this batch.", detail=str(error)))
        for number in leaving:
            self._running.pop(number, None)
        for request in self._running.values():
            request.collect(self._genai)


class _Request:
    """One request's way out: the steps that were made and not fetched yet."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.is_done = False  # the pipeline has let go of it
        self._steps: list[TokenStep] = []
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next_step(self) -> TokenStep:
        """Raises: UpstreamError."""
        if not self._steps and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._steps:
            return self._steps.pop(0)
        raise self._error or UpstreamError("the engine lost the request.")

    def collect(self, genai: Any) -> None:
        if self.is_done:
            return
        while self.handle.can_read():
            for output in self.handle.read().values():
                reason = _REASONS.get(output.finish_reason.name, "")
                self.is_done = self.is_done or bool(reason)
                self._steps.append(TokenStep(output.generated_ids, reason))
        if not self.is_done and self.handle.get_status() == genai.GenerationStatus.IGNORED:
            self.fail(UpstreamError("the engine had no room for the request."))
        if self._steps:
            self._notify()

    def fail(self, error: UpstreamError) -> None:
        self.is_done, self._error = True, error
        self._notify()

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_REASONS = {"STOP": "stop", "LENGTH": "length"}


def _openvino() -> Any:
    # Its package for statistics would report every import to the maker of OpenVINO.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _load(folder: Path, tier: GenerateTier) -> tuple[Any, Any]:
    """The library and the pipeline. Raises: RuntimeError, of the library."""
    _openvino()
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = num_blocks(tier)
    scheduler.max_num_batched_tokens = BATCH_TOKENS
    scheduler.enable_prefix_caching = True
    properties: dict[str, object] = {"INFERENCE_NUM_THREADS": tier.num_threads} if tier.num_threads else {}
    if tier.weights == "f32":  # by default the runtime computes in bf16 and keeps keys and values in 8 bits
        properties |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    elif tier.weights == "bf16" and 1 in (tier.num_threads, len(os.sched_getaffinity(0))):
        # With AMX the runtime divides layers of such weights by pairs of threads, and half of one ends the process
        # (2026.4.1; openvino issue 33300).
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
    return openvino_genai, pipeline


def num_blocks(tier: GenerateTier) -> int:
    """Blocks with which every slot can be full at once; one more each, as tokens are written ahead."""
    return tier.slots * (-(-tier.context_tokens // BLOCK_TOKENS) + 1)
