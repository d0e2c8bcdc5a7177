"""An independent BERT sentence encoder (all-MiniLM-L6-v2 by default): plain numpy in fp32, one text at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

_erf = np.vectorize(math.erf, otypes=[np.float32])


class ReferenceEmbedder:
    def __init__(
        self,
        folder: Path,
        *,
        num_layers: int = 6,
        num_heads: int = 12,
        max_tokens: int = 256,
        pooling: str = "mean",
    ) -> None:
        self.num_layers, self.num_heads, self.pooling = num_layers, num_heads, pooling
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(max_tokens)
        self.tokenizer.no_padding()

    def embed(self, text: str) -> np.ndarray:
        ids = np.array(self.tokenizer.encode(text).ids)
        hidden = self._norm(
            "embeddings.LayerNorm",
            self.weights["embeddings.word_embeddings.weight"][ids]
            + self.weights["embeddings.position_embeddings.weight"][: len(ids)]
            + self.weights["embeddings.token_type_embeddings.weight"][0],
        )
        for layer in range(self.num_layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden)
        pooled = hidden.mean(axis=0) if self.pooling == "mean" else hidden[0]
        return pooled / np.linalg.norm(pooled)

    def _layer(self, name: str, hidden: np.ndarray) -> np.ndarray:
        dim = hidden.shape[1]
        split = (len(hidden), self.num_heads, dim // self.num_heads)
        query, key, value = (
            self._dense(f"{name}.attention.self.{part}", hidden).reshape(split).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(split[2])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        attended = self._dense(
            f"{name}.attention.output.dense", mixed.swapaxes(0, 1).reshape(len(hidden), dim)
        )
        hidden = self._norm(f"{name}.attention.output.LayerNorm", hidden + attended)
        inner = self._dense(f"{name}.intermediate.dense", hidden)
        inner = inner * 0.5 * (1 + _erf(inner / math.sqrt(2)))
        return self._norm(f"{name}.output.LayerNorm", hidden + self._dense(f"{name}.output.dense", inner))

    def _dense(self, name: str, inputs: np.ndarray) -> np.ndarray:
        return inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, name: str, inputs: np.ndarray) -> np.ndarray:
        centred = inputs - inputs.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
