"""`tidegate engine build`: a checkpoint made ready for GPUs by the image's own programs.

Two things are made. A quantised checkpoint in Hugging Face's form is what TensorRT-LLM's LLM API and vLLM load.
Engine files are what the older C++ backend loads (TensorRT-LLM up to 1.3.0rc20), and fit one version and one kind of
GPU alone. `plan` decides everything and touches nothing; `run` does it in a draft folder and puts it in place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from gateway.checkpoint.engine_check import (
    BUILT_FILE,
    BUILT_FORMAT,
    Built,
    check_architecture,
    check_engine_files,
    check_gpus,
    check_library,
    check_split,
    quantisation_of,
)
from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.gpu_machine import Machine, find_program
from gateway.checkpoint.inspection import Checkpoint

QUANTISATIONS = ("none", "fp8", "nvfp4", "int4_awq")
# Where NVIDIA's image keeps the program that quantises; its own name for each format.
QUANTIZE = "quantize.py"
QUANTIZE_FOLDERS = (Path("/app/examples/quantization"), Path("/app/tensorrt_llm/examples/quantization"))
BUILD = "trtllm-build"
QFORMATS = {"none": "full_prec", "fp8": "fp8", "nvfp4": "nvfp4", "int4_awq": "int4_awq"}
KEPT = (".json", ".jinja", ".model", ".txt")  # the checkpoint's own small files, which go along
CALIBRATION_TEXTS = 512


class BuildWish(msgspec.Struct, frozen=True, kw_only=True):
    """kind: as in Built. calibration: folder of texts that the quantisation measures on; None where none is needed."""

    kind: Literal["checkpoint", "engine"]
    checkpoint: Checkpoint
    output: Path
    quantisation: str = "none"
    kv_cache: Literal["auto", "fp8"] = "auto"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_batch: int = 64
    max_tokens: int = 8192
    context_tokens: int = 8192
    calibration: Path | None = None


class Tools(msgspec.Struct, frozen=True):
    """Programs to run; where they are not, what they are called in the image."""

    quantize: Path
    build: Path
    python: str = "python3"
    are_there: bool = True


class Step(msgspec.Struct, frozen=True):
    """One program to run. says: what it does."""

    says: str
    argv: list[str]


def find_tools(folders: Sequence[Path] = QUANTIZE_FOLDERS) -> Tools:
    quantize, build = find_program(QUANTIZE, folders), shutil.which(BUILD)
    return Tools(
        quantize or folders[0] / QUANTIZE,
        Path(build or BUILD),
        sys.executable,
        are_there=quantize is not None and build is not None,
    )


def check_wish(wish: BuildWish) -> None:
    """What is wrong whatever the machine. Raises: CheckpointError."""
    if wish.context_tokens > wish.checkpoint.max_tokens:
        raise CheckpointError(
            f"the model of {wish.checkpoint.folder} takes at most {wish.checkpoint.max_tokens} tokens",
            f"lower --context, which is {wish.context_tokens}",
        )
    check_split(wish.checkpoint.folder, wish.tensor_parallel, wish.pipeline_parallel)
    kept = quantisation_of(wish.checkpoint.folder)
    if kept != "none" and wish.quantisation != "none":
        raise CheckpointError(
            f"{wish.checkpoint.folder} is quantised already ({kept})",
            "name the checkpoint that it was made from",
        )
    if wish.quantisation != "none" and wish.calibration is None:
        raise CheckpointError(
            f"quantising to {wish.quantisation} measures the model on texts, and none are downloaded",
            "name a folder with a data set in --calibration",
        )
    if wish.calibration is not None and not wish.calibration.is_dir():
        raise CheckpointError(f"{wish.calibration} is not a folder", "correct --calibration")
    if wish.kind == "checkpoint" and wish.quantisation == "none":
        raise CheckpointError(
            f"there is nothing to build: both libraries load {wish.checkpoint.folder} as it is",
            "name it in the tiers file, or choose a --quantise",
        )
    if wish.output.exists() and (not wish.output.is_dir() or any(wish.output.iterdir())):
        raise CheckpointError(f"{wish.output} is there already", "remove it, or choose another --output")


def check_machine(wish: BuildWish, machine: Machine, tools: Tools) -> None:
    """What is wrong with this machine for it. Raises: CheckpointError."""
    version = check_library("tensorrt_llm", machine)
    if wish.kind == "engine":
        check_engine_files(version)
    gpus = check_gpus(
        machine, wish.tensor_parallel * wish.pipeline_parallel, "--tensor-parallel x --pipeline-parallel"
    )
    check_architecture(wish.quantisation, gpus, what="the result")
    if wish.kv_cache == "fp8":
        check_architecture("fp8", gpus, what="the cache")
    if not tools.are_there:
        raise CheckpointError(
            f"{tools.quantize} or {BUILD} is missing",
            "run this in NVIDIA's image tritonserver:<release>-trtllm-python-py3",
        )


def plan(wish: BuildWish, tools: Tools, folder: Path) -> list[Step]:
    """The programs to run, in order. folder: for what is made on the way; the result goes to folder / "built"."""
    made, built = folder / "checkpoint", folder / "built"
    export = "hf" if wish.kind == "checkpoint" else "tensorrt_llm"
    quantise = [
        tools.python, str(tools.quantize),
        "--model_dir", str(wish.checkpoint.folder),
        "--output_dir", str(built if wish.kind == "checkpoint" else made),
        "--dtype", "auto",
        "--qformat", QFORMATS[wish.quantisation],
        "--export_format", export,
        "--tp_size", str(wish.tensor_parallel),
        "--pp_size", str(wish.pipeline_parallel),
    ]  # fmt: skip
    if wish.kv_cache == "fp8":
        quantise += ["--kv_cache_dtype", "fp8"]
    if wish.calibration is not None:
        quantise += ["--calib_dataset", str(wish.calibration), "--calib_size", str(CALIBRATION_TEXTS)]
    says = "convert" if wish.quantisation == "none" else f"quantise to {wish.quantisation}"
    steps = [Step(f"{says} {wish.checkpoint.folder}", quantise)]
    if wish.kind == "engine":
        build = [
            str(tools.build),
            "--checkpoint_dir", str(made),
            "--output_dir", str(built),
            "--max_batch_size", str(wish.max_batch),
            "--max_num_tokens", str(wish.max_tokens),
            "--max_seq_len", str(wish.context_tokens),
            "--kv_cache_type", "paged",
            # Of these two the defaults have changed from release to release, and reuse of the cache hangs on the first.
            "--use_paged_context_fmha", "enable",
            "--gemm_plugin", "disable" if wish.quantisation in {"fp8", "nvfp4"} else "auto",
            "--workers", str(wish.tensor_parallel * wish.pipeline_parallel),
        ]  # fmt: skip
        steps.append(Step(f"build {wish.tensor_parallel * wish.pipeline_parallel} engine file(s)", build))
    return steps


def run(wish: BuildWish, machine: Machine, tools: Tools, progress: Callable[[str], None]) -> Built:
    """All of it. Nothing is left behind when it fails. Raises: CheckpointError."""
    check_wish(wish)
    check_machine(wish, machine, tools)
    try:
        wish.output.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".build-", dir=wish.output.parent))
    except OSError as error:
        raise CheckpointError(
            f"{wish.output} cannot be written ({error.strerror})", "choose another --output"
        ) from error
    try:
        for step in plan(wish, tools, draft):
            progress(step.says)
            _run(step)
        built = draft / "built"
        for path in wish.checkpoint.folder.iterdir():
            if (
                path.suffix in KEPT
                and not path.name.endswith(".index.json")
                and not (built / path.name).exists()
            ):
                shutil.copyfile(path, built / path.name)
        made = _write_manifest(wish, machine, built)
        built.chmod(0o755)
        if wish.output.exists():
            wish.output.rmdir()  # an empty one
        os.rename(built, wish.output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return made


def _run(step: Step) -> None:
    """Its words go to the terminal as they come. Raises: CheckpointError."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    try:
        done = subprocess.run(step.argv, env=os.environ | offline, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise CheckpointError(f"{step.argv[0]} cannot be run ({error.strerror})") from error
    if done.returncode:
        raise CheckpointError(
            f"{Path(step.argv[0]).name} failed with exit status {done.returncode}", "its own words are above"
        )


def _write_manifest(wish: BuildWish, machine: Machine, folder: Path) -> Built:
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    made = Built(
        format=BUILT_FORMAT,
        kind=wish.kind,
        quantisation=wish.quantisation,
        library_version=machine.versions["tensorrt_llm"],
        architecture=machine.gpus[0].architecture,
        tensor_parallel=wish.tensor_parallel,
        pipeline_parallel=wish.pipeline_parallel,
        max_batch=wish.max_batch,
        max_tokens=wish.max_tokens,
        context_tokens=wish.context_tokens,
        files=files,
    )
    (folder / BUILT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    return made
