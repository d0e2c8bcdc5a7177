"""What a sentence encoder's folder (Hugging Face form) says of the model in it, and whether it can be served.

Read: config.json (BERT), 1_Pooling/config.json and sentence_bert_config.json where they are, and the prompts of
config_sentence_transformers.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_TOKENS = 512  # more than a passage has, and what attention over a batch of 32 still fits
ROLES = {
    "query": ("query",),
    "passage": ("passage", "document"),
}  # our word -> what prompts are called in the folder


class EmbedderUnavailable(RuntimeError):
    """The embedder cannot be built or loaded. The text is one sentence, fit to print."""


@dataclass(frozen=True)
class Architecture:
    """max_tokens: of one text, [CLS] and [SEP] included. pooling: `mean` or `cls`. prompts: by role."""

    num_layers: int
    num_heads: int
    dim: int
    layer_norm_eps: float = 1e-12
    max_tokens: int = 256
    pooling: str = "mean"
    prompts: dict[str, str] = field(default_factory=dict)


MINI_LM = Architecture(num_layers=6, num_heads=12, dim=384)


def read_architecture(folder: Path) -> Architecture:
    """Raises: EmbedderUnavailable when something is missing or is not what we can build."""
    config = _json(folder / "config.json")
    kind, activation = config.get("model_type"), config.get("hidden_act", "gelu")
    if (
        kind != "bert"
        or activation != "gelu"
        or config.get("position_embedding_type", "absolute") != "absolute"
    ):
        raise EmbedderUnavailable(
            f"{folder} holds a model of type {kind!r} with {activation!r}; BERT encoders with gelu and absolute "
            "positions can be served."
        )
    try:
        dim, num_heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        num_layers, num_positions = int(config["num_hidden_layers"]), int(config["max_position_embeddings"])
        layer_norm_eps = float(config.get("layer_norm_eps", 1e-12))
    except (KeyError, TypeError, ValueError) as error:
        raise EmbedderUnavailable(
            f"{folder / 'config.json'} is not that of a BERT model: {error!r}."
        ) from error
    if min(dim, num_heads, num_layers, num_positions) < 1 or dim % num_heads:
        raise EmbedderUnavailable(f"{folder / 'config.json'} has impossible sizes.")
    return Architecture(
        num_layers=num_layers,
        num_heads=num_heads,
        dim=dim,
        layer_norm_eps=layer_norm_eps,
        max_tokens=min(num_positions, _max_tokens(folder)),
        pooling=_pooling(folder),
        prompts=_prompts(folder),
    )


def _max_tokens(folder: Path) -> int:
    given = _json(folder / "sentence_bert_config.json", optional=True).get("max_seq_length")
    return min(given, MAX_TOKENS) if isinstance(given, int) and given > 2 else MAX_TOKENS


def _pooling(folder: Path) -> str:
    """Mean when nothing is said, as sentence-transformers does. Raises: EmbedderUnavailable for any other kind."""
    said = _json(folder / "1_Pooling" / "config.json", optional=True)
    modes = {
        name.removeprefix("pooling_mode_")
        for name, on in said.items()
        if name.startswith("pooling_mode_") and on
    }
    if modes <= {"mean_tokens"}:
        return "mean"
    if modes == {"cls_token"}:
        return "cls"
    raise EmbedderUnavailable(f"{folder} pools by {', '.join(sorted(modes))}; mean and cls can be served.")


def _prompts(folder: Path) -> dict[str, str]:
    said = _json(folder / "config_sentence_transformers.json", optional=True).get("prompts")
    if not isinstance(said, dict):
        return {}
    found = {role: next((said[name] for name in names if name in said), "") for role, names in ROLES.items()}
    return {role: text for role, text in found.items() if isinstance(text, str) and text}


def _json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if optional:
            return {}
        raise EmbedderUnavailable(f"{path} is missing.") from None
    except (OSError, ValueError) as error:
        raise EmbedderUnavailable(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise EmbedderUnavailable(f"{path} is not a JSON object.")
    return value
