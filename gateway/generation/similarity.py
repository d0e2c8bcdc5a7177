"""Sentence similarity for tier `deep`, from the sentence encoder."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.embedding.runtime import SentenceEmbedder
from gateway.generation.extractive import Similarity


def similarity_of(embedder: SentenceEmbedder) -> Similarity:
    """Cosine of each text with the question. One embedding run for all of them."""

    def similarity(question: str, texts: list[str]) -> npt.NDArray[np.float32]:
        vectors = embedder.embed([question, *texts])
        cosines: npt.NDArray[np.float32] = vectors[1:] @ vectors[0]
        return cosines

    return similarity
