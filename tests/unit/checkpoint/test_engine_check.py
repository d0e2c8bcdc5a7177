"""What a machine is refused for before anything is loaded on its GPUs, each with one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.checkpoint.engine_check import (
    BUILT_FILE,
    Built,
    check_built,
    check_engine_files,
    check_gpu_tier,
    quantisation_of,
    read_built,
)
from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.gpu_machine import Gpu, Machine, is_older, read_gpus
from gateway.checkpoint.inspection import inspect
from gateway.tier_config import GenerateTier
from tests.fakes.small_tokenizers import write_checkpoint

GIB = 2**30
H100 = Gpu("NVIDIA H100 80GB HBM3", 90, 80 * GIB)
A100 = Gpu("NVIDIA A100-SXM4-80GB", 80, 80 * GIB)
T4 = Gpu("Tesla T4", 75, 16 * GIB)
VERSIONS = {"tensorrt_llm": "1.2.1", "vllm": "0.24.0"}


def machine(*gpus: Gpu, **versions: str) -> Machine:
    return Machine(gpus, {**VERSIONS, **versions})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def refused(folder: Path, on: Machine, **fields: Any) -> str:
    tier = GenerateTier(
        **{"checkpoint": str(folder), "engine": "tensorrt_llm", "context_tokens": 1024, **fields}
    )
    with pytest.raises(CheckpointError) as caught:
        check_gpu_tier(inspect(folder, is_for_gpu=True), tier, on)
    return str(caught.value)


def test_a_machine_that_fits_is_told_how_its_memory_is_used(folder: Path) -> None:
    tier = GenerateTier(checkpoint=str(folder), engine="vllm", context_tokens=1024)
    found = check_gpu_tier(inspect(folder, is_for_gpu=True), tier, machine(H100))
    assert found.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert found.cache_tokens > 10**6


@pytest.mark.parametrize(
    ("on", "fields", "sentence"),
    [
        (Machine([H100], {}), {}, "TensorRT-LLM is not installed beside tidegate"),
        (
            machine(H100, tensorrt_llm="0.21.0"),
            {},
            "TensorRT-LLM 0.21.0 is installed, and it is used from 1.0 on",
        ),
        (
            machine(H100, vllm="0.9.2"),
            {"engine": "vllm"},
            "vLLM 0.9.2 is installed, and it is used from 0.11 on",
        ),
        (machine(), {}, "no GPU was found: check with `nvidia-smi`"),
        (machine(H100), {"tensor_parallel": 2}, "2 GPUs are asked for"),
        (machine(H100, A100), {"tensor_parallel": 2}, "of several architectures: NVIDIA H100"),
        (machine(*[H100] * 3), {"tensor_parallel": 3}, "which 3 GPUs cannot share evenly"),
        (machine(*[H100] * 9), {"pipeline_parallel": 9}, "has 2 layers: lower pipeline_parallel (9)"),
        (machine(T4), {}, "kept in 16 bits, which needs compute capability 8.0, and Tesla T4 has 7.5"),
        (machine(A100), {"kv_cache": "fp8"}, "kv_cache is kept in fp8, which needs compute capability 8.9"),
        (
            machine(H100),
            {"context_tokens": 4096},
            "takes at most 2048 tokens: lower context_tokens, which is 4096",
        ),
        (machine(Gpu("small", 90, GIB)), {}, "leaves room for 0 tokens in the cache of a GPU with 1 GiB"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(
    folder: Path, on: Machine, fields: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(folder, on, **fields)


@pytest.mark.parametrize(
    ("said", "kept", "needs"),
    [
        ({"quant_method": "fp8"}, "fp8", "8.9"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", "10.0"),
        ({"quant_method": "awq"}, "int4_awq", ""),
    ],
)
def test_a_checkpoints_format_must_be_one_that_the_gpu_computes_in(
    folder: Path, said: dict[str, str], kept: str, needs: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    assert quantisation_of(folder) == kept
    if needs:
        assert f"kept in {kept}, which needs compute capability {needs}" in refused(folder, machine(A100))


def test_what_was_converted_for_the_processor_is_refused(folder: Path) -> None:
    (folder / "openvino_model.xml").touch()
    with pytest.raises(CheckpointError, match="was converted for OpenVINO"):
        inspect(folder, is_for_gpu=True)


def test_an_architecture_that_only_a_gpu_library_knows_is_left_to_it(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "new", model_type="brand_new")
    assert inspect(folder, is_for_gpu=True).model_type == "brand_new"
    with pytest.raises(CheckpointError, match="not supported"):
        inspect(folder)


def built(folder: Path, **changes: Any) -> Built:
    """Written to the folder, with two engine files."""
    files = {}
    for rank in range(2):
        path = folder / f"rank{rank}.engine"
        path.write_bytes(b"engine")
        files[path.name] = 6
    fields: dict[str, Any] = {
        "format": 1, "kind": "engine", "quantisation": "none", "library_version": "1.2.1", "architecture": 90,
        "tensor_parallel": 2, "pipeline_parallel": 1, "max_batch": 64, "max_tokens": 8192, "context_tokens": 1024,
        "files": files, **changes,
    }  # fmt: skip
    made = Built(**fields)
    (folder / BUILT_FILE).write_bytes(msgspec.json.encode(made))
    return made


def test_engine_files_of_this_version_and_gpu_are_taken(folder: Path) -> None:
    made = built(folder)
    assert read_built(folder) == made
    check_built(folder, made, machine(H100, H100))


@pytest.mark.parametrize(
    ("on", "changes", "sentence"),
    [
        (
            machine(H100, H100, tensorrt_llm="1.1.0"),
            {},
            "was built by TensorRT-LLM 1.2.1, and 1.1.0 is installed",
        ),
        (machine(A100, A100), {}, "was built for compute capability 9.0, and NVIDIA A100-SXM4-80GB has 8.0"),
        (machine(H100), {}, "2 GPUs are asked for"),
        (
            machine(H100, H100, tensorrt_llm="1.3.0"),
            {},
            "1.3.0 no longer knows engine files, which ended with 1.3.0rc20",
        ),
        (machine(*[H100] * 4), {"tensor_parallel": 4}, "has no rank2.engine"),
        (
            machine(H100, H100),
            {"files": {"rank0.engine": 6, "config.json.gone": 5}},
            "config.json.gone is missing",
        ),
        (
            machine(H100, H100),
            {"files": {"rank0.engine": 7}},
            "has 6 bytes instead of 7: copy the folder again",
        ),
        (
            machine(A100, A100),
            {"kind": "checkpoint", "quantisation": "fp8"},
            "which needs compute capability 8.9",
        ),
    ],
)
def test_engine_files_of_another_version_or_gpu_are_refused(
    folder: Path, on: Machine, changes: dict[str, Any], sentence: str
) -> None:
    made = built(folder, **changes)
    with pytest.raises(CheckpointError) as caught:
        check_built(folder, made, on)
    assert sentence in str(caught.value)


def test_a_tier_over_what_was_built_checks_its_files_too(folder: Path) -> None:
    built(folder, kind="checkpoint", files={"gone.safetensors": 3})
    assert "gone.safetensors is missing" in refused(folder, machine(H100, H100))


def test_a_damaged_or_foreign_manifest_is_refused(folder: Path) -> None:
    assert read_built(folder) is None
    (folder / BUILT_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_built(folder)
    built(folder, format=99)
    with pytest.raises(CheckpointError, match="another release of tidegate"):
        read_built(folder)


@pytest.mark.parametrize(
    ("version", "than", "is_it"),
    [
        ("1.2.1", "1.3.0rc20", True), ("1.3.0rc20", "1.3.0", True), ("1.3.0", "1.3.0rc20", False),
        ("0.9.2", "0.11", True), ("0.22.1+cu130", "0.11", False), ("1.0", "1.0.0", False),
        ("0.7.3.post1", "0.11", True),
    ],
)  # fmt: skip
def test_versions_are_ordered_as_the_libraries_number_them(version: str, than: str, is_it: bool) -> None:
    assert is_older(version, than) == is_it


def test_engine_files_end_with_the_last_release_that_has_them() -> None:
    check_engine_files("1.3.0rc20")
    with pytest.raises(CheckpointError, match=r"up to 26\.07"):
        check_engine_files("1.3.0rc21")


def test_gpus_are_those_that_the_drivers_tool_lists(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    lines = "NVIDIA H100 80GB HBM3, 9.0, 81559\\n[GPU is lost], [N/A], [N/A]\\nNVIDIA B200, 10.0, 183359\\n"
    tool.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    tool.chmod(0o755)
    assert read_gpus(str(tool)) == [
        Gpu("NVIDIA H100 80GB HBM3", 90, 81559 * 2**20),
        Gpu("NVIDIA B200", 100, 183359 * 2**20),
    ]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert read_gpus(str(tool)) == []
    assert read_gpus(str(tmp_path / "none")) == []
