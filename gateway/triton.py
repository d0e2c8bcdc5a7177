"""Client of Triton's KServe v2 gRPC protocol, over raw stubs.

Owns the wire: building requests from tensors.py, reading raw outputs, cancelling, mapping every gRPC status to one
of our errors, and one retry on another replica. Refuses to know what any model means.

The stock client classes are left aside: their aio stream opens no empty final response and wraps each message.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.request_id import HEADER as REQUEST_ID_HEADER
from gateway.request_id import current as request_id_of_task
from gateway.tensors import Model, Tensor, split_stream_error
from gateway.tracing import spans

MAX_MESSAGE_BYTES = 16 * 2**20
# By these the balancer finds the replicas that have a model, and the side of a conversation while a version is tried.
MODEL_HEADER, PIN_HEADER = "x-tidegate-model", "x-tidegate-pin"
INFER, STREAM = (f"inference.GRPCInferenceService/{name}" for name in ("ModelInfer", "ModelStreamInfer"))

Value: TypeAlias = bytes | str | Sequence[bytes] | npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[Any]
Outputs: TypeAlias = dict[str, Array | list[bytes]]
Layout: TypeAlias = tuple[tuple[str, str], ...]  # name and dtype of each output of an answer
Read = TypeVar("Read")

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT64": np.dtype("<u8"),
    "UINT8": np.dtype(np.uint8),
    "FP32": np.dtype("<f4"),
}

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

_UNAVAILABLE = (UpstreamUnavailable, "upstream_unavailable", "The model server is not available right now.")
_TIMEOUT = (UpstreamTimeout, "upstream_timeout", "The model server did not answer in time.")
_PROTOCOL = (
    UpstreamProtocolError,
    "upstream_protocol_error",
    "The model server refused a request as malformed.",
)
_FAILED = (UpstreamError, "upstream_error", "The model server failed to process the request.")
_DEAD = (UpstreamUnavailable, "replica_dead", "A model process has died and is being replaced.")
_STORE_AWAY = (
    UpstreamUnavailable,
    "vector_store_unavailable",
    "The vector store is not available right now; try again shortly.",
)
_ABSENT = (UpstreamUnavailable, "model_not_ready", "The model is not loaded yet.")

STATUS_ERRORS: dict[grpc.StatusCode, tuple[type[UpstreamError], str, str]] = {
    grpc.StatusCode.OK: _PROTOCOL,  # an error that says OK
    grpc.StatusCode.CANCELLED: _UNAVAILABLE,  # by the server or the balancer: our own cancel never comes here
    grpc.StatusCode.UNKNOWN: _FAILED,
    grpc.StatusCode.INVALID_ARGUMENT: _PROTOCOL,
    grpc.StatusCode.DEADLINE_EXCEEDED: _TIMEOUT,
    grpc.StatusCode.NOT_FOUND: _ABSENT,
    grpc.StatusCode.ALREADY_EXISTS: _PROTOCOL,
    grpc.StatusCode.PERMISSION_DENIED: _PROTOCOL,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _UNAVAILABLE,
    grpc.StatusCode.FAILED_PRECONDITION: _PROTOCOL,
    grpc.StatusCode.ABORTED: _UNAVAILABLE,
    grpc.StatusCode.OUT_OF_RANGE: _PROTOCOL,
    grpc.StatusCode.UNIMPLEMENTED: _PROTOCOL,
    grpc.StatusCode.INTERNAL: _FAILED,
    grpc.StatusCode.UNAVAILABLE: _UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS: _FAILED,
    grpc.StatusCode.UNAUTHENTICATED: _PROTOCOL,
}

_IS_FINAL = "triton_final_response"
_DEAD_STUB_MARKS = ("Stub process", "is not healthy")
_ABSENT_MARKS = (
    "unknown model",
    "has no available versions",
    "is not ready",
)  # Triton's words, without a status
_STORE_MARK = "vector_store_"  # the codes by which the model `search` says that its store does not answer
_CUT_OFF_MARK = "RST_STREAM"  # how the balancer passes on that a replica's connection broke in mid-stream


def map_status(code: grpc.StatusCode, details: str, model: str) -> UpstreamError:
    """Our error for a gRPC status. The server's own words go to `detail`, never to the caller."""
    kind, word, message = STATUS_ERRORS.get(code, _FAILED)
    if code is grpc.StatusCode.INTERNAL and any(mark in details for mark in _DEAD_STUB_MARKS):
        kind, word, message = _DEAD
    elif code is grpc.StatusCode.INTERNAL and _CUT_OFF_MARK in details:
        kind, word, message = _UNAVAILABLE
    elif code is grpc.StatusCode.UNAVAILABLE and _STORE_MARK in details:
        kind, word, message = _STORE_AWAY
    return kind(message, code=word, detail=f"{model}: {code.name}: {details}")


def map_message(message: str, model: str) -> UpstreamError:
    """Our error for an error message within a stream."""
    status, text = split_stream_error(message)
    code = grpc.StatusCode.__members__.get(status, grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL and any(mark in text for mark in _ABSENT_MARKS):
        code = grpc.StatusCode.NOT_FOUND
    return map_status(code, text, model)


def pack_bytes(items: Iterable[bytes]) -> bytes:
    """KServe's BYTES tensor: each element behind its length as 4 little-endian bytes."""
    return b"".join([len(item).to_bytes(4, "little") + item for item in items])


def unpack_bytes(raw: bytes) -> list[bytes]:
    """Inverse of pack_bytes. Raises: UpstreamProtocolError when a length points past the end."""
    items, at, end = [], 0, len(raw)
    while at < end:
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        if at > end:
            raise _protocol_error("a BYTES element is cut off")
        items.append(raw[start:at])
    return items


def _protocol_error(what: str) -> UpstreamProtocolError:
    return UpstreamProtocolError("The model server gave a malformed answer.", detail=what)


class Plan(NamedTuple):
    """All of a call that does not change from request to request."""

    model: Model
    batch: int
    template: Any  # ModelInferRequest without its data
    tensors: tuple[Tensor, ...]  # in the order of the template's inputs
    output_dtypes: dict[str, str]
    required_outputs: frozenset[str]
    layouts: dict[Layout, tuple[str, ...]]  # of answers that were found to fit, with their outputs' names


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
                    raise _protocol_error(f"{model.name}: the stream ended before its final response")
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


def make_plan(model: Model, names: Iterable[str], batch: int) -> Plan:
    known = {tensor.name: tensor for tensor in model.inputs}
    unknown = sorted(set(names) - known.keys())
    missing = [
        tensor.name for tensor in model.inputs if not tensor.optional and tensor.name not in set(names)
    ]
    if unknown or missing:
        raise ValueError(f"{model.name}: unknown inputs {unknown}, missing inputs {missing}")
    if not 1 <= batch <= max(model.max_batch_size, 1):
        raise ValueError(f"{model.name}: batch {batch} is outside 1..{max(model.max_batch_size, 1)}")
    tensors = tuple(known[name] for name in names)
    template = service_pb2.ModelInferRequest(model_name=model.name)  # naming no outputs asks for all of them
    leading = (batch,) if model.max_batch_size else ()
    for tensor in tensors:
        template.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=[*leading, *tensor.dims])
    if model.decoupled:
        template.parameters["triton_enable_empty_final_response"].bool_param = True
    dtypes = {tensor.name: tensor.dtype for tensor in model.outputs}
    required = frozenset(tensor.name for tensor in model.outputs if not tensor.optional)
    return Plan(model, batch, template, tensors, dtypes, required, {})


def fill(plan: Plan, inputs: Mapping[str, Value]) -> Any:
    request = service_pb2.ModelInferRequest()
    request.CopyFrom(plan.template)
    for number, tensor in enumerate(plan.tensors):
        value = inputs[tensor.name]
        request.raw_input_contents.append(_encode(tensor, value, plan.batch))
        if -1 in tensor.dims:  # only then does the shape depend on the value
            shape = np.shape(value)
            if len(shape) != len(request.inputs[number].shape):
                raise ValueError(f"{tensor.name}: expected {plan.batch} x {tensor.dims} values, got {shape}")
            request.inputs[number].shape[:] = shape
    return request


def _encode(tensor: Tensor, value: Value, batch: int) -> bytes:
    if tensor.dtype == "BYTES":
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes):
            value = (value,)
        if isinstance(value, np.ndarray) or len(value) != batch * math.prod(tensor.dims):
            raise ValueError(f"{tensor.name}: expected {batch} x {tensor.dims} byte strings")
        return pack_bytes(value)
    if not isinstance(value, np.ndarray) or value.dtype != DTYPES[tensor.dtype]:
        raise ValueError(f"{tensor.name}: expected a numpy array of {tensor.dtype}")
    if -1 not in tensor.dims and value.size != batch * math.prod(tensor.dims):
        raise ValueError(f"{tensor.name}: expected {batch} x {tensor.dims} values, got {value.size}")
    return value.tobytes()


def read_raw(plan: Plan, answer: Any) -> dict[str, bytes]:
    """Outputs by name, as they came over the wire. Raises: UpstreamProtocolError as `read_outputs`."""
    layout = tuple([(output.name, output.datatype) for output in answer.outputs])
    names = plan.layouts.get(layout)
    if names is None:  # a model has one or two: each is judged once, not with every token
        names = plan.layouts[layout] = _names_of(plan, layout)
    raws = list(answer.raw_output_contents)
    if len(raws) != len(names):
        raise _protocol_error(f"{plan.model.name}: {len(names)} outputs but {len(raws)} contents")
    return dict(zip(names, raws, strict=True))


def _names_of(plan: Plan, layout: Layout) -> tuple[str, ...]:
    """Raises: UpstreamProtocolError when these are not outputs of the model, or lack one that it must give."""
    model, known = plan.model.name, plan.output_dtypes.items()
    unexpected = [f"{name} of {dtype}" for name, dtype in layout if (name, dtype) not in known]
    if unexpected:
        raise _protocol_error(f"{model}: unexpected output {unexpected[0]}")
    names = tuple(name for name, _ in layout)
    missing = plan.required_outputs - set(names)
    if missing or len(set(names)) != len(names):
        raise _protocol_error(f"{model}: outputs missing or doubled: {sorted(missing or names)}")
    return names


def read_outputs(plan: Plan, answer: Any) -> Outputs:
    """Outputs by name, BYTES as lists. Raises: UpstreamProtocolError when the answer does not fit tensors.py."""
    raws = read_raw(plan, answer)
    return {
        output.name: unpack_bytes(raws[output.name])
        if output.datatype == "BYTES"
        else _array(output.name, output.datatype, output.shape, raws[output.name])
        for output in answer.outputs
    }


def _array(name: str, dtype: str, shape: Sequence[int], raw: bytes) -> Array:
    kind = DTYPES[dtype]
    if len(raw) != math.prod(shape) * kind.itemsize:
        raise _protocol_error(f"{name}: {len(raw)} bytes do not fill shape {list(shape)} of {dtype}")
    return np.frombuffer(raw, kind).reshape(shape)
