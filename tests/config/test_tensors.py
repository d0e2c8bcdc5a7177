"""Every config.pbtxt says what gateway/tensors.py says, and the ensemble's maps fit its members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from gateway.tensors import GENERATE_FOLDER, MODELS, RETRIEVE, Model, Tensor, generate_model

REPOSITORY = Path(__file__).parents[2] / "model_repository"
BY_NAME = {model.name: model for model in MODELS}
ALL = [*MODELS, generate_model(GENERATE_FOLDER)]  # the folder of every generative tier
ENSEMBLES = [model for model in MODELS if model.ensemble]


def config_of(model: Model) -> model_config_pb2.ModelConfig:
    path = REPOSITORY / model.repository / model.name / "config.pbtxt"
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def tensors_of(entries: object) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            entry.name,
            model_config_pb2.DataType.Name(entry.data_type).removeprefix("TYPE_").replace("STRING", "BYTES"),
            tuple(entry.dims),
            getattr(entry, "optional", False),
        )
        for entry in entries
    )


def named(tensors: tuple[Tensor, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {tensor.name: (tensor.dtype, tensor.dims) for tensor in tensors}


def test_repository_holds_exactly_the_models_of_the_table() -> None:
    found = {path.parent.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("*/*/config.pbtxt")}
    assert found == {f"{model.repository}/{model.name}" for model in ALL}


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
def test_config_agrees_with_the_table(model: Model) -> None:
    config = config_of(model)
    assert config.name == (
        "" if model.name == GENERATE_FOLDER else model.name
    )  # each tier gives its own name
    assert tensors_of(config.input) == model.inputs
    # Whether a response may leave an output out is ours to say: Triton's configuration has no word for it.
    assert tensors_of(config.output) == tuple(replace(tensor, optional=False) for tensor in model.outputs)
    assert config.max_batch_size == model.max_batch_size
    assert config.model_transaction_policy.decoupled == model.decoupled
    assert config.HasField("ensemble_scheduling") == model.ensemble
    assert config.platform == ("ensemble" if model.ensemble else "")
    assert config.backend == ("" if model.ensemble else "python")


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
def test_version_folder_is_kept(model: Model) -> None:
    version = REPOSITORY / model.repository / model.name / "1"
    assert (version / (".gitkeep" if model.ensemble else "model.py")).is_file()


@pytest.mark.parametrize("model", ENSEMBLES, ids=lambda model: model.name)
def test_ensemble_maps_fit_the_members(model: Model) -> None:
    """Walks the steps in order: each mapped tensor is known by then, and of the member's dtype and dims."""
    available = named(model.inputs)
    read: set[str] = set()
    for step in config_of(model).ensemble_scheduling.step:
        member = BY_NAME[step.model_name]
        inputs, outputs = named(member.inputs), named(member.outputs)
        required = {tensor.name for tensor in member.inputs if not tensor.optional}
        assert required <= set(step.input_map) <= set(inputs)
        assert set(step.output_map) <= set(outputs)
        assert {name: available[step.input_map[name]] for name in step.input_map} == {
            name: inputs[name] for name in step.input_map
        }
        read |= set(step.input_map.values())
        made = {step.output_map[name]: outputs[name] for name in step.output_map}
        assert not made.keys() & available.keys()
        available |= made
        assert member.max_batch_size == model.max_batch_size
    assert {tensor.name for tensor in model.inputs} <= read
    expected = named(model.outputs)
    assert {name: available.get(name) for name in expected} == expected


def test_ensemble_members_live_in_its_repository() -> None:
    steps = config_of(RETRIEVE).ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["embed", "search", "rerank"]
    assert {BY_NAME[step.model_name].repository for step in steps} == {RETRIEVE.repository}
