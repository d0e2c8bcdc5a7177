"""The arithmetic of docs/gpu.md in plain numbers, some of them measured on a GPU (the page says where)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.checkpoint.gpu_memory import (
    GIB,
    ModelShape,
    Placement,
    fit,
    full_slots,
    kv_bytes_a_token,
    kv_bytes_a_token_on_gpu,
    least_itl_s,
    least_prefill_s,
)

LLAMA_8B = ModelShape(
    num_weights=8_030_261_248,
    weight_bytes=16_060_522_496,
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
)
H100 = Placement(gpu_bytes=80 * GIB)


def test_a_token_takes_keys_and_values_of_every_layer() -> None:
    assert kv_bytes_a_token(LLAMA_8B, 2.0) == 131_072
    assert kv_bytes_a_token(LLAMA_8B, 1.0) == 65_536
    assert kv_bytes_a_token(LLAMA_8B, 2.0) * 8192 == 1_073_741_824  # as torch allocated it


@pytest.mark.parametrize(
    ("tensor_parallel", "pipeline_parallel", "share"),
    [(1, 1, 1), (4, 1, 4), (8, 1, 8), (16, 1, 8), (2, 2, 4)],
)
def test_a_gpu_keeps_its_share_of_the_heads_and_at_least_one(
    tensor_parallel: int, pipeline_parallel: int, share: int
) -> None:
    where = Placement(gpu_bytes=GIB, tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel)
    assert kv_bytes_a_token_on_gpu(LLAMA_8B, where) == 131_072 / share


def test_the_cache_is_what_weights_and_a_step_leave() -> None:
    found = fit(LLAMA_8B, H100)
    assert found.weight_bytes == LLAMA_8B.weight_bytes
    assert found.activation_bytes == 8192 * 4096 * 24 * 2
    assert found.cache_bytes == int(80 * GIB * 0.9) - found.weight_bytes - found.activation_bytes - int(
        1.5 * GIB
    )
    assert found.cache_tokens == found.cache_bytes // 131_072
    assert full_slots(found, 8192) == found.cache_tokens // 8192


def test_a_model_that_does_not_fit_leaves_nothing() -> None:
    assert fit(LLAMA_8B, Placement(gpu_bytes=16 * GIB)).cache_tokens == 0


def test_halving_the_values_of_the_cache_doubles_its_tokens() -> None:
    half = Placement(gpu_bytes=80 * GIB, bytes_a_kv_value=1.0)
    assert fit(LLAMA_8B, half).cache_tokens == pytest.approx(2 * fit(LLAMA_8B, H100).cache_tokens, abs=1)


@dataclass
class Seen:
    """On an H100: a step's activations of 8192 tokens, and the same step's time."""

    activation_bytes: int = 977_338_368
    prefill_s: float = 0.2689
    flops: float = 777.8e12
    decode_s: float = 0.01039
    bytes_a_s: float = 2.9975e12


def test_what_was_seen_on_a_gpu_lies_on_the_right_side_of_the_floors() -> None:
    assert fit(LLAMA_8B, H100).activation_bytes > Seen.activation_bytes  # room is set aside, not met exactly
    assert least_prefill_s(LLAMA_8B, H100, prompt_tokens=8192, flops=Seen.flops) == pytest.approx(
        0.1691, abs=1e-3
    )
    assert least_prefill_s(LLAMA_8B, H100, prompt_tokens=8192, flops=Seen.flops) < Seen.prefill_s
    floor = least_itl_s(LLAMA_8B, H100, held_tokens=2048, bytes_a_s=Seen.bytes_a_s)
    assert floor == pytest.approx(0.00545, abs=1e-5)
    assert floor < Seen.decode_s


def test_more_gpus_shorten_a_step_only_where_they_share_a_layer() -> None:
    two = Placement(gpu_bytes=80 * GIB, tensor_parallel=2)
    stages = Placement(gpu_bytes=80 * GIB, pipeline_parallel=2)
    alone = least_itl_s(LLAMA_8B, H100, held_tokens=0, bytes_a_s=3e12)
    assert least_itl_s(LLAMA_8B, two, held_tokens=0, bytes_a_s=3e12) == alone / 2
    assert least_itl_s(LLAMA_8B, stages, held_tokens=0, bytes_a_s=3e12) == alone
