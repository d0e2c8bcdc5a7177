"""The TensorRT-LLM ensemble from the gateway's side: tokens of one request, and its end when the caller leaves.

Owns what the ensemble does not do by itself: the running step goes on when its request is cancelled, so it is stopped
by its id, with a second request to `tensorrt_llm`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from gateway.checkpoint.trtllm_ensemble import ensemble_models
from gateway.errors import UpstreamError
from gateway.ports import GenerationParams
from gateway.triton import TritonClient, Value, read_outputs

STOP_S = 2.0

log = logging.getLogger("tidegate.engine")


class EnsembleClient:
    """max_batch: as the repository was rendered."""

    def __init__(self, client: TritonClient, max_batch: int) -> None:
        self._client = client
        _, self._llm, _, ensemble = ensemble_models(max_batch)
        self._ensemble = replace(ensemble, decoupled=True)  # as Triton infers it of the steps

    async def generate(
        self, prompt: str, params: GenerationParams, *, timeout_s: float
    ) -> AsyncIterator[list[int]]:
        """New tokens as they come. Leaving the iterator in any way stops the request on the GPU.

        Raises: UpstreamError and its subclasses.
        """
        request_id = uuid.uuid4().hex
        is_over = False
        answers = self._client.stream_with(
            read_outputs, self._ensemble, _inputs(prompt, params), timeout_s=timeout_s, request_id=request_id
        )
        try:
            async with aclosing(answers):
                async for outputs in answers:
                    ids = cast(npt.NDArray[np.int32], outputs["output_ids"])
                    yield [int(token) for token in ids.ravel()]
            is_over = True
        finally:
            if not is_over:
                await self._stop(request_id)

    async def _stop(self, request_id: str) -> None:
        one = np.array([1], np.int32)
        inputs: dict[str, Value] = {
            "input_ids": one, "input_lengths": one, "request_output_len": one, "stop": np.array([True])
        }  # fmt: skip
        model = replace(
            self._llm,
            inputs=tuple(replace(each, dims=(1,)) for each in self._llm.inputs),
            outputs=tuple(replace(each, optional=True) for each in self._llm.outputs),  # its answer is empty
        )
        try:
            answers = self._client.stream_with(
                read_outputs, model, inputs, timeout_s=STOP_S, request_id=request_id
            )
            async with aclosing(answers):
                async for _ in answers:
                    pass
        except UpstreamError as error:
            log.warning("a request was left and could not be stopped: %s", error.detail or error)


def _inputs(prompt: str, params: GenerationParams) -> dict[str, Value]:
    inputs: dict[str, Value] = {
        "text_input": prompt,
        "max_tokens": np.array([params.max_tokens], np.int32),
        "stream": np.array([True]),
    }
    if params.temperature > 0:
        inputs |= {
            "temperature": np.array([params.temperature], np.float32),
            "top_p": np.array([params.top_p], np.float32),
        }
        if params.seed is not None:
            inputs["seed"] = np.array([params.seed], np.uint64)
    else:
        inputs["top_k"] = np.array([1], np.int32)
    if params.json_schema:
        inputs |= {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": params.json_schema}
    return inputs
