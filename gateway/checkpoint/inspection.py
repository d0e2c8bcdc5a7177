"""What a checkpoint's folder holds, read from its own files, and whether this machine has room for it.

Two kinds of folder: a Hugging Face one (config.json, tokenizer.json, weights as safetensors), and one that is an
OpenVINO model already. Weights in other formats are refused: a pickle runs code, GGUF is silently wrong for some.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import psutil

from gateway.checkpoint.chat_format import CONFIG_FILE, ChatFormat, positive, read_json
from gateway.checkpoint.errors import CheckpointError
from gateway.tier_config import GenerateTier

IR_FILE, IR_WEIGHTS_FILE = "openvino_model.xml", "openvino_model.bin"
# `model_type`s whose greedy tokens were compared with the reference's, each on a small model of random weights.
SUPPORTED = (
    "glm4", "granite", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3",
)  # fmt: skip
INDEX_FILE = "model.safetensors.index.json"
GIB = 2**30
UNREAD = {".bin", ".gguf", ".pt", ".pth"}
MAX_HEADER_BYTES = 100 * 2**20
BYTES_A_WEIGHT = {"int8": 1.03, "int4": 0.62, "bf16": 2.0, "f32": 4.0}  # scales included
CONVERSION_FACTOR = 2.5  # memory of a conversion in sizes of the checkpoint: 2.4 GB for 0.99 GB were seen
RUNTIME_BYTES = 256 * 2**20  # libraries, activations and the stub itself
CGROUP = Path("/sys/fs/cgroup")


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """num_weights: parameters. kv_values: numbers that the cache holds for one token. key: of the content."""

    folder: Path
    model_type: str
    is_converted: bool
    num_weights: int
    num_bytes: int
    kv_values: int
    vocab_size: int
    max_tokens: int
    key: str


def inspect(folder: Path, *, is_for_gpu: bool = False) -> Checkpoint:
    """Look at everything but the weights themselves: fast at any size.

    is_for_gpu: a GPU engine takes the folder as it is, in whatever architecture its own library knows.
    Raises: CheckpointError.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"{folder} {what}", f"name the folder that holds the checkpoint's {CONFIG_FILE}"
        )
    config = read_json(folder / CONFIG_FILE)
    model_type = str(config.get("model_type") or "")
    if is_for_gpu and (folder / IR_FILE).is_file():
        raise CheckpointError(
            f"{folder} was converted for OpenVINO", "a GPU engine needs the folder that it was made from"
        )
    if model_type not in SUPPORTED and not (is_for_gpu and model_type):
        shown = (
            f"architecture `{model_type}`"
            if model_type
            else "an architecture that its config.json does not name"
        )
        raise CheckpointError(
            f"{folder} has {shown}, which is not supported", f"choose one of {', '.join(SUPPORTED)}"
        )
    ChatFormat.load(folder)
    is_converted = (folder / IR_FILE).is_file()
    files = _converted_files(folder) if is_converted else _weight_files(folder)
    headers = [] if is_converted else [_header(path) for path in files]
    num_bytes = sum(path.stat().st_size for path in files)
    shapes = [entry["shape"] for header in headers for entry in header.values()]
    return Checkpoint(
        folder=folder,
        model_type=model_type,
        is_converted=is_converted,
        num_weights=sum(math.prod(shape) for shape in shapes),
        num_bytes=num_bytes,
        kv_values=_kv_values(folder, config),
        vocab_size=positive(folder, "vocab_size"),
        max_tokens=positive(folder, "max_position_embeddings"),
        key=_key(folder, files),
    )


def check_fits(
    checkpoint: Checkpoint, tier: GenerateTier, *, num_replicas: int = 1, taken_bytes: int = 0
) -> int:
    """Whether context and memory suffice for the tier. taken_bytes: what other tiers will need.

    Returns the bytes that this one needs. Raises: CheckpointError.
    """
    if tier.context_tokens > checkpoint.max_tokens:
        raise CheckpointError(
            f"the model of {checkpoint.folder} takes at most {checkpoint.max_tokens} tokens",
            f"lower context_tokens, which is {tier.context_tokens}",
        )
    weights, cache = weight_bytes(checkpoint, tier), cache_bytes(checkpoint, tier)
    needed = (weights + cache + RUNTIME_BYTES) * num_replicas
    available = max(0, available_bytes() - taken_bytes)
    if needed > available:
        copies = f" for each of {num_replicas} replicas" if num_replicas > 1 else ""
        raise CheckpointError(
            f"{checkpoint.folder} needs {_gib(needed)} of memory (weights {_gib(weights)}, cache {_gib(cache)} for "
            f"{tier.slots} slots of {tier.context_tokens} tokens{copies}) and {_gib(available)} are available",
            "lower slots or context_tokens"
            + ("" if checkpoint.is_converted else ", or choose smaller weights"),
        )
    return needed


def check_can_convert(checkpoint: Checkpoint, tier: GenerateTier, destination: Path) -> None:
    """Memory and disk of the conversion itself. Raises: CheckpointError."""
    needed = int(CONVERSION_FACTOR * checkpoint.num_bytes) + RUNTIME_BYTES
    available = available_bytes()
    if needed > available:
        raise CheckpointError(
            f"the conversion of {checkpoint.folder} needs {_gib(needed)} of memory and {_gib(available)} are available",
            "free some, or convert it on a larger machine and name the converted folder",
        )
    size = int(1.1 * weight_bytes(checkpoint, tier)) + 64 * 2**20
    place = next(each for each in (destination, *destination.parents) if each.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise CheckpointError(
            f"the conversion of {checkpoint.folder} needs {_gib(size)} in {destination} and {_gib(free)} are free",
            "make room, or set TIDEGATE_VAR to a folder on another disk",
        )


def weight_bytes(checkpoint: Checkpoint, tier: GenerateTier) -> int:
    if checkpoint.is_converted:
        return checkpoint.num_bytes
    return int(checkpoint.num_weights * BYTES_A_WEIGHT[tier.weights])


def cache_bytes(checkpoint: Checkpoint, tier: GenerateTier) -> int:
    """Keys and values are kept in 4 bytes where weights are f32, else in 1 and a scale."""
    bytes_a_value = 4.0 if tier.weights == "f32" else 1.25
    return int(checkpoint.kv_values * bytes_a_value * tier.slots * tier.context_tokens)


def available_bytes() -> int:
    """Memory that can still be used here, a container's limit included."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(statistics.get("inactive_file", 0)))
    except (OSError, ValueError):  # no cgroup, or one without a limit
        pass
    return free


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


def _kv_values(folder: Path, config: dict[str, Any]) -> int:
    layers, heads = (positive(folder, name) for name in ("num_hidden_layers", "num_attention_heads"))
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or positive(folder, "hidden_size") // heads
    return 2 * layers * int(kv_heads) * int(head_dim)


def _converted_files(folder: Path) -> list[Path]:
    weights = folder / IR_WEIGHTS_FILE
    if not weights.is_file() or not weights.stat().st_size:
        raise CheckpointError(f"{folder} has {IR_FILE} but no {IR_WEIGHTS_FILE}", "convert or copy it again")
    return [folder / IR_FILE, weights]


def _weight_files(folder: Path) -> list[Path]:
    """One file, or the parts that an index names."""
    if (folder / INDEX_FILE).is_file():
        parts = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise CheckpointError(f"{folder / INDEX_FILE} names no files")
        names = sorted({str(name) for name in parts.values()})
    else:
        names = ["model.safetensors"]
    for name in names:
        if "/" in name or not (folder / name).is_file():
            others = [path.name for path in sorted(folder.iterdir()) if path.suffix in UNREAD]
            fix = (
                f"{others[0]} is not read, so save the weights as safetensors" if others else "copy it again"
            )
            raise CheckpointError(f"{folder} has no {name}", fix)
    return [folder / name for name in names]


def _header(path: Path) -> dict[str, Any]:
    """Name, dtype and shape of each tensor in a safetensors file, which must be as long as they say."""
    damaged = CheckpointError(f"{path} is damaged", "copy it again")
    with path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise damaged
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
            if not all(isinstance(each, int) for entry in header.values() for each in entry["shape"]):
                raise damaged
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise damaged from None
    if 8 + length + end != size:
        raise damaged
    return dict(header)


def _key(folder: Path, files: list[Path]) -> str:
    """Of the small files' content, and of size, time and first bytes of the weights: those are not read through."""
    digest = hashlib.sha256()
    for name in sorted(path.name for path in folder.iterdir() if path.suffix in {".json", ".jinja"}):
        digest.update(f"{name}\0".encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    for path in files:
        status = path.stat()
        with path.open("rb") as file:
            digest.update(
                f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode() + file.read(2**16)
            )
    return digest.hexdigest()
