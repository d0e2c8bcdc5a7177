"""The second look at what a search found: passages ordered by what their sentences say to the question. Pure.

A search ranks whole chunks by meaning and by rare words. That is blind to whether one sentence brings the question's
words together, which is what tells the right passage from its neighbours on the same subject. The weights are few and
round; near them the order hardly changes (perf/eval_reader.py measures it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.language.pieces import candidates
from gateway.language.question import Question, read
from gateway.language.spelling import respelled
from gateway.language.support import CONTEXT_SHARE, NAMES, lexical_scores, sentence_rows
from gateway.retrieval.passages import top_merged
from gateway.types import Passage, Scope

NUM_READ = 8  # of the candidates, whose sentences are read: the bound of the cost
NUM_KEPT = 3  # the search's own best are never lost altogether

_SEARCHED, _HELD, _PAIRS = 24.0, 4.0, 2.0
_UNREAD = (
    1.2  # in place of what sentences add; so that as many unanswerable questions are refused as with reading
)
# Log-odds that a passage answers, from its score. Fitted on questions half of which the corpus could not answer.
_SLOPE, _BIAS = 0.65, -7.8
_COVER, _NEAR, _PAIR = NAMES.index("cover"), NAMES.index("near"), NAMES.index("pairs")


_decode_passages = msgspec.json.Decoder(list[Passage]).decode
_decode_scope = msgspec.json.Decoder(Scope).decode


def rerank_row(text: bytes, candidates: bytes, scope: bytes) -> bytes:
    """One question on the wire: JSON list of the candidates in, JSON list of the passages out.

    A scope that asks for another ranking than `hybrid`, or for no reranking, keeps the search's order.
    Raises: ValueError with one sentence.
    """
    try:
        question, passages, within = text.decode(), _decode_passages(candidates), _decode_scope(scope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"The text, the candidates or the scope is not valid: {error}.") from None
    if within.ranking == "hybrid" and not within.rerank:
        return msgspec.json.encode(top_merged(unread(passages), within.k))
    if within.ranking == "hybrid":
        return msgspec.json.encode(reranked(question, passages, within.k))
    return msgspec.json.encode(top_merged(passages, within.k))


def reranked(question: str, passages: Sequence[Passage], k: int) -> list[Passage]:
    """The k best of a search's candidates, best first in and out, with neighbours merged.

    passages: ordered by rank_score as retrieval.fusion gives it; in the result rank_score is the probability that the
    passage answers the question. One of the search's best NUM_KEPT stays among the k, be it the last.
    """
    if not passages:
        return []
    asked = respelled(read(question), passages)
    scores = _scores(asked, passages)
    order = [int(number) for number in np.argsort(-scores, kind="stable")]
    return top_merged([_ranked(passages[number], scores[number]) for number in _kept(order, k)], k)


def unread(passages: Sequence[Passage]) -> list[Passage]:
    """The search's order, each passage with a probability that is as bold as that of a reranked one."""
    return [_ranked(passage, _SEARCHED * passage.rank_score + _UNREAD) for passage in passages]


def _kept(order: list[int], k: int) -> list[int]:
    """The order with the search's own best moved up to the last places among k, where they fell out."""
    lost = [number for number in range(NUM_KEPT) if number in order[k:]]
    if not lost or k <= NUM_KEPT:
        return order
    head = [number for number in order[:k] if number >= NUM_KEPT]
    dropped = set(head[-len(lost) :])
    first = [number for number in order[:k] if number not in dropped]
    return [
        *first,
        *lost,
        *(number for number in order if number in dropped or number not in {*first, *lost}),
    ]


def _ranked(passage: Passage, score: float) -> Passage:
    return msgspec.structs.replace(passage, rank_score=1.0 / (1.0 + math.exp(-(_SLOPE * score + _BIAS))))


def _scores(asked: Question, passages: Sequence[Passage]) -> npt.NDArray[np.float64]:
    """Shape [len(passages)]."""
    scores = np.array([_SEARCHED * passage.rank_score for passage in passages])
    near = passages[:NUM_READ]
    found = candidates(near)
    if not asked.terms or not found:
        return scores
    rows = sentence_rows(asked, found, near)
    says = lexical_scores(rows)
    owner = np.array([candidate.passage for candidate in found])
    for number in range(len(near)):
        own = np.flatnonzero(owner == number)
        if len(own):
            best = rows[own[says[own].argmax()]]
            held = best[_COVER] + CONTEXT_SHARE * best[_NEAR]
            scores[number] += _HELD * held + _PAIRS * rows[own, _PAIR].max()
    return scores
