"""Small language models of random weights in two architectures, with the reference implementation's greedy tokens.

Made on the spot in the conversion environment and converted by the product's own code, once: pytest's cache keeps them
under a key of all that goes in. Weights are f32, so that tokens can be compared one for one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.checkpoint import convert_script
from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.prepare import find_convert_python, prepare_checkpoint
from gateway.tier_config import GenerateTier

SCRIPT = Path(__file__).with_name("checkpoint_script.py")
PINS = Path(__file__).parents[2] / "requirements" / "convert.txt"
MAKING_S = 600  # limit of the first test that needs them
NUM_TOKENS = 64
CONTEXT_TOKENS = 1024
LONG = "The miller opens the gate at ebb and shuts it before the flood comes in again; 水門は閉じた。🌊 " * 12
PROMPTS = [
    "A tide gate",
    "🌊🌊 emoji, then 👩‍🔬",
    "潮門は水を",
    "Ein Sieltor lässt",
    'def gate(open: bool) -> str:\n    return "',
    "Приливные ворота",
    LONG,
    LONG + "And then",
]
_SHAPE = {
    "vocab_size": 768,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
SPECS = {
    "llama": {
        "model_type": "llama",
        "style": "file",
        "seed": 7,
        "shape": {**_SHAPE, "rope_scaling": _LLAMA3_ROPE},
    },
    "qwen2": {
        "model_type": "qwen2",
        "style": "string",
        "seed": 11,
        "shape": {**_SHAPE, "num_key_value_heads": 4},
    },
}
ARCHITECTURES = tuple(SPECS)


@dataclass(frozen=True)
class Reference:
    """What the reference implementation makes of a prompt, greedily, in fp32, with the end token ignored."""

    prompt: str
    prompt_ids: list[int]
    output_ids: list[int]
    text: str
    template: str


@dataclass(frozen=True)
class TinyCheckpoint:
    """folder: as from a hub. models_dir: holds its conversion already."""

    folder: Path
    models_dir: Path
    references: list[Reference]

    def tier(self, name: str = "small", **changes: object) -> GenerateTier:
        fields: dict[str, object] = {
            "weights": "f32", "context_tokens": CONTEXT_TOKENS, "max_tokens": NUM_TOKENS, "num_threads": 1, **changes
        }  # fmt: skip
        return GenerateTier(name=name, checkpoint=str(self.folder), **fields)  # type: ignore[arg-type]

    def table(self, name: str, **changes: object) -> str:
        """The tier as a table of a tiers file."""
        from gateway.supervise.triton_server import as_table

        return as_table(self.tier(name, **changes))


@pytest.fixture(scope="session")
def tiny_checkpoints(pytestconfig: pytest.Config) -> dict[str, TinyCheckpoint]:
    """By architecture. Skips, saying why, where nothing can be converted."""
    try:
        python = find_convert_python("")
    except CheckpointError as missing:
        pytest.skip(f"no conversion: {missing}")
    root = pytestconfig.cache.mkdir("checkpoints")
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other levels may run at the same time
        return {name: _converted(root / _key(), name, python) for name in ARCHITECTURES}


def _key() -> str:
    parts = [path.read_bytes() for path in (SCRIPT, PINS, Path(str(convert_script.__file__)))]
    return hashlib.sha256(
        b"\0".join([*parts, json.dumps([SPECS, PROMPTS, NUM_TOKENS]).encode()])
    ).hexdigest()[:16]


def _converted(root: Path, name: str, python: Path) -> TinyCheckpoint:
    done = root / "made"
    if not done.exists():
        make_checkpoints(root, python)
        done.touch()
    references = [Reference(**each) for each in json.loads((root / name / "references.json").read_text())]
    made = TinyCheckpoint(root / name, root / "models", references)
    prepare_checkpoint(made.tier(), made.models_dir, str(python), print)
    return made


def make_checkpoints(root: Path, python: Path) -> None:
    specs = {name: {**spec, "prompts": PROMPTS, "num_tokens": NUM_TOKENS} for name, spec in SPECS.items()}
    command = [str(python), "-P", str(SCRIPT), str(root), json.dumps(specs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAKING_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
