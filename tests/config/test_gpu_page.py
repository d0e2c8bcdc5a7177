"""The figures of docs/gpu.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.checkpoint.engine_check import LEAST_ARCHITECTURE
from gateway.checkpoint.gpu_machine import OLDEST
from gateway.checkpoint.gpu_memory import (
    BYTES_A_KV_VALUE,
    BYTES_A_WEIGHT,
    GIB,
    ModelShape,
    Placement,
    fit,
    full_slots,
    kv_bytes_a_token,
    least_itl_s,
)
from gateway.generation.trtllm_engine import PRIORITIES

ROOT = Path(__file__).parents[2]
PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text("utf-8")
# Parameters, layers, hidden, heads, key-value heads, head size: as the models' own configurations say.
MODELS = {
    "Llama 3.1 8B": (8_030_261_248, 32, 4096, 32, 8, 128),
    "Llama 3.3 70B": (70_553_706_496, 80, 8192, 64, 8, 128),
    "Qwen2.5 7B": (7_615_616_512, 28, 3584, 28, 4, 128),
}
# GiB that the driver shows, and bytes/s of the data sheet.
GPUS = {"L4": (22.5, 300e9), "A100 80GB": (80, 2039e9), "H100 80GB": (79.6, 3350e9), "H200": (140.4, 4800e9)}
ROWS = (
    ("Qwen2.5 7B", "bf16", "auto", "L4", 1),
    ("Llama 3.1 8B", "fp8", "fp8", "L4", 1),
    ("Llama 3.1 8B", "bf16", "auto", "A100 80GB", 1),
    ("Llama 3.1 8B", "bf16", "auto", "H100 80GB", 1),
    ("Llama 3.1 8B", "fp8", "fp8", "H100 80GB", 1),
    ("Llama 3.3 70B", "fp8", "fp8", "H100 80GB", 2),
    ("Llama 3.3 70B", "bf16", "auto", "H100 80GB", 4),
    ("Llama 3.3 70B", "fp8", "fp8", "H200", 1),
)


def row(model: str, weights: str, cache: str, gpu: str, num_gpus: int) -> str:
    num_weights, layers, hidden, heads, kv_heads, head_dim = MODELS[model]
    shape = ModelShape(
        num_weights=num_weights,
        weight_bytes=int(num_weights * BYTES_A_WEIGHT[weights]),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )
    gib, bytes_a_s = GPUS[gpu]
    where = Placement(
        gpu_bytes=int(gib * GIB), tensor_parallel=num_gpus, bytes_a_kv_value=BYTES_A_KV_VALUE[cache]
    )
    found = fit(shape, where)
    gap_ms = 1e3 * least_itl_s(shape, where, held_tokens=8 * 4096, bytes_a_s=bytes_a_s)
    kib = kv_bytes_a_token(shape, where.bytes_a_kv_value) / 2**10
    return (
        f"| {model} | {weights}, {found.weight_bytes / GIB:.1f} GiB each | {num_gpus} x {gpu} | {kib:.0f} KiB | "
        f"{found.cache_tokens:,} | {full_slots(found, 8192):,} | {gap_ms:.1f} ms |"
    )


def test_the_sizing_table_is_what_the_arithmetic_gives() -> None:
    table = PAGE.partition("<!-- sizing")[2].partition("|---|")[2].partition("\n\n")[0].splitlines()[1:]
    assert table == [row(*each) for each in ROWS]


@pytest.mark.parametrize("kind", ["int4_awq", "fp8", "nvfp4"])
def test_the_table_of_formats_is_the_codes(kind: str) -> None:
    said = re.search(rf"^\| `{kind}` \| ([\d.]+) bytes? \| ([\d.]+)", PAGE, re.MULTILINE)
    assert said
    assert float(said[1]) == BYTES_A_WEIGHT[kind]
    assert float(said[2]) * 10 == LEAST_ARCHITECTURE[kind]


def test_releases_and_priorities_are_the_codes() -> None:
    assert f"| release | {OLDEST['tensorrt_llm']} or later | {OLDEST['vllm']} or later |" in PAGE
    assert "0, 1, 2 become " + ", ".join(map(str, PRIORITIES)) in PAGE


def test_the_page_says_which_faiss_the_images_have() -> None:
    locks = {name: (ROOT / "requirements" / f"{name}.txt").read_text("utf-8") for name in ("serve", "gpu")}
    has_gpu = any(re.search(r"^faiss-gpu", text, re.MULTILINE) for text in locks.values())
    assert re.search(r"^faiss-cpu==", locks["serve"], re.MULTILINE)
    assert ("**No image of ours has faiss-gpu**" in PAGE) is not has_gpu
