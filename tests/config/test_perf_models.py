"""The relay benchmark's model has the tensors of a generative tier."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from gateway.tensors import generate_model
from perf.relay_guard import MODELS
from perf.relay_service import TIER
from tests.config.test_tensors import named, tensors_of


def test_config_agrees_with_the_table() -> None:
    text = (MODELS / TIER / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    model = generate_model(TIER)
    assert tensors_of(config.input) == model.inputs
    assert named(tensors_of(config.output)) == named(model.outputs)  # an output has no `optional` there
    assert config.max_batch_size == model.max_batch_size
    assert config.model_transaction_policy.decoupled
