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
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.tensors import Model, Tensor

MAX_MESSAGE_BYTES = 16 * 2**20

Value: TypeAlias = bytes | str | Sequence[bytes] | npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[Any]
Outputs: TypeAlias = dict[str, Array | list[bytes]]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
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

_DEAD_STUB_MARKS = ("Stub process", "is not healthy")


def map_status(code: grpc.StatusCode, details: str, model: str) -> UpstreamError:
    """Our error for a gRPC status. The server's own words go to `detail`, never to the caller."""
    dead = code is grpc.StatusCode.INTERNAL and any(mark in details for mark in _DEAD_STUB_MARKS)
    kind, word, message = _DEAD if dead else STATUS_ERRORS.get(code, _FAILED)
    return kind(message, code=word, detail=f"{model}: {code.name}: {details}")


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
        try:
            return await self._next_stub().ModelInfer(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise map_status(error.code(), error.details() or "", model.name) from error

    async def stream(
        self, model: Model, inputs: Mapping[str, Value], *, timeout_s: float
    ) -> AsyncGenerator[Outputs, None]:
        """The answers of one request to a decoupled model, until its final one.

        Leaving the iterator in any way (break, cancel, aclose) cancels the call, and with it the request on Triton.
        Raises: as `infer`. Errors after the first answer are never retried here.
        """
        plan = self._plan(model, inputs, 1)
        request = fill(plan, inputs)
        deadline = time.monotonic() + timeout_s
        started = False
        for is_last_try in (False, True):
            try:
                async with aclosing(self._stream_once(plan, request, _left(deadline))) as answers:
                    async for outputs in answers:
                        started = True
                        yield outputs
                return
            except UpstreamUnavailable:
                if started or is_last_try:
                    raise

    async def _stream_once(self, plan: Plan, request: Any, timeout_s: float) -> AsyncGenerator[Outputs, None]:
        name = plan.model.name
        deadline = time.monotonic() + timeout_s
        call = self._next_stub().ModelStreamInfer(
            timeout=timeout_s, metadata=(("triton_grpc_error", "true"),)
        )
        try:
            await call.write(request)
            await call.done_writing()
            is_final = False
            # Reads past the final answer to the end of the stream, so that a finished call is not counted as cancelled.
            while (message := await call.read()) is not grpc.aio.EOF:
                if message.error_message:
                    raise map_status(grpc.StatusCode.INTERNAL, message.error_message, name)
                answer = message.infer_response
                final = answer.parameters.get("triton_final_response")
                is_final = is_final or (final is not None and final.bool_param)
                if answer.outputs:
                    yield read_outputs(plan, answer)
            if not is_final:
                raise _protocol_error(f"{name}: the stream ended before its final response")
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code is grpc.StatusCode.INTERNAL and time.monotonic() >= deadline:
                code = grpc.StatusCode.DEADLINE_EXCEEDED  # how a write that meets the deadline is told
            raise map_status(code, error.details() or "", name) from error
        finally:
            call.cancel()

    async def ready(self, model_names: Iterable[str], *, timeout_s: float = 2.0) -> bool:
        """Whether the server says that all these models are loaded. A dead stub still counts as loaded there."""
        calls = [self._is_model_ready(name, timeout_s) for name in model_names]
        return all(await asyncio.gather(*calls))

    async def _is_model_ready(self, name: str, timeout_s: float) -> bool:
        try:
            answer = await self._stubs[0].ModelReady(
                service_pb2.ModelReadyRequest(name=name), timeout=timeout_s
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
    return Plan(model, batch, template, tensors, {tensor.name: tensor.dtype for tensor in model.outputs})


def fill(plan: Plan, inputs: Mapping[str, Value]) -> Any:
    request = service_pb2.ModelInferRequest()
    request.CopyFrom(plan.template)
    for number, tensor in enumerate(plan.tensors):
        value = inputs[tensor.name]
        request.raw_input_contents.append(_encode(tensor, value, plan.batch))
        if -1 in tensor.dims:  # only then does the shape depend on the value
            request.inputs[number].shape[:] = np.shape(value)
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


def read_outputs(plan: Plan, answer: Any) -> Outputs:
    """Outputs by name. Raises: UpstreamProtocolError when the answer does not fit tensors.py."""
    model, dtypes, raws = plan.model.name, plan.output_dtypes, answer.raw_output_contents
    if len(raws) != len(answer.outputs):
        raise _protocol_error(f"{model}: {len(answer.outputs)} outputs but {len(raws)} contents")
    outputs: Outputs = {}
    for output, raw in zip(answer.outputs, raws, strict=True):
        name, dtype = output.name, output.datatype
        if dtypes.get(name) != dtype:
            raise _protocol_error(f"{model}: unexpected output {name} of {dtype}")
        outputs[name] = unpack_bytes(raw) if dtype == "BYTES" else _array(name, dtype, output.shape, raw)
    if len(outputs) != len(dtypes):
        raise _protocol_error(f"{model}: outputs missing: {sorted(dtypes.keys() - outputs.keys())}")
    return outputs


def _array(name: str, dtype: str, shape: Sequence[int], raw: bytes) -> Array:
    kind = DTYPES[dtype]
    if len(raw) != math.prod(shape) * kind.itemsize:
        raise _protocol_error(f"{name}: {len(raw)} bytes do not fill shape {list(shape)} of {dtype}")
    return np.frombuffer(raw, kind).reshape(shape)
