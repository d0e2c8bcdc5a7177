"""A language model of random weights for measurements: made and converted once, kept in perf/out/ (git ignores it)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from gateway.checkpoint.prepare import find_convert_python, prepare_checkpoint
from gateway.supervise.triton_server import as_table
from gateway.tier_config import GenerateTier

SCRIPT = Path(__file__).with_name("checkpoint_script.py")
OUT = Path(__file__).parent / "out"
TIER = "generate"
MAKING_S = 300.0

Progress = Callable[[str], None]


def random_tier(*, slots: int, context_tokens: int, progress: Progress = print) -> GenerateTier:
    """A generative tier of 135M parameters in bf16, its checkpoint converted already.

    It names the conversion, so any var folder can use it. Raises: CheckpointError when nothing can convert.
    """
    python = find_convert_python("")
    source = OUT / f"checkpoint-{hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:12]}"
    if not (source / "config.json").exists() or not list(source.glob("*.safetensors")):
        shutil.rmtree(OUT, ignore_errors=True)  # an older script's
        progress(f"Making a checkpoint of random weights in {source}.")
        # -P: a script's folder on the import path would hide the standard library's `profile`.
        subprocess.run(
            [str(python), "-P", str(SCRIPT), str(source)], check=True, timeout=MAKING_S, capture_output=True
        )
    tier = GenerateTier(
        checkpoint=str(source),
        name=TIER,
        weights="bf16",
        slots=slots,
        context_tokens=context_tokens,
        max_tokens=context_tokens // 2,
    )
    return replace(tier, checkpoint=str(prepare_checkpoint(tier, OUT / "models", "", progress)))


def tiers_file(folder: Path, tier: GenerateTier) -> dict[str, str]:
    """Writes the tier into that folder. Returns the setting that names the file."""
    path = folder / "tiers.toml"
    path.write_text(as_table(tier), "utf-8")
    return {"tiers_file": str(path)}
