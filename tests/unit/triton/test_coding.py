"""Requests have the tensors that tensors.py allows, and answers that do not fit it are refused."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from gateway.errors import UpstreamProtocolError
from gateway.tensors import EMBED, READER, RETRIEVE, SEARCH, Model, Tensor
from gateway.triton.coding import fill, make_plan, pack_bytes, read_outputs, unpack_bytes

CONTINUATION = Model("continuation", "test", (Tensor("ids", "INT32", (-1,)),), (), max_batch_size=0)


def test_bytes_are_packed_behind_their_length() -> None:
    assert pack_bytes([b"ab", b"", b"c"]) == b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c"
    assert unpack_bytes(pack_bytes([b"ab", b"", b"c"])) == [b"ab", b"", b"c"]


@pytest.mark.parametrize(
    "raw", [b"\x05\0\0\0ab", b"\x01\0", b"\x01\0\0\0ab"], ids=["short", "no-length", "tail"]
)
def test_cut_off_bytes_are_a_protocol_error(raw: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        unpack_bytes(raw)


def request_of(model: Model, inputs: dict, batch: int = 1) -> service_pb2.ModelInferRequest:
    return fill(make_plan(model, inputs, batch), inputs)


def test_request_has_tensors_and_contents_in_one_order() -> None:
    request = request_of(RETRIEVE, {"scope": b"{}", "text": "tide"})
    assert request.model_name == "retrieve"
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [
        ("scope", "BYTES", [1, 1]),
        ("text", "BYTES", [1, 1]),
    ]
    assert list(request.raw_input_contents) == [pack_bytes([b"{}"]), pack_bytes([b"tide"])]


def test_batch_and_missing_batch_dimension_shape_the_request() -> None:
    assert list(request_of(EMBED, {"text": [b"a", b"b"]}, 2).inputs[0].shape) == [2, 1]
    question = {"question": "q", "passages": b"[]", "params": b"{}"}
    assert list(request_of(READER, question).inputs[0].shape) == [1]


def test_open_dimension_takes_the_shape_of_its_value() -> None:
    plan = make_plan(CONTINUATION, ["ids"], 1)
    for size in (3, 0, 5):
        request = fill(plan, {"ids": np.arange(size, dtype=np.int32)})
        assert list(request.inputs[0].shape) == [size]
        assert len(request.raw_input_contents[0]) == 4 * size


def test_only_decoupled_models_are_asked_for_an_empty_final_answer() -> None:
    question = {"question": "q", "passages": b"[]", "params": b"{}"}
    wanted = "triton_enable_empty_final_response"
    assert request_of(READER, question).parameters[wanted].bool_param
    assert wanted not in request_of(EMBED, {"text": "x"}).parameters


@pytest.mark.parametrize(
    ("model", "inputs", "batch"),
    [
        (EMBED, {"role": "query"}, 1),
        (EMBED, {"text": "x", "colour": "red"}, 1),
        (EMBED, {"text": "x"}, 2),
        (EMBED, {"text": [b"x"] * 33}, 33),
        (SEARCH, {"text": "x", "scope": b"", "embedding": np.zeros(384)}, 1),
        (SEARCH, {"text": "x", "scope": b"", "embedding": np.zeros((1, 2, 384), np.float32)}, 1),
        (SEARCH, {"text": "x", "scope": b"", "embedding": "zero"}, 1),
    ],
    ids=["missing", "unknown", "rows", "batch", "float64", "size", "text-for-numbers"],
)
def test_inputs_that_tensors_do_not_allow_are_refused_here(model: Model, inputs: dict, batch: int) -> None:
    with pytest.raises(ValueError, match=r"inputs|batch|expected"):
        request_of(model, inputs, batch)


def answer_with(*outputs: tuple[str, str, list[int], bytes]) -> service_pb2.ModelInferResponse:
    answer = service_pb2.ModelInferResponse()
    for name, datatype, shape, raw in outputs:
        answer.outputs.add(name=name, datatype=datatype, shape=shape)
        answer.raw_output_contents.append(raw)
    return answer


VECTOR = ("embedding", "FP32", [1, 384], np.ones(384, np.float32).tobytes())


def test_outputs_are_read_by_name() -> None:
    plan = make_plan(EMBED, ["text"], 1)
    outputs = read_outputs(plan, answer_with(VECTOR))
    assert outputs["embedding"].shape == (1, 384)
    assert outputs["embedding"].dtype == np.float32


@pytest.mark.parametrize(
    "answer",
    [
        answer_with(),
        answer_with(VECTOR, ("extra", "FP32", [1], b"\0\0\0\0")),
        answer_with(("embedding", "INT32", [1, 384], VECTOR[3])),
        answer_with(("embedding", "FP32", [2, 384], VECTOR[3])),
        service_pb2.ModelInferResponse(outputs=answer_with(VECTOR).outputs),
    ],
    ids=["missing", "unknown", "dtype", "size", "no-contents"],
)
def test_answer_that_does_not_fit_tensors_is_a_protocol_error(answer: service_pb2.ModelInferResponse) -> None:
    with pytest.raises(UpstreamProtocolError):
        read_outputs(make_plan(EMBED, ["text"], 1), answer)
