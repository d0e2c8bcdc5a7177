"""What speaks for each sentence of the passages as the answer to a question: numbers, not yet a choice.

`lexical` needs no model. Every feature is about 0..1, so that a weight says how much it matters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.generation.question import Question, evidence
from gateway.generation.sentences import Kind, Span, split
from gateway.generation.terms import Word, stem, words
from gateway.types import Passage

NAMES = ("cover", "near", "linked", "evidence", "cosine", "passage", "length")
_MAX_PASSAGE_CHARS = 20_000  # of one passage; chunks are far smaller, so only abuse is cut
_MAX_KEPT_PASSAGES = 1024  # about 20 MB of chunks of the usual size


# A sentence that opens like this speaks of what the sentence before it names.
_LINKED = re.compile(
    r"\W*(?:(?:today|later|however|also|but|and|then|there|here|in|at|by|for|of|since|after|to|from|among|during)[\s,]+)?"
    r"(?:this|these|those|that|it|its|he|his|him|she|her|they|their|them|such|both|another"
    r"|the (?:former|latter|same|other))\b",
    re.IGNORECASE,
)


_QUESTION = re.compile(r"\?[\"'”’»)*_`]*[,.]?\s*$")


class Piece(NamedTuple):
    """A quotable sentence of a passage, with all that does not depend on the question."""

    start: int
    end: int
    text: str
    kind: Kind
    heading: str  # the nearest heading above it
    found: list[Word]
    stems: frozenset[str]
    starts: frozenset[str]  # of its longer stems
    around: frozenset[str]  # stems of the heading and of the sentence before it
    around_starts: frozenset[str]


class Candidate(NamedTuple):
    """A sentence that may be quoted. passage: 0-based; start and end: into passage.text."""

    passage: int
    piece: Piece

    @property
    def text(self) -> str:
        return self.piece.text

    @property
    def stems(self) -> frozenset[str]:
        return self.piece.stems


def candidates(passages: Sequence[Passage]) -> list[Candidate]:
    """Every quotable sentence in reading order."""
    return [
        Candidate(number, piece)
        for number, passage in enumerate(passages)
        for piece in pieces(passage.text[:_MAX_PASSAGE_CHARS], passage.heading)
    ]


@lru_cache(maxsize=_MAX_KEPT_PASSAGES)
def pieces(text: str, heading: str) -> tuple[Piece, ...]:
    """The sentences of one passage. Kept, because the passages that answer one question answer others too."""
    above, before = heading, ""
    result = []
    spans = split(text)
    for span, following in zip_longest(spans, spans[1:]):
        quoted = text[span.start : span.end]
        is_table_head = span.kind is Kind.ROW and _is_rule(text, following)
        if span.kind is Kind.HEADING or is_table_head:
            above, before = f"{heading} {quoted}", ""
        if span.kind in (Kind.HEADING, Kind.MARKUP) or is_table_head:
            continue
        found = words(quoted)
        if found and not _QUESTION.search(quoted):  # what asks does not answer
            stems = frozenset(stem(word.text) for word in found)
            around = _stems(before) | _stems(above)
            result.append(
                Piece(
                    span.start, span.end, quoted, span.kind, above, found,
                    stems, _starts(stems), around, _starts(around),
                )
            )  # fmt: skip
        if found:
            before = quoted
    return tuple(result)


def _is_rule(text: str, span: Span | None) -> bool:
    """Whether a span is the line of dashes under a table's head."""
    return span is not None and span.kind is Kind.MARKUP and "--" in text[span.start : span.end]


def term_weights(question: Question, found: Sequence[Candidate]) -> dict[str, float]:
    """Weight of each question term: rare among the sentences at hand = telling. Never zero, never unbounded."""
    counts = Counter(term for candidate in found for term in question.terms if term in candidate.stems)
    total = max(len(found), 8)
    return {term: math.log(1 + total / (counts[term] + 0.5)) for term in question.terms}


def lexical(
    question: Question, found: Sequence[Candidate], passages: Sequence[Passage]
) -> npt.NDArray[np.float64]:
    """Features of each candidate, shape [len(found), len(NAMES)]."""
    weights = term_weights(question, found)
    whole = sum(weights.values()) or 1.0
    held = _passage_cover(weights, found, len(passages))
    best_cover = max(held, default=0.0) or 1.0
    best_score = max((passage.score for passage in passages), default=0.0)
    rows = np.zeros((len(found), len(NAMES)))
    for row, candidate in enumerate(found):
        piece = candidate.piece
        here = _matches(weights, piece.stems, piece.starts)
        around = _matches(weights, piece.around, piece.around_starts)
        cover = sum(weights[t] * here[t] for t in weights) / whole
        reach = sum(weights[t] * max(here[t], around[t]) for t in weights) / whole
        rows[row] = (
            cover,
            reach - cover,
            (reach - cover) * bool(_LINKED.match(piece.text)),
            evidence(question, piece.text, piece.found),
            max(-1.0, passages[candidate.passage].score - best_score),
            held[candidate.passage] / best_cover,
            min(1.0, math.log(1 + len(piece.found)) / 4),
        )
    return rows


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word.text) for word in words(text))


def _starts(stems: frozenset[str]) -> frozenset[str]:
    return frozenset(s[:5] for s in stems if len(s) >= 5)


def _matches(weights: dict[str, float], stems: frozenset[str], starts: frozenset[str]) -> dict[str, float]:
    """1 for each term held, 0.6 where only a word of the same first letters is."""
    return {t: 1.0 if t in stems else 0.6 * (len(t) >= 5 and t[:5] in starts) for t in weights}


def _passage_cover(weights: dict[str, float], found: Sequence[Candidate], count: int) -> list[float]:
    """Weighted share of the question's terms that each passage holds anywhere, its headings included."""
    stems: list[set[str]] = [set() for _ in range(count)]
    headings: list[set[str]] = [set() for _ in range(count)]
    for candidate in found:
        stems[candidate.passage] |= candidate.stems
        headings[candidate.passage].add(candidate.piece.heading)
    whole = sum(weights.values()) or 1.0
    shares = []
    for held, above in zip(stems, headings, strict=True):
        whole_passage = frozenset(held).union(*(_stems(heading) for heading in above))
        matches = _matches(weights, whole_passage, _starts(whole_passage))
        shares.append(sum(weights[t] * m for t, m in matches.items()) / whole)
    return shares
