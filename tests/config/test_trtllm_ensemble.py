"""The rendered ensemble, read by Triton's own configuration schema, and the traps that it must not fall into."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.trtllm_ensemble import (
    ENSEMBLE,
    LLM,
    POSTPROCESSING,
    PREPROCESSING,
    SCALARS,
    STEPS,
    TOKENIZER_INFO,
    EnsembleWish,
    ensemble_models,
    render,
    write_repository,
)
from tests.config.test_tensors import REPOSITORY, tensors_of

WISH = EnsembleWish(engine_dir=Path("/engines/größe"), max_batch=16, queue=32, gpu_memory=0.85)
CONFIGS = {
    name: text_format.Parse(text, model_config_pb2.ModelConfig()) for name, text in render(WISH).items()
}


@pytest.mark.parametrize("model", ensemble_models(WISH.max_batch), ids=lambda model: model.name)
def test_each_configuration_says_what_the_table_says(model) -> None:  # type: ignore[no-untyped-def]
    config = CONFIGS[model.name]
    assert config.name == model.name
    assert config.max_batch_size == model.max_batch_size
    assert tensors_of(config.input) == model.inputs
    assert tensors_of(config.output) == model.outputs
    assert config.model_transaction_policy.decoupled == model.decoupled
    assert config.HasField("ensemble_scheduling") == model.ensemble


def test_the_steps_fit_each_other() -> None:
    """Each tensor that a step reads is known by then and of the same dtype and dims; none is made twice."""
    models = {model.name: model for model in ensemble_models(WISH.max_batch)}
    ensemble = models[ENSEMBLE]
    known = {tensor.name: (tensor.dtype, tensor.dims, tensor.optional) for tensor in ensemble.inputs}
    for step, (name, inputs, outputs) in zip(CONFIGS[ENSEMBLE].ensemble_scheduling.step, STEPS, strict=True):
        assert (step.model_name, dict(step.input_map), dict(step.output_map)) == (name, inputs, outputs)
        for tensor in models[name].inputs:
            if tensor.name not in inputs:
                assert tensor.optional, tensor
                continue
            dtype, dims, is_optional = known[inputs[tensor.name]]
            assert (dtype, dims) == (tensor.dtype, tensor.dims)
            assert tensor.optional or not is_optional
        made = {outputs[each.name]: (each.dtype, each.dims, False) for each in models[name].outputs}
        assert not made.keys() & known.keys()
        known |= made
    assert {tensor.name: known[tensor.name][:2] for tensor in ensemble.outputs} == {
        tensor.name: (tensor.dtype, tensor.dims) for tensor in ensemble.outputs
    }


def test_streams_keep_their_order() -> None:
    """Triton answers a step in order if it has one instance and does not batch."""
    config = CONFIGS[POSTPROCESSING]
    assert not config.HasField("dynamic_batching")
    assert [group.count for group in config.instance_group] == [1]


def test_only_the_model_that_streams_is_decoupled_and_the_ensemble_has_no_instances() -> None:
    assert [name for name, each in CONFIGS.items() if each.model_transaction_policy.decoupled] == [LLM]
    assert not CONFIGS[ENSEMBLE].instance_group
    assert not CONFIGS[ENSEMBLE].HasField("model_transaction_policy")


def test_the_backend_is_told_where_the_engine_is_and_how_to_keep_its_cache() -> None:
    config = CONFIGS[LLM]
    said = {key: value.string_value for key, value in config.parameters.items()}
    assert config.backend == "tensorrtllm"
    assert said["gpt_model_path"] == "/engines/größe"
    assert said["gpt_model_type"] == "inflight_fused_batching"
    assert (said["enable_kv_cache_reuse"], said["kv_cache_free_gpu_mem_fraction"]) == ("true", "0.85")
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 32
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_CPU]


def test_schemas_are_offered_where_the_tokens_file_is_beside_the_engine(tmp_path: Path) -> None:
    def told() -> dict[str, str]:
        text = render(EnsembleWish(engine_dir=tmp_path, max_batch=16))[LLM]
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        named = {key: value.string_value for key, value in config.parameters.items()}
        return {key: named[key] for key in named if "grammar" in key or "guided" in key}

    assert told() == {}
    info = tmp_path / TOKENIZER_INFO
    info.write_text("{}")
    assert told() == {"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": str(info)}


def test_single_values_have_no_dimension_and_prompts_may_differ_in_length() -> None:
    for tensor in CONFIGS[LLM].input:
        assert tensor.HasField("reshape") == (tensor.name in SCALARS)
        assert tensor.allow_ragged_batch == (tensor.name == "input_ids")
    others = [tensor for name, config in CONFIGS.items() if name != LLM for tensor in config.input]
    assert not any(tensor.HasField("reshape") for tensor in others)


def test_the_repository_is_whole_and_never_written_over_another(tmp_path: Path) -> None:
    output = tmp_path / "repository"
    write_repository(WISH, REPOSITORY / "trtllm_ensemble", output)
    assert sorted(path.name for path in output.iterdir()) == sorted(CONFIGS)
    assert all((output / name / "1").is_dir() for name in CONFIGS)
    assert {path.parts[-3] for path in output.glob("*/1/model.py")} == {PREPROCESSING, POSTPROCESSING}
    with pytest.raises(CheckpointError, match="is there already"):
        write_repository(WISH, REPOSITORY / "trtllm_ensemble", output)
