"""A tier's checkpoint as the engine takes it: converted once, in an environment of its own, and kept in var.

The folder's name carries what went in, so a changed checkpoint or option never meets an old conversion.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from gateway.checkpoint.engine_check import check_gpu_tier
from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.gpu_machine import read_machine
from gateway.checkpoint.inspection import (
    IR_FILE,
    IR_WEIGHTS_FILE,
    Checkpoint,
    check_can_convert,
    check_fits,
    inspect,
)
from gateway.tier_config import GenerateTier

FORMAT = 2  # raise it when the conversion or the layout of the folder changes
FOLDER, MANIFEST_FILE, DRAFT_PREFIX = "generate", "manifest.json", ".convert-"
SCRIPT = Path(__file__).with_name("convert_script.py")
OWN_PYTHON = Path(__file__).resolve().parents[2] / ".venv" / "convert" / "bin" / "python"
KEPT = (".json", ".jinja")  # the checkpoint's own small files, which go along
QUIET_S = 5.0  # after this long a line is said again

Progress = Callable[[str], None]


def prepared_folder(tier: GenerateTier, models_dir: Path) -> Path:
    """Where the tier's model stands, ready to load. Converts nothing and takes milliseconds.

    Raises: CheckpointError, also when the conversion has not been made.
    """
    with _named(tier):
        checkpoint = inspect(Path(tier.checkpoint), is_for_gpu=tier.is_on_gpu)
        folder = _place(checkpoint, tier, models_dir)
        if not _is_ready(checkpoint, tier, folder):
            raise CheckpointError(
                f"{checkpoint.folder} is not converted yet",
                "`tidegate up` does that before it starts the service",
            )
        return folder


def prepare_checkpoint(tier: GenerateTier, models_dir: Path, convert_python: str, progress: Progress) -> Path:
    """The same, converting when that is due. Two processes may race: one converts, the other waits.

    convert_python: the Python of the conversion's environment; "" = the one that `make convert-env` makes.
    Raises: CheckpointError with one sentence that names the tier and what to change.
    """
    with _named(tier):
        checkpoint = inspect(Path(tier.checkpoint), is_for_gpu=tier.is_on_gpu)
        if tier.is_on_gpu:
            check_gpu_tier(checkpoint, tier, read_machine())
            return checkpoint.folder
        check_fits(checkpoint, tier)
        folder = _place(checkpoint, tier, models_dir)
        if _is_ready(checkpoint, tier, folder):
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.parent, progress):
                if not is_intact(folder):
                    _remove_drafts(folder.parent)
                    check_can_convert(checkpoint, tier, folder.parent)
                    _convert(checkpoint, tier, find_convert_python(convert_python), folder, progress)
        except OSError as error:
            raise CheckpointError(
                f"the conversion cannot be written to {models_dir} ({error.strerror or error})",
                "set TIDEGATE_VAR to another folder",
            ) from error
        return folder


def is_due(tier: GenerateTier, models_dir: Path) -> bool:
    """Whether a start would convert. Raises: CheckpointError."""
    with _named(tier):
        checkpoint = inspect(Path(tier.checkpoint), is_for_gpu=tier.is_on_gpu)
        return not _is_ready(checkpoint, tier, _place(checkpoint, tier, models_dir))


def check_tier(
    tier: GenerateTier, models_dir: Path, convert_python: str, *, num_replicas: int, taken_bytes: int
) -> tuple[Checkpoint, int, bool]:
    """All that can be said before a start. taken_bytes: memory that the tiers before it will need.

    Returns what it is, the memory that it will need (of the processor's; a GPU tier takes its GPUs'), and whether a
    conversion is due. Raises: CheckpointError.
    """
    with _named(tier):
        checkpoint = inspect(Path(tier.checkpoint), is_for_gpu=tier.is_on_gpu)
        if tier.is_on_gpu:
            check_gpu_tier(checkpoint, tier, read_machine())
            return checkpoint, 0, False
        needed = check_fits(checkpoint, tier, num_replicas=num_replicas, taken_bytes=taken_bytes)
        folder = _place(checkpoint, tier, models_dir)
        is_due = not _is_ready(checkpoint, tier, folder)
        if is_due:
            find_convert_python(convert_python)
            check_can_convert(checkpoint, tier, folder.parent)
        return checkpoint, needed, is_due


def find_convert_python(explicit: str) -> Path:
    """Raises: CheckpointError."""
    if explicit:
        if not os.access(explicit, os.X_OK):
            raise CheckpointError(
                f"TIDEGATE_CONVERT_PYTHON={explicit} is no program",
                "set it to a Python that has optimum-intel",
            )
        return Path(explicit)
    if not OWN_PYTHON.exists():
        raise CheckpointError(
            "the environment that converts checkpoints is missing",
            "make it with `make convert-env`, or set TIDEGATE_CONVERT_PYTHON to a Python that has optimum-intel",
        )
    return OWN_PYTHON


def is_intact(folder: Path) -> bool:
    """Whether the folder holds what its manifest says, by sizes."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        sizes = {name: entry["num_bytes"] for name, entry in manifest["files"].items()}
        return {IR_FILE, IR_WEIGHTS_FILE} <= sizes.keys() and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_ready(checkpoint: Checkpoint, tier: GenerateTier, folder: Path) -> bool:
    return tier.is_on_gpu or checkpoint.is_converted or is_intact(folder)


def _place(checkpoint: Checkpoint, tier: GenerateTier, models_dir: Path) -> Path:
    if checkpoint.is_converted or tier.is_on_gpu:
        return checkpoint.folder
    options = f"{FORMAT} {tier.weights} {checkpoint.key}"
    return models_dir / FOLDER / hashlib.sha256(options.encode()).hexdigest()[:16]


@contextmanager
def _named(tier: GenerateTier) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"tier `{tier.name}`: {error.what}", error.fix) from error


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """One conversion at a time: each takes memory for two. The kernel lets go of the lock however we end."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for another conversion to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_drafts(folder: Path) -> None:
    """What a conversion that was cut off has left."""
    for left in folder.glob(DRAFT_PREFIX + "*"):
        shutil.rmtree(left, ignore_errors=True)


def _convert(
    checkpoint: Checkpoint, tier: GenerateTier, python: Path, folder: Path, progress: Progress
) -> None:
    started_s = time.monotonic()
    draft = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's 0700 would shut out a server that runs as another user
        made = draft / "model"
        _run(python, [str(checkpoint.folder), str(made), tier.weights], tier.name, progress)
        for path in checkpoint.folder.iterdir():
            if path.suffix in KEPT and not path.name.endswith(".index.json"):
                shutil.copyfile(path, made / path.name)
        _write_manifest(checkpoint, tier, made)
        if folder.exists():  # damaged
            os.rename(folder, draft / "damaged")
        os.rename(made, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    progress(f"Tier {tier.name}: converted in {time.monotonic() - started_s:.0f} s")


def _run(python: Path, arguments: list[str], name: str, progress: Progress) -> None:
    """The script in its own environment, its lines as progress. Raises: CheckpointError with its last line."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [str(python), "-I", str(SCRIPT), *arguments],
            bufsize=0,  # a line in a buffer of ours would not wake the selector
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={key: os.environ[key] for key in ("PATH", "HOME", "LD_LIBRARY_PATH") if key in os.environ},
        )
        try:
            for line in _lines(process):
                progress(f"Tier {name}: {line}")
            status = process.wait()
        finally:  # also when `progress` has raised, because nobody wants it any more
            if process.poll() is None:
                process.kill()
                process.wait()
        if status:
            errors.seek(0)
            raise _failure(status, errors.read().decode("utf-8", "replace"))


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """What the process prints; the last line again with the time it has taken so far when it says nothing."""
    stream = cast(IO[bytes], process.stdout)
    with stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        line, since_s = "starting", time.monotonic()
        while True:
            if not selector.select(QUIET_S):
                yield f"{line}, {time.monotonic() - since_s:.0f} s"
                continue
            text = stream.readline()
            if not text:
                return
            line, since_s = text.decode("utf-8", "replace").strip(), time.monotonic()
            yield line


def _failure(status: int, errors: str) -> CheckpointError:
    if status == -signal.SIGKILL:
        return CheckpointError("the conversion was killed, as happens when memory runs out", "free some")
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = lines[-1].rstrip(".") if lines else f"exit status {status}"
    if "ModuleNotFoundError" in last or "ImportError" in last:
        return CheckpointError(
            f"the environment that converts checkpoints is incomplete ({last})",
            "make it anew with `make convert-env`",
        )
    return CheckpointError(f"the conversion failed ({last})")


def _write_manifest(checkpoint: Checkpoint, tier: GenerateTier, folder: Path) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())  # a power cut after the rename must not leave a full-sized file of zeros
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"num_bytes": path.stat().st_size, "sha256": digest}
    manifest = {
        "format": FORMAT,
        "source": str(checkpoint.folder),
        "source_key": checkpoint.key,
        "model_type": checkpoint.model_type,
        "weights": tier.weights,
        "files": files,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
