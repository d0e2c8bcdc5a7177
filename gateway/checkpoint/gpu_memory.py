"""How much of a GPU a model takes, and how fast it can be at best. Pure arithmetic; docs/gpu.md explains it.

Bytes and seconds; `a GPU` is one of those that hold a copy of the model together.
"""

from __future__ import annotations

import msgspec

GIB = 2**30
# Scales and zeros included: groups of 128 weights share 2 bytes of scale (and half a byte of zero for int4), groups of
# 16 one byte for nvfp4. Embeddings and the last layer stay as they are, which counts in small models.
BYTES_A_WEIGHT = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4_awq": 0.52, "nvfp4": 0.5625}
BYTES_A_KV_VALUE = {"auto": 2.0, "fp8": 1.0}
# Context of the driver, libraries, captured graphs. An engine with its graphs takes more than the bare context.
FIXED_BYTES = int(1.5 * GIB)
# A step's activations: so many values of the hidden size for each token it works on, in 2 bytes.
ACTIVATION_VALUES = 24


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """num_weights: parameters. weight_bytes: of all of them, as they are kept."""

    num_weights: int
    weight_bytes: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """gpu_memory: share of the GPU that may be taken. bytes_a_kv_value: see BYTES_A_KV_VALUE."""

    gpu_bytes: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu_memory: float = 0.9
    batch_tokens: int = 8192
    bytes_a_kv_value: float = 2.0


class Fit(msgspec.Struct, frozen=True):
    """Of one GPU. cache_tokens: that the cache holds, over all requests; negative room is 0 tokens."""

    weight_bytes: int
    activation_bytes: int
    cache_bytes: int
    cache_tokens: int


def kv_bytes_a_token(shape: ModelShape, bytes_a_value: float) -> float:
    """Keys and values of one token, over all GPUs: 2 x layers x key-value heads x head size x bytes."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_a_value


def kv_bytes_a_token_on_gpu(shape: ModelShape, where: Placement) -> float:
    """Where there are more GPUs than key-value heads, heads are kept several times."""
    split = min(where.tensor_parallel, shape.kv_heads) * where.pipeline_parallel
    return kv_bytes_a_token(shape, where.bytes_a_kv_value) / split


def fit(shape: ModelShape, where: Placement) -> Fit:
    """What is left for the cache when the weights and a step's activations are in."""
    num_gpus = where.tensor_parallel * where.pipeline_parallel
    weights = shape.weight_bytes // num_gpus
    activations = where.batch_tokens * shape.hidden * ACTIVATION_VALUES * 2 // where.tensor_parallel
    room = int(where.gpu_bytes * where.gpu_memory) - weights - activations - FIXED_BYTES
    tokens = max(0, int(room / kv_bytes_a_token_on_gpu(shape, where)))
    return Fit(weights, activations, max(0, room), tokens)


def full_slots(found: Fit, context_tokens: int) -> int:
    """Requests that can be as long as the context all at once."""
    return found.cache_tokens // context_tokens


def least_itl_s(shape: ModelShape, where: Placement, *, held_tokens: int, bytes_a_s: float) -> float:
    """The shortest gap between two tokens: each step reads all weights and the cache of all who take part.

    held_tokens: in the cache, over all requests of the batch. bytes_a_s: of one GPU's memory.
    """
    num_gpus = where.tensor_parallel * where.pipeline_parallel
    read = shape.weight_bytes / num_gpus + held_tokens * kv_bytes_a_token_on_gpu(shape, where)
    # Stages of a pipeline work one after the other on one token.
    return read * where.pipeline_parallel / bytes_a_s


def least_prefill_s(shape: ModelShape, where: Placement, *, prompt_tokens: int, flops: float) -> float:
    """The shortest time to read a prompt: two operations for each weight and token. flops: of one GPU, per second."""
    return 2 * shape.num_weights * prompt_tokens / (flops * where.tensor_parallel)
