"""The model repository of TensorRT-LLM's C++ backend: preprocessing -> tensorrt_llm -> postprocessing, one ensemble.

For images up to 26.07; later ones have the LLM API alone. The tables below are ours; names, dtypes and dims of
`tensorrt_llm` are those that the backend reads. What goes wrong in such ensembles, and what is done about it here:

- Chunks of a stream change places when `postprocessing` batches or has several instances: it has one, and no batching.
- A model that is not decoupled refuses to stream: `tensorrt_llm` says that it is; the ensemble must not say it.
- A step that runs is not cancelled with the ensemble's request: gateway/generation/ensemble_client.py stops it by id.
- Text made of one chunk's tokens lacks spaces and halves of letters: the ensemble gives `output_ids` along.
- The executor hears nothing of Triton's queue: `max_queue_size` is what bounds its own.
- The C++ backend does not read a tokenizer: its grammars need a file that the image's own program writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from gateway.checkpoint.errors import CheckpointError
from gateway.tensors import Model, Tensor

PREPROCESSING, LLM, POSTPROCESSING, ENSEMBLE = "preprocessing", "tensorrt_llm", "postprocessing", "ensemble"
TOKENIZER_INFO = "xgrammar_tokenizer_info.json"
SCALARS = frozenset({"input_lengths", "request_output_len", "end_id", "pad_id", "streaming", "stop", "runtime_top_k",
                     "runtime_top_p", "temperature", "seed", "exclude_input_in_output"})  # fmt: skip


class EnsembleWish(msgspec.Struct, frozen=True, kw_only=True):
    """engine_dir: of `tidegate engine build --kind engine`, with the tokenizer. queue: the executor's; 0 = no bound."""

    engine_dir: Path
    max_batch: int
    queue: int = 0
    gpu_memory: float = 0.9
    llm_backend: str = "tensorrtllm"


def ensemble_models(max_batch: int) -> tuple[Model, ...]:
    """All four, in the order of the steps; the ensemble last."""
    repository = "trtllm_ensemble"
    text, count = Tensor("QUERY", "BYTES"), Tensor("REQUEST_OUTPUT_LEN", "INT32")
    preprocessing = Model(
        PREPROCESSING,
        repository,
        inputs=(text, count),
        outputs=(
            Tensor("INPUT_ID", "INT32", (-1,)),
            Tensor("REQUEST_INPUT_LEN", "INT32"),
            count,
            Tensor("OUT_END_ID", "INT32"),
            Tensor("OUT_PAD_ID", "INT32"),
        ),
        max_batch_size=max_batch,
    )
    choices = (
        Tensor("streaming", "BOOL", optional=True),
        Tensor("runtime_top_k", "INT32", optional=True),
        Tensor("runtime_top_p", "FP32", optional=True),
        Tensor("temperature", "FP32", optional=True),
        Tensor("seed", "UINT64", optional=True),
        Tensor("guided_decoding_guide_type", "BYTES", optional=True),
        Tensor("guided_decoding_guide", "BYTES", optional=True),
    )
    llm = Model(
        LLM,
        repository,
        inputs=(
            Tensor("input_ids", "INT32", (-1,), optional=True),
            Tensor("input_lengths", "INT32"),
            Tensor("request_output_len", "INT32"),
            Tensor("end_id", "INT32", optional=True),
            Tensor("pad_id", "INT32", optional=True),
            Tensor("stop", "BOOL", optional=True),
            Tensor("exclude_input_in_output", "BOOL", optional=True),
            *choices,
        ),
        outputs=(Tensor("output_ids", "INT32", (-1, -1)), Tensor("sequence_length", "INT32", (-1,))),
        max_batch_size=max_batch,
        decoupled=True,
    )
    postprocessing = Model(
        POSTPROCESSING,
        repository,
        inputs=(Tensor("TOKENS_BATCH", "INT32", (-1, -1)), Tensor("SEQUENCE_LENGTH", "INT32", (-1,))),
        outputs=(Tensor("OUTPUT", "BYTES", (-1,)), Tensor("OUTPUT_IDS", "INT32", (-1,))),
        max_batch_size=max_batch,
    )
    asked = {"streaming": "stream", "runtime_top_k": "top_k", "runtime_top_p": "top_p"}
    ensemble = Model(
        ENSEMBLE,
        repository,
        inputs=(
            Tensor("text_input", "BYTES"),
            Tensor("max_tokens", "INT32"),
            *(Tensor(asked.get(each.name, each.name), each.dtype, optional=True) for each in choices),
        ),
        outputs=(Tensor("text_output", "BYTES", (-1,)), Tensor("output_ids", "INT32", (-1,))),
        max_batch_size=max_batch,
        ensemble=True,
    )
    return preprocessing, llm, postprocessing, ensemble


# Of the ensemble's steps: model -> its inputs and outputs -> the ensemble's names.
STEPS: tuple[tuple[str, dict[str, str], dict[str, str]], ...] = (
    (
        PREPROCESSING,
        {"QUERY": "text_input", "REQUEST_OUTPUT_LEN": "max_tokens"},
        {
            "INPUT_ID": "_input_ids",
            "REQUEST_INPUT_LEN": "_input_lengths",
            "REQUEST_OUTPUT_LEN": "_request_output_len",
            "OUT_END_ID": "_end_id",
            "OUT_PAD_ID": "_pad_id",
        },
    ),
    (
        LLM,
        {
            "input_ids": "_input_ids",
            "input_lengths": "_input_lengths",
            "request_output_len": "_request_output_len",
            "end_id": "_end_id",
            "pad_id": "_pad_id",
            "streaming": "stream",
            "runtime_top_k": "top_k",
            "runtime_top_p": "top_p",
            "temperature": "temperature",
            "seed": "seed",
            "guided_decoding_guide_type": "guided_decoding_guide_type",
            "guided_decoding_guide": "guided_decoding_guide",
        },
        {"output_ids": "_tokens", "sequence_length": "_sequence_length"},
    ),
    (
        POSTPROCESSING,
        {"TOKENS_BATCH": "_tokens", "SEQUENCE_LENGTH": "_sequence_length"},
        {"OUTPUT": "text_output", "OUTPUT_IDS": "output_ids"},
    ),
)


def render(wish: EnsembleWish) -> dict[str, str]:
    """Model -> its config.pbtxt."""
    preprocessing, llm, postprocessing, ensemble = ensemble_models(wish.max_batch)
    tokenizer = {"tokenizer_dir": str(wish.engine_dir)}
    return {
        PREPROCESSING: _config(preprocessing, 'backend: "python"', _one_instance(), _parameters(tokenizer)),
        LLM: _config(
            llm,
            f"backend: {json.dumps(wish.llm_backend)}",
            "model_transaction_policy { decoupled: true }",
            # The executor batches by itself: Triton hands every request on at once.
            f"dynamic_batching {{ max_queue_delay_microseconds: 0 "
            f"default_queue_policy {{ max_queue_size: {wish.queue} }} }}",
            _one_instance(),
            _parameters(
                {
                    "gpt_model_type": "inflight_fused_batching",
                    "gpt_model_path": str(wish.engine_dir),
                    "batch_scheduler_policy": "guaranteed_no_evict",
                    "kv_cache_free_gpu_mem_fraction": f"{wish.gpu_memory:g}",
                    "enable_kv_cache_reuse": "true",
                    "enable_chunked_context": "true",
                    "exclude_input_in_output": "true",
                    "cancellation_check_period_ms": "20",
                    **_grammar(wish),
                }
            ),
        ),
        # Neither batching nor a second instance: the order of a stream's chunks hangs on it.
        POSTPROCESSING: _config(postprocessing, 'backend: "python"', _one_instance(), _parameters(tokenizer)),
        ENSEMBLE: _config(ensemble, 'platform: "ensemble"', _scheduling()),
    }


def _grammar(wish: EnsembleWish) -> dict[str, str]:
    """What holds an output to a JSON Schema: nothing, where the tokens' own file is not beside the engine."""
    tokens = wish.engine_dir / TOKENIZER_INFO
    if not tokens.is_file():
        return {}
    return {"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": str(tokens)}


def write_repository(wish: EnsembleWish, models: Path, output: Path) -> list[Path]:
    """The four folders under output. models: where the two python models stand. Returns what was written.

    Raises: CheckpointError.
    """
    if output.exists() and any(output.iterdir()):
        raise CheckpointError(f"{output} is there already", "remove it, or choose another --output")
    written = []
    try:
        for name, text in render(wish).items():
            version = output / name / "1"  # Triton wants it for the ensemble too, empty
            version.mkdir(parents=True)
            (output / name / "config.pbtxt").write_text(text, "utf-8")
            written.append(output / name / "config.pbtxt")
            source = models / name / "1" / "model.py"
            if source.is_file():
                shutil.copyfile(source, version / "model.py")
                written.append(version / "model.py")
        (output / ENSEMBLE / "1" / ".keep").touch()  # copies and images drop empty folders
    except OSError as error:
        raise CheckpointError(
            f"{output} cannot be written ({error.strerror})", "choose another --output"
        ) from error
    return written


def _config(model: Model, *parts: str) -> str:
    head = [f"name: {json.dumps(model.name)}", f"max_batch_size: {model.max_batch_size}"]
    return "\n".join(
        [
            *head,
            *parts,
            _tensors("input", model.inputs, model.name == LLM),
            _tensors("output", model.outputs),
            "",
        ]
    )


def _tensors(kind: str, tensors: Sequence[Tensor], is_for_backend: bool = False) -> str:
    rows = []
    for each in tensors:
        row = f"  {{ name: {json.dumps(each.name)} data_type: {_dtype(each.dtype)} dims: [ {_numbers(each.dims)} ]"
        if is_for_backend and each.name in SCALARS:
            row += " reshape: { shape: [ ] }"  # the backend wants no dimension where there is one value
        if is_for_backend and each.name == "input_ids":
            row += " allow_ragged_batch: true"
        row += " optional: true }" if kind == "input" and each.optional else " }"
        rows.append(row)
    return f"{kind} [\n" + ",\n".join(rows) + "\n]"


def _scheduling() -> str:
    steps = []
    for name, inputs, outputs in STEPS:
        maps = [*_maps("input_map", inputs), *_maps("output_map", outputs)]
        steps.append(
            f"    {{\n      model_name: {json.dumps(name)}\n      model_version: -1\n"
            + "\n".join(maps)
            + "\n    }"
        )
    return "ensemble_scheduling {\n  step [\n" + ",\n".join(steps) + "\n  ]\n}"


def _maps(kind: str, names: dict[str, str]) -> Iterable[str]:
    return (
        f"      {kind} {{ key: {json.dumps(key)} value: {json.dumps(value)} }}"
        for key, value in names.items()
    )


def _parameters(values: dict[str, str]) -> str:
    rows = (
        f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value, ensure_ascii=False)} }} }}"
        for key, value in values.items()
    )
    return "\n".join(rows)


def _one_instance() -> str:
    return "instance_group [ { count: 1 kind: KIND_CPU } ]"


def _dtype(name: str) -> str:
    return f"TYPE_{'STRING' if name == 'BYTES' else name}"


def _numbers(dims: Sequence[int]) -> str:
    return ", ".join(map(str, dims))
