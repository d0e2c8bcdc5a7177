"""Tensors on the wire: a request's inputs into bytes, an answer's bytes into outputs, both held to tensors.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from gateway.tensors import Model, Tensor
from gateway.triton.errors import protocol_error

Value: TypeAlias = bytes | str | Sequence[bytes] | npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[Any]
Outputs: TypeAlias = dict[str, Array | list[bytes]]
Layout: TypeAlias = tuple[tuple[str, str], ...]  # name and dtype of each output of an answer

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT64": np.dtype("<u8"),
    "UINT8": np.dtype(np.uint8),
    "FP32": np.dtype("<f4"),
}


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
            raise protocol_error("a BYTES element is cut off")
        items.append(raw[start:at])
    return items


class Plan(NamedTuple):
    """All of a call that does not change from request to request."""

    model: Model
    batch: int
    template: Any  # ModelInferRequest without its data
    tensors: tuple[Tensor, ...]  # in the order of the template's inputs
    output_dtypes: dict[str, str]
    required_outputs: frozenset[str]
    layouts: dict[Layout, tuple[str, ...]]  # of answers that were found to fit, with their outputs' names


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
        raise protocol_error(f"{plan.model.name}: {len(names)} outputs but {len(raws)} contents")
    return dict(zip(names, raws, strict=True))


def _names_of(plan: Plan, layout: Layout) -> tuple[str, ...]:
    """Raises: UpstreamProtocolError when these are not outputs of the model, or lack one that it must give."""
    model, known = plan.model.name, plan.output_dtypes.items()
    unexpected = [f"{name} of {dtype}" for name, dtype in layout if (name, dtype) not in known]
    if unexpected:
        raise protocol_error(f"{model}: unexpected output {unexpected[0]}")
    names = tuple(name for name, _ in layout)
    missing = plan.required_outputs - set(names)
    if missing or len(set(names)) != len(names):
        raise protocol_error(f"{model}: outputs missing or doubled: {sorted(missing or names)}")
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
        raise protocol_error(f"{name}: {len(raw)} bytes do not fill shape {list(shape)} of {dtype}")
    return np.frombuffer(raw, kind).reshape(shape)
