"""What a machine brings for GPU engines: its GPUs, as the driver's own tool tells, and the libraries' versions."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

# The oldest release of each library whose calls are the ones that the engines make.
OLDEST = {"tensorrt_llm": "1.0", "vllm": "0.11"}
NAMES = {"tensorrt_llm": "TensorRT-LLM", "vllm": "vLLM"}
# Engine files (`trtllm-build`) ended with this one.
LAST_WITH_ENGINE_FILES = "1.3.0rc20"
DRIVER_S = 20.0
_QUERY = ["--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]


class Gpu(msgspec.Struct, frozen=True):
    """architecture: compute capability without its dot, as in `sm_90`."""

    name: str
    architecture: int
    memory_bytes: int


class Machine(msgspec.Struct, frozen=True):
    """versions: of the installed engine libraries, by engine."""

    gpus: Sequence[Gpu]
    versions: Mapping[str, str]


def read_machine(nvidia_smi: str = "nvidia-smi") -> Machine:
    """Without GPUs where the driver's tool is missing or fails. Takes up to seconds; imports no library."""
    versions = {}
    for engine in OLDEST:
        try:
            versions[engine] = importlib.metadata.version(engine)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(read_gpus(nvidia_smi), versions)


def read_gpus(nvidia_smi: str) -> list[Gpu]:
    try:
        done = subprocess.run(
            [nvidia_smi, *_QUERY], capture_output=True, text=True, timeout=DRIVER_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in done.stdout.splitlines():
        name, _, rest = line.strip().partition(", ")
        numbers = re.fullmatch(r"(\d+)\.(\d+), (\d+)", rest)
        if numbers:  # a GPU that has fallen off the bus says so instead
            found.append(Gpu(name, int(numbers[1]) * 10 + int(numbers[2]), int(numbers[3]) * 2**20))
    return found


def find_program(name: str, folders: Sequence[Path]) -> Path | None:
    """The first of the folders that has such a file."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def is_older(version: str, than: str) -> bool:
    """Of versions as these libraries number them: 1.2.1, 1.3.0rc20, 0.7.3.post1, 0.22.1+cu130."""
    return _key(version) < _key(than)


def _key(version: str) -> tuple[tuple[int, ...], int]:
    """Numbers, then the candidate's number; a release comes after all of its candidates."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = tuple(int(part) for part in numbers[0].split(".")) if numbers else ()
    candidate = re.search(r"(?:rc|a|b)(\d+)", version)
    return (*parts, *[0] * (4 - len(parts))), int(candidate[1]) if candidate else 10**6
