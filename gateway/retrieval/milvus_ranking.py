"""One order from what Milvus found by vector and by words. Pure.

Milvus tells no inverse document frequencies, so the BM25 of a perfect match is extrapolated: from the score of a chunk
and the share of the question's words that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from gateway.retrieval.fusion import rank_scores
from gateway.retrieval.milvus_rows import lexical_terms
from gateway.retrieval.passages import collapsed
from gateway.types import Passage

NUM_SCALING = 8  # chunks, the best by BM25, whose words are counted for the scale


def ranked(
    found: Mapping[int, Passage], terms: Sequence[str], ranking: str, *, floor: float | None
) -> list[Passage]:
    """Best first, copies of a text once; ties go to the lower chunk id.

    found: by chunk id, with cosine and BM25; a BM25 of 0 means that the lexical search did not give the chunk.
    terms: of the question. floor: what such a chunk's BM25 cannot exceed; None = the server has no lexical search, and
    the words that the chunks share with the question are counted instead.
    """
    passages = list(found.values())
    wanted = frozenset(terms)
    if not wanted or ranking == "dense":
        lexical, scale = [0.0] * len(passages), 0.0
    elif floor is None:
        lexical, scale = [_coverage(wanted, each) * len(wanted) for each in passages], float(len(wanted))
    else:
        scale = _scale(wanted, passages)
        lexical = [_at_most(floor, wanted, each, scale) for each in passages]
    cosines = np.array([each.score for each in passages], np.float32)
    ranks = rank_scores(cosines, np.array(lexical, np.float32), scale, ranking)
    order = sorted(range(len(passages)), key=lambda place: (-ranks[place], passages[place].chunk_id))
    if ranking == "lexical":
        order = [place for place in order if lexical[place] > 0.0]
    return collapsed(
        [
            msgspec.structs.replace(
                passages[place], lexical=lexical[place], rank_score=round(float(ranks[place]), 6)
            )
            for place in order
        ]
    )


def _coverage(wanted: frozenset[str], passage: Passage) -> float:
    held = wanted.intersection(lexical_terms(f"{passage.heading} {passage.text}"))
    return len(held) / len(wanted)


def _scale(wanted: frozenset[str], passages: Sequence[Passage]) -> float:
    best = sorted((each for each in passages if each.lexical > 0.0), key=lambda each: -each.lexical)
    perfect = [each.lexical / max(_coverage(wanted, each), 1.0 / len(wanted)) for each in best[:NUM_SCALING]]
    return max(perfect, default=0.0)


def _at_most(floor: float, wanted: frozenset[str], passage: Passage, scale: float) -> float:
    if passage.lexical > 0.0 or floor <= 0.0:
        return passage.lexical
    return min(floor, _coverage(wanted, passage) * scale)
