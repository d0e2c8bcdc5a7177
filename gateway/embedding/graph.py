"""A BERT sentence encoder as an ONNX graph, straight from its weights: no torch, the same bytes every time.

Shapes: input_ids, attention_mask [batch, length] INT64 -> embedding [batch, hidden] FP32 of unit length.
Pooling and the L2 norm are part of the graph. A change here that changes the result must raise
export.EXPORT_VERSION. Single sentences only: their token type is always 0, so that
row is added to the positions and the third BERT input is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from gateway.embedding.architecture import Architecture

_OPSET, _IR = 17, 8

Weights = Mapping[str, npt.NDArray[Any]]


class _Graph:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self, shape: Architecture) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def const(self, name: str, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        if name not in self.constants:
            array: npt.NDArray[Any] = np.ascontiguousarray(np.asarray(value, dtype=dtype))
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out


def build_model(weights: Weights, shape: Architecture, name: str) -> onnx.ModelProto:
    """The whole encoder. Raises: KeyError when a tensor of BertModel is missing."""
    g = _Graph(shape)
    mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = _embed(g, weights)
    bias = _attention_bias(g, mask)
    for layer in range(shape.num_layers):
        hidden = _layer(g, weights, f"encoder.layer.{layer}", hidden, bias)
    _pool(g, hidden, mask)
    tokens = ["batch", "length"]
    graph = helper.make_graph(
        g.nodes,
        name,
        [
            helper.make_tensor_value_info(n, TensorProto.INT64, tokens)
            for n in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", shape.dim])],
        list(g.constants.values()),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="tidegate"
    )
    model.ir_version = _IR
    onnx.checker.check_model(model)
    return model


def _embed(g: _Graph, weights: Weights) -> str:
    prefix = "embeddings"
    words = g.const("words", weights[f"{prefix}.word_embeddings.weight"])
    positions = (
        weights[f"{prefix}.position_embeddings.weight"] + weights[f"{prefix}.token_type_embeddings.weight"][0]
    )
    # Slice, not Range + Gather: ONNX Runtime rewrites that pair into a broken Slice.
    length = g.op("Shape", "input_ids", start=1, end=2)
    start, axis = g.const("zero", [0], np.int64), g.const("axis_0", [0], np.int64)
    positions_used = g.op("Slice", g.const("positions", positions), start, length, axis)
    summed = g.op("Add", g.op("Gather", words, "input_ids"), positions_used)
    return _layer_norm(g, weights, f"{prefix}.LayerNorm", summed)


def _attention_bias(g: _Graph, mask: str) -> str:
    """[batch, 1, 1, length]: 0 for tokens, a large negative number for padding."""
    absent = g.op("Sub", g.const("one", 1.0), mask)
    # Its weight after softmax is 0 in f32 as with any larger number, and 0 x it stays 0 in half precision.
    scaled = g.op("Mul", absent, g.const("masked", -1e4))
    return g.op("Unsqueeze", scaled, g.const("axes_12", [1, 2], np.int64))


def _layer(g: _Graph, weights: Weights, prefix: str, hidden: str, bias: str) -> str:
    attended = _attention(g, weights, f"{prefix}.attention", hidden, bias)
    hidden = _layer_norm(g, weights, f"{prefix}.attention.output.LayerNorm", g.op("Add", hidden, attended))
    inner = _gelu(g, _linear(g, weights, f"{prefix}.intermediate.dense", hidden))
    outer = _linear(g, weights, f"{prefix}.output.dense", inner)
    return _layer_norm(g, weights, f"{prefix}.output.LayerNorm", g.op("Add", hidden, outer))


def _attention(g: _Graph, weights: Weights, prefix: str, hidden: str, bias: str) -> str:
    def heads(kind: str, perm: list[int], scale: float = 1.0) -> str:
        split = g.op("Reshape", _linear(g, weights, f"{prefix}.self.{kind}", hidden, scale), shape)
        return g.op("Transpose", split, perm=perm)

    num_heads, head_dim = g.shape.num_heads, g.shape.dim // g.shape.num_heads
    shape = g.const("split_heads", [0, 0, num_heads, head_dim], np.int64)
    query = heads(
        "query", [0, 2, 1, 3], head_dim**-0.5
    )  # the scale of the scores lives in the query's weights
    scores = g.op("Add", g.op("MatMul", query, heads("key", [0, 2, 3, 1])), bias)
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), heads("value", [0, 2, 1, 3]))
    merged = g.op(
        "Reshape",
        g.op("Transpose", mixed, perm=[0, 2, 1, 3]),
        g.const("merge", [0, 0, g.shape.dim], np.int64),
    )
    return _linear(g, weights, f"{prefix}.output.dense", merged)


def _linear(g: _Graph, weights: Weights, name: str, inputs: str, scale: float = 1.0) -> str:
    weight = g.const(f"{name}.weight", weights[f"{name}.weight"].T * np.float32(scale))
    bias = g.const(f"{name}.bias", weights[f"{name}.bias"] * np.float32(scale))
    return g.op("Add", g.op("MatMul", inputs, weight), bias)


def _layer_norm(g: _Graph, weights: Weights, name: str, inputs: str) -> str:
    gain, bias = (g.const(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return g.op("LayerNormalization", inputs, gain, bias, axis=-1, epsilon=g.shape.layer_norm_eps)


def _gelu(g: _Graph, inputs: str) -> str:
    # The exact form, spelled as the runtimes' fusions expect it.
    erf = g.op("Erf", g.op("Div", inputs, g.const("sqrt_2", 2.0**0.5)))
    return g.op("Mul", g.op("Mul", inputs, g.op("Add", erf, g.const("one", 1.0))), g.const("half", 0.5))


def _pool(g: _Graph, hidden: str, mask: str) -> None:
    """One vector a text, then unit length (which makes the mean's divisor redundant, but not the floor)."""
    axis = g.const("axis_1", [1], np.int64)
    pooled = _first(g, hidden, axis) if g.shape.pooling == "cls" else _mean(g, hidden, mask, axis)
    norm = g.op("Sqrt", g.op("ReduceSum", g.op("Mul", pooled, pooled), axis, keepdims=1))
    g.op("Div", pooled, g.op("Max", norm, g.const("floor", 1e-12)), out="embedding")


def _mean(g: _Graph, hidden: str, mask: str, axis: str) -> str:
    """Over the real tokens."""
    column = g.op("Unsqueeze", mask, g.const("axis_2", [2], np.int64))
    total = g.op("ReduceSum", g.op("Mul", hidden, column), axis, keepdims=0)
    return g.op("Div", total, g.op("ReduceSum", column, axis, keepdims=0))


def _first(g: _Graph, hidden: str, axis: str) -> str:
    """The state of [CLS], which is never padding."""
    start, end = g.const("first_start", [0], np.int64), g.const("first_end", [1], np.int64)
    return g.op("Squeeze", g.op("Slice", hidden, start, end, axis), axis)
