"""All embedders of one process, and requests to any of them that arrive together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.embedding.registry import prepare_embedders
from gateway.embedding.runtime import SentenceEmbedder
from gateway.settings import Settings, SettingsError
from gateway.types import DEFAULT_EMBEDDER

ROLES = ("query", "passage")
WARM_ROWS = (1, 2, 4, 8, 16, 32)
WARM_LENGTHS = (8, 12, 16, 24)

Vectors = npt.NDArray[np.float32]


class Wish(NamedTuple):
    """Texts of one request. All of them are embedded by one model in one role."""

    texts: list[str]
    role: str = "query"
    embedder: str = DEFAULT_EMBEDDER


class Embedders:
    """Raises, when made: EmbedderUnavailable, SettingsError."""

    def __init__(self, settings: Settings, log: Callable[[str], None]) -> None:
        self._models: dict[str, SentenceEmbedder] = {}
        for name, folder in prepare_embedders(settings, log).items():
            model = SentenceEmbedder(
                folder,
                precision=settings.embed_precision,
                threads=settings.embed_threads,
                provider=settings.embed_provider,
                buckets=bucket_lengths(settings.embed_buckets),
            )
            # The first run of a shape builds or plans it: with buckets, each of them once in its smallest and largest.
            if model.buckets:
                model.warm_up((1, WARM_ROWS[-1]), model.buckets)
            else:
                model.warm_up(WARM_ROWS, WARM_LENGTHS)
            model.embed(["warm the tokenizer"])
            self._models[name] = model
            log(f"{name}: {model.dim} dimensions, {model.engine}, {model.device}, {model.precision}")

    def check(self, wish: Wish) -> None:
        """Raises: ValueError with the public reason."""
        if wish.role not in ROLES:
            raise ValueError("role: expected `query` or `passage`.")
        if wish.embedder not in self._models:
            raise ValueError(
                f"embedder: there is no {wish.embedder[:64]!r}; there are {', '.join(self._models)}."
            )

    def embed(self, wishes: Sequence[Wish]) -> list[Vectors]:
        """Vectors [number of texts, D] for each; all that one model can run together are run together.

        The wishes must have passed `check`.
        """
        together: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, wish in enumerate(wishes):
            together[wish.embedder, wish.role].append(number)
        found: list[Vectors] = [np.empty((0, 0), np.float32)] * len(wishes)
        for (embedder, role), numbers in together.items():
            texts = [text for number in numbers for text in wishes[number].texts]
            vectors, start = self._models[embedder].embed(texts, role), 0
            for number in numbers:
                end = start + len(wishes[number].texts)
                found[number] = vectors[start:end]
                start = end
        return found


def bucket_lengths(text: str) -> list[int]:
    """`16,32,64` -> [16, 32, 64]. Raises: SettingsError."""
    try:
        lengths = [int(part) for part in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or lengths[0] < 1 or lengths != sorted(set(lengths)):
        raise SettingsError(f"TIDEGATE_EMBED_BUCKETS={text} is not rising lengths such as 16,32,64.")
    return lengths
