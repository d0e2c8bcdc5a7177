"""`tidegate engine` with programs that stand in for the image's: what is run, what is refused, what is left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gateway.checkpoint import engine_build
from gateway.checkpoint.engine_check import read_built
from gateway.cli import main
from tests.fakes.small_tokenizers import write_checkpoint

QUANTIZE = """
import json, pathlib, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = pathlib.Path(arguments["--output_dir"])
out.mkdir()
(out / "model.safetensors").write_text("quantised")
(out / "config.json").write_text(json.dumps(arguments))
"""
BUILD = """#!{python}
import pathlib, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert (pathlib.Path(arguments["--checkpoint_dir"]) / "config.json").is_file()
out = pathlib.Path(arguments["--output_dir"])
out.mkdir()
for rank in range(int(arguments["--workers"])):
    (out / f"rank{{rank}}.engine").write_text("engine")
(out / "config.json").write_text("{{}}")
"""


class Image:
    """A machine with one H100 and the programs of NVIDIA's image. folder: of the checkpoint."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.folder = root, write_checkpoint(root / "model")
        (root / "texts").mkdir()
        self.tools = root / "tools"
        self.tools.mkdir()
        self.quantize = self.tools / "quantize.py"
        self.quantize.write_text(QUANTIZE)
        self._program("trtllm-build", BUILD.format(python=sys.executable))
        self._program("nvidia-smi", "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 9.0, 81559'\n")
        library = root / "site" / "tensorrt_llm-1.2.1.dist-info"
        library.mkdir(parents=True)
        (library / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: 1.2.1\n")
        monkeypatch.syspath_prepend(str(root / "site"))
        monkeypatch.setenv("PATH", f"{self.tools}:/usr/bin:/bin")
        found = engine_build.find_tools
        monkeypatch.setattr(engine_build, "find_tools", lambda: found([self.tools]))

    def _program(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def build(self, *options: str) -> int:
        return run("engine", "build", str(self.folder), "--output", str(self.root / "out"), *options)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    return Image(tmp_path, monkeypatch)


FP8 = ("--quantise", "fp8", "--calibration")


def test_a_quantised_checkpoint_has_what_a_tier_needs(image: Image) -> None:
    assert image.build(*FP8, str(image.root / "texts"), "--kv-cache", "fp8", "--context", "1024") == 0
    out = image.root / "out"
    made = read_built(out)
    assert made is not None
    assert (made.kind, made.quantisation, made.library_version, made.architecture) == (
        "checkpoint",
        "fp8",
        "1.2.1",
        90,
    )
    assert (out / "tokenizer.json").is_file()  # the checkpoint's own files go along
    asked = json.loads((out / "config.json").read_text())
    assert (asked["--qformat"], asked["--export_format"], asked["--kv_cache_dtype"]) == ("fp8", "hf", "fp8")
    assert asked["--calib_dataset"] == str(image.root / "texts")
    assert sorted(path.name for path in image.root.iterdir() if path.name.startswith(".")) == []


def test_engine_files_are_built_and_pass_the_check(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    assert image.build("--kind", "engine", "--max-batch", "16", "--context", "1024") == 0
    assert run("engine", "check", str(image.root / "out")) == 0
    assert "1 GPU(s) of compute capability 9.0, 16 requests of 1024 tokens" in capsys.readouterr().out
    repository = image.root / "repository"
    assert (
        run("engine", "render-ensemble", "--engine-dir", str(image.root / "out"), "--output", str(repository))
        == 0
    )
    assert "max_batch_size: 16" in (repository / "tensorrt_llm" / "config.pbtxt").read_text()


def test_a_dry_run_prints_the_programs_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "model")
    monkeypatch.setenv("PATH", "/nowhere")
    options = ("--kind", "engine", "--context", "1024", "--tensor-parallel", "2", "--dry-run")
    assert run("engine", "build", str(folder), "--output", str(tmp_path / "out"), *options) == 0
    said = capsys.readouterr().out
    assert "quantize.py --model_dir" in said
    assert "trtllm-build --checkpoint_dir" in said
    assert "--kv_cache_type paged --use_paged_context_fmha enable" in said
    assert "--tp_size 2" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--context", "1024"), "there is nothing to build: both libraries load"),
        (("--quantise", "fp8", "--context", "1024"), "name a folder with a data set in --calibration"),
        ((*FP8, "/nowhere", "--context", "1024"), "/nowhere is not a folder: correct --calibration"),
        (("--kind", "engine"), "takes at most 2048 tokens: lower --context, which is 8192"),
        (("--kind", "engine", "--context", "1024", "--tensor-parallel", "2"), "2 GPUs are asked for"),
        (("--kind", "engine", "--context", "1024", "--tensor-parallel", "3"), "3 GPUs cannot share evenly"),
        (("--quantise", "int3"), "--quantise: 'int3' is none of none, fp8, nvfp4, int4_awq"),
    ],
)
def test_what_cannot_be_built_is_refused(
    image: Image, options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert image.build(*options) != 0
    assert sentence in capsys.readouterr().err
    assert not (image.root / "out").exists()


def test_a_gpu_that_does_not_compute_in_the_format_is_refused(
    image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        image.build("--quantise", "nvfp4", "--calibration", str(image.root / "texts"), "--context", "1024")
        == 1
    )
    assert "the result is kept in nvfp4, which needs compute capability 10.0" in capsys.readouterr().err


def test_a_program_that_is_missing_is_named_with_its_image(
    image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    image.quantize.unlink()
    assert image.build("--kind", "engine", "--context", "1024") == 1
    assert "quantize.py or trtllm-build is missing: run this in NVIDIA's image" in capsys.readouterr().err


def test_a_program_that_fails_leaves_nothing_behind(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    image.quantize.write_text("raise SystemExit(3)")
    assert image.build("--kind", "engine", "--context", "1024") == 1
    assert "failed with exit status 3" in capsys.readouterr().err
    assert sorted(path.name for path in image.root.iterdir()) == ["model", "site", "texts", "tools"]


def test_nothing_is_written_over(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    (image.root / "out").mkdir()
    (image.root / "out" / "mine").touch()
    assert image.build("--kind", "engine", "--context", "1024") == 1
    assert "is there already" in capsys.readouterr().err
    assert (image.root / "out" / "mine").exists()


def test_the_check_tells_how_memory_is_used(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--context", "1024", "--nvidia-smi", str(image.tools / "nvidia-smi"))
    assert run("engine", "check", str(image.folder), *options) == 0
    assert "runs here on tensorrt_llm 1.2.1, NVIDIA H100" in capsys.readouterr().out
    assert run("engine", "check", str(image.folder), *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["full_slots"] > 1000
    assert run("engine", "check", str(image.folder), *options, "--engine", "vllm") == 1
    assert "vLLM is not installed" in capsys.readouterr().err


def test_a_repository_of_no_engine_is_refused(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--engine-dir", str(image.folder), "--output", str(image.root / "repository"))
    assert run("engine", "render-ensemble", *arguments) == 1
    assert "holds no engine files of ours" in capsys.readouterr().err
