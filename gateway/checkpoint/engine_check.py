"""Whether a machine can run a checkpoint, or what `tidegate engine build` has made of one, on its GPUs.

Everything is refused before a start, with one sentence, because a library says the same after minutes and in a
traceback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.checkpoint.chat_format import CONFIG_FILE, positive, read_json
from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.gpu_machine import LAST_WITH_ENGINE_FILES, NAMES, OLDEST, Gpu, Machine, is_older
from gateway.checkpoint.gpu_memory import BYTES_A_KV_VALUE, GIB, Fit, ModelShape, Placement, fit
from gateway.checkpoint.inspection import Checkpoint
from gateway.tier_config import GenerateTier

BUILT_FILE = "tidegate-engine.json"
MODELOPT_FILE = "hf_quant_config.json"
BUILT_FORMAT = 1
# The first compute capability that computes in the format, not merely stores it.
LEAST_ARCHITECTURE = {"none": 80, "int8": 80, "int4_awq": 80, "fp8": 89, "nvfp4": 100}


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a folder that was built. kind: a checkpoint for an LLM library, or TensorRT engine files.

    architecture: of the GPU it was built on. files: name -> bytes.
    """

    format: int
    kind: Literal["checkpoint", "engine"]
    quantisation: str
    library_version: str
    architecture: int
    tensor_parallel: int
    pipeline_parallel: int
    max_batch: int
    max_tokens: int
    context_tokens: int
    files: dict[str, int]

    @property
    def num_gpus(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel


def check_gpu_tier(checkpoint: Checkpoint, tier: GenerateTier, machine: Machine) -> Fit:
    """All that can be said before a start. Returns how the memory of one GPU is used. Raises: CheckpointError."""
    if tier.context_tokens > checkpoint.max_tokens:
        raise CheckpointError(
            f"the model of {checkpoint.folder} takes at most {checkpoint.max_tokens} tokens",
            f"lower context_tokens, which is {tier.context_tokens}",
        )
    check_library(tier.engine, machine)
    num_gpus = tier.tensor_parallel * tier.pipeline_parallel
    check_split(checkpoint.folder, tier.tensor_parallel, tier.pipeline_parallel)
    gpus = check_gpus(machine, num_gpus, "tensor_parallel x pipeline_parallel")
    built = read_built(checkpoint.folder)
    if built is not None:
        check_built(checkpoint.folder, built, machine)
    check_architecture(quantisation_of(checkpoint.folder), gpus)
    if tier.kv_cache == "fp8":
        check_architecture("fp8", gpus, what="kv_cache")
    return check_memory(checkpoint, tier, gpus)


def check_memory(checkpoint: Checkpoint, tier: GenerateTier, gpus: list[Gpu]) -> Fit:
    """At least one request of full length must fit; the engine queues or evicts what goes beyond its cache."""
    where = Placement(
        gpu_bytes=min(gpu.memory_bytes for gpu in gpus),
        tensor_parallel=tier.tensor_parallel,
        pipeline_parallel=tier.pipeline_parallel,
        gpu_memory=tier.gpu_memory,
        batch_tokens=tier.batch_tokens,
        bytes_a_kv_value=BYTES_A_KV_VALUE[tier.kv_cache],
    )
    found = fit(shape_of(checkpoint), where)
    if found.cache_tokens < tier.context_tokens:
        raise CheckpointError(
            f"{checkpoint.folder} leaves room for {found.cache_tokens} tokens in the cache of a GPU with "
            f"{where.gpu_bytes / GIB:.0f} GiB (weights {found.weight_bytes / GIB:.1f} GiB, a step "
            f"{found.activation_bytes / GIB:.1f} GiB), and one request may have {tier.context_tokens}",
            "lower context_tokens or batch_tokens, raise tensor_parallel, or quantise the checkpoint",
        )
    return found


def check_library(engine: str, machine: Machine) -> str:
    """Returns the installed version. Raises: CheckpointError."""
    version = machine.versions.get(engine)
    if version is None:
        raise CheckpointError(
            f"{NAMES[engine]} is not installed beside tidegate",
            f"start in NVIDIA's image for it (docs/gpu.md), or choose another engine than {engine!r}",
        )
    if is_older(version, OLDEST[engine]):
        raise CheckpointError(
            f"{NAMES[engine]} {version} is installed, and it is used from {OLDEST[engine]} on",
            "take a newer image (docs/gpu.md)",
        )
    return version


def check_engine_files(version: str) -> None:
    """Whether that TensorRT-LLM still builds and loads engine files. Raises: CheckpointError."""
    if is_older(LAST_WITH_ENGINE_FILES, version):
        raise CheckpointError(
            f"TensorRT-LLM {version} no longer knows engine files, which ended with {LAST_WITH_ENGINE_FILES}",
            'use an image up to 26.07, or the checkpoint itself with engine = "tensorrt_llm"',
        )


def check_split(folder: Path, tensor_parallel: int, pipeline_parallel: int) -> None:
    """Heads and layers must come out even. Raises: CheckpointError."""
    heads, layers = positive(folder, "num_attention_heads"), positive(folder, "num_hidden_layers")
    kv_heads = int(read_json(folder / CONFIG_FILE).get("num_key_value_heads") or heads)
    if heads % tensor_parallel or (kv_heads % tensor_parallel and tensor_parallel % kv_heads):
        raise CheckpointError(
            f"{folder} has {heads} attention heads and {kv_heads} key-value heads, which {tensor_parallel} GPUs cannot "
            "share evenly",
            "choose another tensor_parallel",
        )
    if pipeline_parallel > layers:
        raise CheckpointError(
            f"{folder} has {layers} layers", f"lower pipeline_parallel ({pipeline_parallel})"
        )


def check_gpus(machine: Machine, num_gpus: int, what: str) -> list[Gpu]:
    """The GPUs that hold one copy. Raises: CheckpointError."""
    if not machine.gpus:
        raise CheckpointError(
            "no GPU was found", "check with `nvidia-smi` that the driver and the GPU are there"
        )
    if len(machine.gpus) < num_gpus:
        raise CheckpointError(
            f"{num_gpus} GPUs are asked for ({what}) and there are {len(machine.gpus)}",
            "lower one of the two",
        )
    gpus = list(machine.gpus)[:num_gpus]
    if len({gpu.architecture for gpu in gpus}) > 1:
        raise CheckpointError(
            "the GPUs are of several architectures: " + ", ".join(gpu.name for gpu in gpus),
            "name those of one kind in CUDA_VISIBLE_DEVICES",
        )
    return gpus


def check_architecture(quantisation: str, gpus: list[Gpu], *, what: str = "the checkpoint") -> None:
    """Raises: CheckpointError when the GPU does not compute in that format."""
    least = LEAST_ARCHITECTURE.get(quantisation, LEAST_ARCHITECTURE["none"])
    for gpu in gpus:
        if gpu.architecture < least:
            kept = "in 16 bits" if quantisation == "none" else f"in {quantisation}"
            raise CheckpointError(
                f"{what} is kept {kept}, which needs compute capability {least / 10:.1f}, and {gpu.name} has "
                f"{gpu.architecture / 10:.1f}",
                "choose another format or GPU (docs/gpu.md)",
            )


def read_built(folder: Path) -> Built | None:
    """None where nothing was built. Raises: CheckpointError."""
    path = folder / BUILT_FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Built)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", "build it again") from error
    if found.format != BUILT_FORMAT:
        raise CheckpointError(f"{folder} was built by another release of tidegate", "build it again")
    return found


def check_built(folder: Path, built: Built, machine: Machine) -> None:
    """Raises: CheckpointError for files that are missing or cut off, another version, another GPU."""
    for name, size in sorted(built.files.items()):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing", "copy the folder again, or build it again")
        if path.stat().st_size != size:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes instead of {size}",
                "copy the folder again, or build it again",
            )
    gpus = check_gpus(machine, built.num_gpus, f"{folder} was built for as many")
    if built.kind == "checkpoint":
        check_architecture(built.quantisation, gpus)
        return
    version = check_library("tensorrt_llm", machine)
    check_engine_files(version)
    if version != built.library_version:
        raise CheckpointError(
            f"{folder} was built by TensorRT-LLM {built.library_version}, and {version} is installed",
            "build it again in this image, or use the image that it was built in",
        )
    if gpus[0].architecture != built.architecture:
        raise CheckpointError(
            f"{folder} was built for compute capability {built.architecture / 10:.1f}, and {gpus[0].name} has "
            f"{gpus[0].architecture / 10:.1f}",
            "build it again on this GPU",
        )
    for rank in range(built.num_gpus):
        if f"rank{rank}.engine" not in built.files:
            raise CheckpointError(f"{folder} has no rank{rank}.engine", "build it again")


def shape_of(checkpoint: Checkpoint) -> ModelShape:
    folder = checkpoint.folder
    config = read_json(folder / CONFIG_FILE)
    heads, hidden = positive(folder, "num_attention_heads"), positive(folder, "hidden_size")
    return ModelShape(
        num_weights=checkpoint.num_weights,
        weight_bytes=checkpoint.num_bytes,
        layers=positive(folder, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
    )


def quantisation_of(folder: Path) -> str:
    """How a checkpoint says that its weights are kept: none, fp8, nvfp4, int4_awq, int8, or its own word."""
    modelopt = _object(read_json(folder / MODELOPT_FILE, or_empty=True), "quantization")
    config = _object(read_json(folder / CONFIG_FILE), "quantization_config")
    said = modelopt.get("quant_algo") or config.get("quant_algo") or config.get("quant_method") or "none"
    word = str(said).lower()
    return {"awq": "int4_awq", "w4a16_awq": "int4_awq", "w8a8_sq_per_channel": "int8"}.get(word, word)


def _object(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}
