"""Sentence similarity for tier `deep`, from the encoder. Vectors of sentences are kept, for passages come again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gateway.generation.extractive import Similarity

Vectors = npt.NDArray[np.float32]
MAX_KEPT_SENTENCES = 8192  # about 12 MB of vectors, and their texts
_MAX_KEPT_CHARS = 2000  # of a text whose vector is kept


def similarity_of(embed: Callable[[Sequence[str]], Vectors]) -> Similarity:
    """Cosine of each text with the question. embed: unit vectors of texts; one run for all that are not known yet."""
    kept = _Kept()

    def similarity(question: str, texts: list[str]) -> npt.NDArray[np.float32]:
        known = kept.of(texts)
        unknown = list(dict.fromkeys(text for text in texts if text not in known))
        vectors = embed([question, *unknown])
        fresh = dict(zip(unknown, vectors[1:], strict=True))
        kept.add(fresh)
        known |= fresh
        if not texts:
            return np.empty(0, np.float32)
        cosines: npt.NDArray[np.float32] = np.stack([known[text] for text in texts]) @ vectors[0]
        return cosines

    return similarity


class _Kept:
    """Least recently used goes first. Safe for several threads."""

    def __init__(self) -> None:
        self._vectors: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        with self._lock:
            found = {text: self._vectors[text] for text in texts if text in self._vectors}
            for text in found:
                self._vectors.move_to_end(text)
            return found

    def add(self, vectors: dict[str, npt.NDArray[np.float32]]) -> None:
        with self._lock:
            for text, vector in vectors.items():
                if len(text) <= _MAX_KEPT_CHARS:
                    self._vectors[text] = vector.copy()  # not a view that keeps its whole batch
            while len(self._vectors) > MAX_KEPT_SENTENCES:
                self._vectors.popitem(last=False)
