"""What speaks for each sentence as the answer to a question: numbers, not yet a choice.

Needs no model. Every feature is about 0..1, so that a weight says how much it matters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.language.pieces import Candidate, Piece, Words, passage_words, same_words, start_of
from gateway.language.question import Question, Wanted, evidence
from gateway.language.sentences import Kind
from gateway.types import Passage

NAMES = ("cover", "near", "linked", "evidence", "rank", "length", "pairs", "place")
_EVIDENCE, _RANKED = NAMES.index("evidence"), NAMES.index("rank")
RANK = 1.0  # of a sentence's score, the passage's log-odds
_INFLECTED = 0.9  # what another form of a word counts: `reads` may be about the reader, or not
_ALIKE = 0.6  # what a word counts that has the same start, or stands inside an identifier
_NOT_IN_CODE = {Wanted.DEFINITION, Wanted.REASON, Wanted.PERSON, Wanted.PLACE}
CONTEXT_SHARE = (
    0.4  # what a term in the sentence before or the heading counts, against one in the sentence itself
)
_LATE = 8  # sentences into a passage, from where on its places are not told apart
MIN_RANK = 0.0001  # chances below it, and above 1 - it, are not told apart
# Support of an answer = log-odds that the passages hold one, above the point where we answer: the best passage's own
# log-odds, the largest share of the question's terms that a passage holds, what sets the best sentence apart from the
# next one, and the share of the names and numbers asked about that the best passage holds.
_SUPPORT_RANK, _SUPPORT_COVER, _SUPPORT_LEAD, _SUPPORT_NAMED, _SUPPORT_BIAS = 0.73, 4.9, 0.3, 0.9, -1.85
_ALONE = 5.0  # the lead of a sentence without a next one, and the most that a lead counts
# What a mark of letters and digits in the question costs (`70B`) that stands in none of the passages.
_UNKNOWN_MARK = 1.5
_SUPPORT_PASSAGES = 5  # that are looked at: the more there are, the likelier one holds the words by chance
_PER_COSINE, _EVEN_COSINE = 10.0, 0.55  # log-odds of a similarity, and where they are even

# What a feature is worth, in units of log-odds that the sentence holds the answer. Fitted on labelled questions by
# article (perf/eval_reader.py measures them) and rounded by hand.
_LEXICAL = {"cover": 8.2, "near": 2.3, "linked": 4.0, "evidence": 1.2, "length": -0.9}

_MARK = re.compile(r"\d+[^\W\d]\w*|[^\W\d]+\d\w*")

# A sentence that opens like this speaks of what the sentence before it names.
LINKED = re.compile(
    r"\W*+(?:(?:today|later|however|also|but|and|then|there|here|in|at|by|for|of|since|after|to|from|among|during)[\s,]+)?"
    r"(?:this|these|those|that|it|its|he|his|him|she|her|they|their|them|such|both|another"
    r"|the (?:former|latter|same|other))\b",
    re.IGNORECASE,
)


class Term(NamedTuple):
    """A term of the question, ready to be looked for. weight: rare among the texts at hand = telling; > 0."""

    term: str
    weight: float
    start: str
    forms: frozenset[str]
    is_inner: bool


def weighed(question: Question, found: Sequence[Candidate]) -> list[Term]:
    """The question's terms with their weight among sentences. Never zero, never unbounded.

    A sentence speaks of what its heading names: what all headings name (the product, say) tells nothing apart.
    """
    counts: Counter[str] = Counter()
    terms = frozenset(question.terms)
    for candidate in found:
        counts.update(terms & (candidate.stems | candidate.piece.above))
    return _terms(question, counts, max(len(found), 8))


def _terms(question: Question, counts: Counter[str], total: int) -> list[Term]:
    return [
        Term(
            term,
            math.log(1 + total / (counts[term] + 0.5)),
            start_of(term),
            question.forms[term],
            term in question.inner,
        )
        for term in question.terms
    ]


def sentence_rows(
    question: Question, found: Sequence[Candidate], passages: Sequence[Passage]
) -> npt.NDArray[np.float64]:
    """Features of each candidate, shape [len(found), len(NAMES)]. found: in reading order.

    linked: of a sentence that goes on about what the sentence before it names, and offers more of what is asked.
    place: 0 for the first sentence of a passage, 1 from the ninth on.
    """
    terms = weighed(question, found)
    whole = sum(term.weight for term in terms) or 1.0
    ranks = [log_odds_of(passage) for passage in passages]
    best_rank = max(ranks, default=0.0)
    rows = np.zeros((len(found), len(NAMES)))
    place = 0
    for row, candidate in enumerate(found):
        piece = candidate.piece
        place = place + 1 if _goes_on(found, row) else 0
        cover, reach = _cover_and_reach(terms, piece)
        near = (reach - cover) / whole
        offers = _evidence(question, piece) if reach else 0.0
        adds = offers - (rows[row - 1, _EVIDENCE] if _goes_on(found, row) else 0.0)
        rows[row] = (
            cover / whole,
            near,
            near * max(adds, 0.0) if near and LINKED.match(piece.text) else 0.0,
            offers,
            ranks[candidate.passage] - best_rank,
            min(1.0, math.log(1 + len(piece.found)) / 4),
            pairs_held(question, piece.stems),
            min(place, _LATE) / _LATE,
        )
    return rows


def _goes_on(found: Sequence[Candidate], row: int) -> bool:
    return row > 0 and found[row - 1].passage == found[row].passage


def lexical_scores(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What each sentence says by itself: log-odds without the passage's rank, shape [len(rows)]."""
    scores: npt.NDArray[np.float64] = rows @ weight_vector(_LEXICAL)
    return scores


def weight_vector(weights: dict[str, float]) -> npt.NDArray[np.float64]:
    return np.array([weights.get(name, 0.0) for name in NAMES])


def cover_of(terms: Sequence[Term], held: Words) -> float:
    """Weighted share of the terms that a passage holds anywhere."""
    whole = sum(term.weight for term in terms) or 1.0
    return sum(term.weight * _strength(term, held.stems, held.starts) for term in terms) / whole


def sentence_scores(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log-odds that a sentence holds the answer, without similarity to the question: shape [len(rows)]."""
    scores: npt.NDArray[np.float64] = lexical_scores(rows) + RANK * rows[:, _RANKED]
    return scores


def support_of(
    asked: Question,
    found: Sequence[Candidate],
    passages: Sequence[Passage],
    scores: npt.NDArray[np.float64] | None = None,
) -> float:
    """Log-odds that the passages (at least one) hold an answer; below 0 a tier that quotes says that they do not.

    found: the passages' sentences, at least one. scores: their `sentence_scores`, where known.
    """
    order = sorted(range(len(passages)), key=lambda number: -log_odds_of(passages[number]))
    best = [passages[number] for number in order[:_SUPPORT_PASSAGES]]
    if len(passages) > len(
        best
    ):  # as many are judged however many are read: a tier that reads more knows no more
        near = [each for each in found if each.passage in order[:_SUPPORT_PASSAGES]]
        found, scores = near or found, None
    if scores is None:
        scores = sentence_scores(sentence_rows(asked, found, passages))
    terms = weighed(asked, found)
    held = [passage_words(p.text, p.heading) for p in best]
    cover = max(cover_of(terms, words) for words in held)
    marks = [term for term in asked.entities if _MARK.fullmatch(term)]
    is_unknown = any(all(mark not in words.stems for words in held) for mark in marks)
    named = [term for term in terms if term.term in asked.entities]
    odds = _SUPPORT_RANK * log_odds_of(best[0]) + _SUPPORT_COVER * cover + _SUPPORT_BIAS
    odds += _SUPPORT_LEAD * _lead(found, scores)
    odds += _SUPPORT_NAMED * (cover_of(named, held[0]) if named else 1.0)
    return odds - _UNKNOWN_MARK * is_unknown


def _lead(found: Sequence[Candidate], scores: npt.NDArray[np.float64]) -> float:
    """How far the best sentence is ahead of the next one that says something else: chance leads by little."""
    order = np.argsort(-scores, kind="stable")
    best = int(order[0])
    after = next((int(n) for n in order[1:] if not same_words(found[best], found[int(n)])), None)
    return _ALONE if after is None else min(_ALONE, float(scores[best] - scores[after]))


def pairs_held(question: Question, stems: frozenset[str]) -> float:
    """Share of the question's pairs that a sentence holds whole."""
    if not question.pairs:
        return 0.0
    return sum(one in stems and other in stems for one, other in question.pairs) / len(question.pairs)


def log_odds_of(passage: Passage) -> float:
    """That a passage answers: rank_score says so after reranking; a bare similarity is read for what it is worth."""
    if not passage.rank_score or passage.rank_score == passage.score:
        return _PER_COSINE * (passage.score - _EVEN_COSINE)
    bounded = min(max(passage.rank_score, MIN_RANK), 1.0 - MIN_RANK)
    return math.log(bounded / (1.0 - bounded))


def _cover_and_reach(terms: Sequence[Term], piece: Piece) -> tuple[float, float]:
    """Weight of what the sentence itself holds, and of what it holds with its heading and the sentence before."""
    cover = reach = 0.0
    for term in terms:
        here = _here(term, piece)
        cover += term.weight * here
        if here < 1.0:
            here = max(here, _strength(term, piece.around, piece.around_starts))
        reach += term.weight * here
    return cover, reach


def _here(term: Term, piece: Piece) -> float:
    """How much of a term the sentence itself holds, 0..1."""
    if term.term in piece.stems:
        if term.term in piece.inner and not term.is_inner:
            return _ALIKE  # `TIDEGATE_PORT` is not about tidegate
        return _INFLECTED if piece.forms.isdisjoint(term.forms) else 1.0
    return _ALIKE if term.start and term.start in piece.starts else 0.0


def _strength(term: Term, stems: frozenset[str], starts: frozenset[str]) -> float:
    """1 for a term that is held, _ALIKE where only a word of the same first letters is."""
    if term.term in stems:
        return 1.0
    return _ALIKE if term.start and term.start in starts else 0.0


def _evidence(question: Question, piece: Piece) -> float:
    """A line of code defines, explains and names nobody, whatever words it holds."""
    if piece.kind is Kind.CODE and question.wanted in _NOT_IN_CODE:
        return -0.5
    return evidence(question, piece.text, piece.found)
