"""How dense and lexical evidence become one order. Pure: arrays in, arrays out, whatever store they came from.

The rank of a chunk is its cosine plus LEXICAL_WEIGHT times its share of the BM25 that a perfect match would have.
Both are absolute, so ranks of different collections, and of one question asked twice, can be compared; a share does
not grow with the corpus as BM25 itself does. Reciprocal ranks throw the distances away and were worse on labelled
questions, and so was BM25 divided by the best of its question.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]

LEXICAL_WEIGHT = 0.6  # of a full lexical match, a cosine of 1 being 1; from 0.5 to 0.7 hardly matters


def rank_scores(cosines: Scores, lexical: Scores, lexical_scale: float, ranking: str) -> Scores:
    """What the order of candidates follows, 0..1.

    Shapes: cosines [N], lexical [N] -> [N]. lexical: BM25, >= 0. lexical_scale: the BM25 of a perfect match, 0 = the
    question has no words. ranking: as in types.Scope.
    """
    dense = np.clip(cosines, 0.0, 1.0)
    if ranking == "dense":
        return dense
    share = np.clip(lexical / lexical_scale, 0.0, 1.0) if lexical_scale > 0.0 else np.zeros_like(dense)
    if ranking == "lexical":
        return share
    return (dense + np.float32(LEXICAL_WEIGHT) * share) / np.float32(1.0 + LEXICAL_WEIGHT)
