"""Tells a sick Triton model from a busy one. Triton cannot: with every model stub dead it still calls itself ready.

The rule, per model:

1. An answer `Stub process … is not healthy`, or a stub process that is gone, is death at once.
2. Life is shown by: a canary answered (an error of the model's own code is an answer), or Triton's count of
   finished inferences of that model growing. Work is shown by the stub using processor time, or standing in line for
   it: on a machine with more work than processors a healthy stub may get next to none.
3. No sign of life or work for SUSPECT_AFTER_S: taken out of the balancer, comes back with the next sign of life.
   For DEAD_AFTER_S: death. Working but not one inference finished for STUCK_AFTER_S: death too.
4. A background model gets no processor while others are busy, so its silence says little: it is never suspect, and dead
   only when not one inference has finished for BACKGROUND_STUCK_S.

So a replica whose canaries are late because it is loaded is never killed: its finished inferences show its life.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import grpc
import msgspec
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.tensors import EMBEDDING_DIM, Model, split_stream_error
from gateway.types import Scope

INTERVAL_S = 0.5
TIMEOUT_S = 1.5
SUSPECT_AFTER_S = 3.0
DEAD_AFTER_S = 10.0
STUCK_AFTER_S = 60.0
BACKGROUND_STUCK_S = 600.0
BUSY_SHARE = 0.05  # of one core; less is a stub that waits for something


class Verdict(enum.StrEnum):
    WELL = "well"
    SUSPECT = "suspect"
    DEAD = "dead"


class Answer(enum.StrEnum):
    """What came back from one canary."""

    GOOD = "good"
    ERROR = "error"  # the model's own code, or its queue, said no: it lives
    LATE = "late"  # nothing in time, or no connection
    STUB_DEAD = "stub_dead"


class Pulse:
    """Signs of life of one model. Times are monotonic seconds and come as arguments."""

    def __init__(self, now_s: float, *, is_background: bool = False) -> None:
        self._is_background = is_background
        self._alive_s = now_s
        self._busy_s = now_s
        self._seen_s = now_s
        self._work_s = 0.0
        self._num_finished = 0
        self._stub_dead = False

    def answered(self, answer: Answer, now_s: float) -> None:
        if answer is Answer.STUB_DEAD:
            self._stub_dead = True
        elif answer is not Answer.LATE:
            self._alive_s = now_s

    def stub_died(self) -> None:
        self._stub_dead = True

    def observed(self, num_finished: int, stub_work_s: float, now_s: float) -> None:
        """Take what there is so far: inferences that Triton has finished, and seconds of processor time that the stub
        has used or stood in line for."""
        if num_finished > self._num_finished:
            self._num_finished, self._alive_s = num_finished, now_s
        if stub_work_s - self._work_s >= BUSY_SHARE * (now_s - self._seen_s):
            self._busy_s = now_s
        self._work_s, self._seen_s = stub_work_s, now_s

    def verdict(self, now_s: float) -> Verdict:
        silent_s = now_s - self._alive_s
        if self._is_background and not self._stub_dead:
            return Verdict.DEAD if silent_s >= BACKGROUND_STUCK_S else Verdict.WELL
        idle_s = now_s - max(self._alive_s, self._busy_s)
        if self._stub_dead or idle_s >= DEAD_AFTER_S or silent_s >= STUCK_AFTER_S:
            return Verdict.DEAD
        return Verdict.SUSPECT if idle_s >= SUSPECT_AFTER_S else Verdict.WELL


def canary_request(model: Model) -> Any:
    """The smallest valid inference of a model: ModelInferRequest with one row."""
    values = {
        "text": b"canary",
        "question": b"canary",
        "passages": b"[]",
        "candidates": b"[]",
        "params": b"{}",
        "scope": msgspec.json.encode(Scope(tenant_id="tidegate-canary", k=1)),
    }
    request = service_pb2.ModelInferRequest(model_name=model.name, id="canary")
    for tensor in model.inputs:
        if (
            tensor.name == "max_tokens"
        ):  # of a generative tier, all of whose inputs are optional: nothing is asked for
            request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=tensor.dims)
            request.raw_input_contents.append(np.zeros(1, np.int32).tobytes())
        if tensor.optional:
            continue
        dims = [EMBEDDING_DIM if size < 0 else size for size in tensor.dims]  # only embeddings vary in length
        shape = dims if model.max_batch_size == 0 else [1, *dims]
        request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=shape)
        if tensor.dtype == "BYTES":
            value = values[tensor.name]
            request.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
        else:
            size = int(np.prod(dims))
            request.raw_input_contents.append(np.full(size, size**-0.5, np.float32).tobytes())
    return request


def judge(code: grpc.StatusCode, details: str) -> Answer:
    """Read a failed call."""
    if "Stub process" in details and "not healthy" in details:
        return Answer.STUB_DEAD
    said = (
        "queue" in details or "vector_store_" in details
    )  # by Triton; by the model `search`, whose store is away
    no_connection = code is grpc.StatusCode.UNAVAILABLE and not said
    if no_connection or code in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}:
        return Answer.LATE
    return Answer.ERROR


class Canary:
    """Sends canaries straight to one replica's gRPC port, past the balancer."""

    def __init__(self, target: str) -> None:
        backoff = ("initial", "min", "max")
        options = [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in backoff]
        options.append(("grpc.enable_http_proxy", 0))
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def sing(self, model: Model) -> tuple[Answer, str]:
        """One inference; never raises for what the server did. Returns the answer and the error text."""
        try:
            if model.decoupled:
                call = self._stub.ModelStreamInfer(iter_once(canary_request(model)), timeout=TIMEOUT_S)
                async for message in call:
                    if message.error_message:
                        status, text = split_stream_error(message.error_message)
                        code = grpc.StatusCode.__members__.get(status, grpc.StatusCode.INTERNAL)
                        return judge(code, text), text
            else:
                await self._stub.ModelInfer(canary_request(model), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            return judge(error.code(), details), details
        return Answer.GOOD, ""

    async def server_ready(self) -> bool:
        try:
            reply = await self._stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.ready)

    async def finished(self) -> dict[str, int]:
        """Inferences each model has finished since its start; empty when Triton does not say."""
        try:
            reply = await self._stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return {}
        return {entry.name: int(entry.inference_stats.success.count) for entry in reply.model_stats}

    async def close(self) -> None:
        await self._channel.close()


def iter_once(request: Any) -> Iterator[Any]:
    yield request
