"""What an image sets for the engines' libraries reaches the models' processes, and nothing else does."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gateway.settings import load_settings
from gateway.supervise.binaries import find_libpython
from gateway.supervise.render import child_environment
from gateway.supervise.triton_server import triton_environment

DOCKERFILE = Path(__file__).parents[3] / "images" / "triton-gpu.Dockerfile"
# As NVIDIA's images with TensorRT-LLM set them: without the first `import tensorrt_llm` finds no libnvinfer.
OF_THE_BASE = {
    "LD_LIBRARY_PATH": "/usr/local/tensorrt/lib:/usr/local/cuda/compat/lib",
    "OPAL_PREFIX": "/opt/hpcx/ompi",
    "TRT_ROOT": "/usr/local/tensorrt",
}


def of_our_image() -> dict[str, str]:
    """The variables that our Dockerfile adds for libraries: all but Python's, the shell's and our settings."""
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    pairs = dict(re.findall(r"(\w+)=(\S+)", block))
    return {k: v for k, v in pairs.items() if not k.startswith(("PATH", "PYTHON", "TIDEGATE_"))}


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    variables = OF_THE_BASE | of_our_image()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return variables


def test_the_image_says_something_to_the_libraries() -> None:
    assert {"HF_HUB_OFFLINE", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"} <= of_our_image().keys()


@pytest.mark.skipif(find_libpython() is None, reason="there is no shared libpython here")
def test_an_images_variables_reach_the_models(image: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "pytriton" / "tritonserver"
    (tmp_path / "nvidia_pytriton.libs").mkdir()
    env = triton_environment(load_settings({}, var=tmp_path), home, tmp_path / "links")
    rest = {name: value for name, value in image.items() if name != "LD_LIBRARY_PATH"}
    assert rest.items() <= env.items()
    assert "AWS_SECRET_ACCESS_KEY" not in env
    own, *inherited, system = env["LD_LIBRARY_PATH"].split(os.pathsep)
    assert own == str(tmp_path / "nvidia_pytriton.libs")
    assert inherited == OF_THE_BASE["LD_LIBRARY_PATH"].split(os.pathsep)
    assert system == str(find_libpython())


def test_they_reach_the_parts_that_one_machine_starts(image: dict[str, str], tmp_path: Path) -> None:
    env = child_environment(load_settings({}, var=tmp_path, redis_server="/bin/true"))
    assert image.items() <= env.items()
    assert "AWS_SECRET_ACCESS_KEY" not in env
