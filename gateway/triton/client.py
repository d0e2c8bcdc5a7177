"""The client of one Triton, or of a balancer over several: unary calls, streams, cancelling, and one retry.

The stock client classes are left aside: their aio stream opens no empty final response and wraps each message.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import UpstreamError, UpstreamUnavailable
from gateway.request_id import HEADER as REQUEST_ID_HEADER
from gateway.request_id import current as request_id_of_task
from gateway.tensors import Model
from gateway.tracing import spans
from gateway.triton.coding import Outputs, Plan, Value, fill, make_plan, read_outputs
from gateway.triton.errors import map_message, map_status, protocol_error

MAX_MESSAGE_BYTES = 16 * 2**20
# By these the balancer finds the replicas that have a model, and the side of a conversation while a version is tried.
MODEL_HEADER, PIN_HEADER = "x-tidegate-model", "x-tidegate-pin"
INFER, STREAM = (f"inference.GRPCInferenceService/{name}" for name in ("ModelInfer", "ModelStreamInfer"))

Read = TypeVar("Read")

# Triton's server counts a ping more often than every 5 min as a strike, and two strikes close the connection.
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_http_proxy", 0),  # an operator's proxy is for the world outside, not for our own parts
    # No pings to measure the line: on loopback they would answer nearly every message.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels of a process share one connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_IS_FINAL = "triton_final_response"


class TritonClient:
    """One Triton, or a balancer over several, at `target` (host:port). Build it inside the running event loop.

    Calls that meet a dead or unreachable replica before any answer are repeated once, at once: inference has no
    side effects, and the balancer picks another replica. `timeout_s` covers both tries.
    """

    def __init__(self, target: str, *, num_channels: int = 1) -> None:
        self.target = target
        self._channels = [
            grpc.aio.insecure_channel(target, options=[*_CHANNEL_OPTIONS]) for _ in range(num_channels)
        ]
        self._stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._next_stub = itertools.cycle(self._stubs).__next__
        # The same method as the stub's, but with its one request sent in one go: fewer steps for each stream.
        self._next_stream = itertools.cycle(
            [
                channel.unary_stream(
                    f"/{STREAM}",
                    request_serializer=service_pb2.ModelInferRequest.SerializeToString,
                    response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
                )
                for channel in self._channels
            ]
        ).__next__
        self._plans: dict[tuple[str, int, tuple[str, ...]], Plan] = {}

    async def infer(
        self, model: Model, inputs: Mapping[str, Value], *, timeout_s: float, batch: int = 1
    ) -> Outputs:
        """One unary inference. BYTES outputs are flat lists, others arrays of the answered shape.

        batch: rows in each input; a BYTES input of several elements is a list, a numeric one [batch, *dims].
        Raises: UpstreamError and its subclasses; ValueError for inputs that tensors.py does not allow.
        """
        plan = self._plan(model, inputs, batch)
        request = fill(plan, inputs)
        deadline = time.monotonic() + timeout_s
        try:
            answer = await self._call(model, request, timeout_s)
        except UpstreamUnavailable:
            answer = await self._call(model, request, _left(deadline))
        return read_outputs(plan, answer)

    async def _call(self, model: Model, request: Any, timeout_s: float) -> Any:
        with spans.step(INFER, _about(model.name), is_call=True) as span:
            try:
                return await self._next_stub().ModelInfer(
                    request, timeout=timeout_s, metadata=_metadata(model.name, span)
                )
            except grpc.aio.AioRpcError as error:
                raise map_status(error.code(), error.details() or "", model.name) from error

    def stream(
        self, model: Model, inputs: Mapping[str, Value], *, timeout_s: float
    ) -> AsyncGenerator[Outputs, None]:
        """As `stream_with`, each answer read by `read_outputs`."""
        return self.stream_with(read_outputs, model, inputs, timeout_s=timeout_s)

    async def stream_with(
        self,
        read: Callable[[Plan, Any], Read],
        model: Model,
        inputs: Mapping[str, Value],
        *,
        timeout_s: float,
        pin: int | None = None,
        request_id: str = "",
    ) -> AsyncGenerator[Read, None]:
        """The answers of one request to a decoupled model, until its final one, each turned into what `read` makes.

        pin: a number >= 0, the same one for all that should meet the same version of the model. request_id: what some
        backends know a request by, to stop it.
        Leaving the iterator in any way (break, cancel, aclose) cancels the call, and with it the request on Triton.
        Raises: as `infer`. Errors after the first answer are never retried here.
        """
        # One generator, not two: what it costs is paid for every token.
        plan = self._plan(model, inputs, 1)
        request = fill(plan, inputs)
        request.id = request_id
        deadline = time.monotonic() + timeout_s
        is_first_try, started = True, False
        while True:
            span = spans.begin(STREAM, _about(model.name), is_call=True)
            metadata = _metadata(model.name, span, pin)
            call = self._next_stream()(request, timeout=_left(deadline), metadata=metadata)
            try:
                is_final = False
                # Reads past the final answer to the end of the stream, so that a finished call is not counted as
                # cancelled.
                while (message := await call.read()) is not grpc.aio.EOF:
                    if message.error_message:
                        raise map_message(message.error_message, model.name)
                    answer = message.infer_response
                    if _IS_FINAL in answer.parameters:
                        is_final = is_final or answer.parameters[_IS_FINAL].bool_param
                    if answer.outputs:
                        started = True
                        yield read(plan, answer)
                if not is_final:
                    raise protocol_error(f"{model.name}: the stream ended before its final response")
                return
            except grpc.aio.AioRpcError as error:
                failed = _stream_error(error, model.name, deadline)
                spans.tell(span, failed)
                if started or not is_first_try or not isinstance(failed, UpstreamUnavailable):
                    raise failed from error
            except UpstreamError as error:
                spans.tell(span, error)
                if started or not is_first_try or not isinstance(error, UpstreamUnavailable):
                    raise
            finally:
                call.cancel()
                spans.end(span)
            is_first_try = False

    async def ready(self, model_names: Iterable[str], *, timeout_s: float = 2.0) -> bool:
        """Whether the server says that all these models are loaded. A dead stub still counts as loaded there."""
        calls = [self._is_model_ready(name, timeout_s) for name in model_names]
        return all(await asyncio.gather(*calls))

    async def _is_model_ready(self, name: str, timeout_s: float) -> bool:
        try:
            answer = await self._stubs[0].ModelReady(
                service_pb2.ModelReadyRequest(name=name),
                timeout=timeout_s,
                metadata=((MODEL_HEADER, name),),
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def _plan(self, model: Model, inputs: Mapping[str, Value], batch: int) -> Plan:
        key = (model.name, batch, tuple(inputs))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = make_plan(model, inputs, batch)
        return plan


def _stream_error(error: grpc.aio.AioRpcError, model: str, deadline: float) -> UpstreamError:
    code = error.code()
    if code is grpc.StatusCode.INTERNAL and time.monotonic() >= deadline:
        code = grpc.StatusCode.DEADLINE_EXCEEDED  # how a write that meets the deadline is told
    return map_status(code, error.details() or "", model)


@cache
def _about(model: str) -> spans.Attributes:
    return {"rpc.system.name": "grpc", "tidegate.triton.model": model}


def _metadata(model: str, span: spans.Span | None, pin: int | None = None) -> list[tuple[str, str]]:
    """Of one call: where the balancer sends it, the request that it is part of, and its step in that one's trace."""
    found = [(MODEL_HEADER, model)]
    if span is not None:
        found += span.headers()
    if pin is not None:
        found.append((PIN_HEADER, str(pin)))
    if current := request_id_of_task():
        found.append((REQUEST_ID_HEADER, current))
    return found


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
