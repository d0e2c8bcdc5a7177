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

from gateway.language.question import Question, Wanted, evidence
from gateway.language.sentences import Kind, Span, split
from gateway.language.terms import Word, inner_stems, stem, words
from gateway.types import Passage

NAMES = ("cover", "near", "linked", "evidence", "cosine", "passage", "length")
_MAX_PASSAGE_CHARS = 20_000  # of one passage; chunks are far smaller, so only abuse is cut
_INFLECTED = 0.9  # what another form of a word counts: `reads` may be about the reader, or not
_ALIKE = 0.6  # what a word counts that has the same start, or stands inside an identifier
_NOT_IN_CODE = {Wanted.DEFINITION, Wanted.REASON, Wanted.PERSON, Wanted.PLACE}
_MAX_KEPT_PASSAGES = 1024  # about 20 MB of chunks of the usual size


# A sentence that opens like this speaks of what the sentence before it names.
_LINKED = re.compile(
    r"\W*+(?:(?:today|later|however|also|but|and|then|there|here|in|at|by|for|of|since|after|to|from|among|during)[\s,]+)?"
    r"(?:this|these|those|that|it|its|he|his|him|she|her|they|their|them|such|both|another"
    r"|the (?:former|latter|same|other))\b",
    re.IGNORECASE,
)


_LINK = re.compile(r"!?\[[^\[\]]*+\]\([^()]*+\)|</?[a-zA-Z][^<>]*+>")
_QUESTION = re.compile(r"\?[\"'”’»)*_`]*[,.]?\s*$")


class Piece(NamedTuple):
    """A quotable sentence of a passage, with all that does not depend on the question."""

    start: int
    end: int
    text: str
    kind: Kind
    heading: str  # the nearest heading above it
    found: list[Word]
    forms: frozenset[str]  # words as written, in lower case
    stems: frozenset[str]
    starts: frozenset[str]  # of its longer stems
    inner: frozenset[str]  # stems that stand only inside paths and identifiers
    above: frozenset[str]  # stems of the heading
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
    above_stems = _stems(above)  # once per heading: it may be long, and its sentences many
    result = []
    spans = split(text)
    for span, following in zip_longest(spans, spans[1:]):
        quoted = text[span.start : span.end]
        is_table_head = span.kind is Kind.ROW and _is_rule(text, following)
        if span.kind is Kind.HEADING or is_table_head:
            above, before = f"{heading} {quoted}", ""
            above_stems = _stems(above)
        if span.kind in (Kind.HEADING, Kind.MARKUP) or is_table_head:
            continue
        found = words(quoted)
        # What asks does not answer, nor does a picture or a list of links.
        if found and not _QUESTION.search(quoted) and not _is_only_links(quoted):
            stems = frozenset(stem(word.text) for word in found)
            around = _stems(before) | above_stems
            result.append(
                Piece(
                    span.start, span.end, quoted, span.kind, above, found,
                    frozenset(word.text.lower() for word in found), stems, _starts(stems),
                    inner_stems(quoted, found), above_stems, around, _starts(around),
                )
            )  # fmt: skip
        if found:
            before = quoted
    return tuple(result)


def _is_only_links(quoted: str) -> bool:
    """Whether nothing is left without links, pictures and tags. Twice, for a badge is a picture in a link."""
    if "](" not in quoted and "<" not in quoted:
        return False
    return not any(char.isalnum() for char in _LINK.sub("", _LINK.sub("", quoted)))


def _is_rule(text: str, span: Span | None) -> bool:
    """Whether a span is the line of dashes under a table's head."""
    return span is not None and span.kind is Kind.MARKUP and "--" in text[span.start : span.end]


def term_weights(question: Question, found: Sequence[Candidate]) -> dict[str, float]:
    """Weight of each question term: rare among the sentences at hand = telling. Never zero, never unbounded.

    A sentence speaks of what its heading names: what all headings name (the product, say) tells nothing apart.
    """
    counts = Counter(
        term
        for candidate in found
        for term in question.terms
        if term in candidate.stems or term in candidate.piece.above
    )
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
        here = _here(question, weights, piece)
        around = _matches(weights, piece.around, piece.around_starts)
        cover = sum(weights[t] * here[t] for t in weights) / whole
        reach = sum(weights[t] * max(here[t], around[t]) for t in weights) / whole
        rows[row] = (
            cover,
            reach - cover,
            (reach - cover) * bool(_LINKED.match(piece.text)),
            _evidence(question, piece),
            max(-1.0, passages[candidate.passage].score - best_score),
            held[candidate.passage] / best_cover,
            min(1.0, math.log(1 + len(piece.found)) / 4),
        )
    return rows


def _here(question: Question, weights: dict[str, float], piece: Piece) -> dict[str, float]:
    """What of each term the sentence itself holds, 0..1."""
    here = _matches(weights, piece.stems, piece.starts)
    for term in here.keys() & piece.stems:
        if term in piece.inner and term not in question.inner:
            here[term] = _ALIKE  # `TIDEGATE_PORT` is not about tidegate
        elif piece.forms.isdisjoint(question.forms[term]):
            here[term] = _INFLECTED
    return here


def _evidence(question: Question, piece: Piece) -> float:
    """A line of code defines, explains and names nobody, whatever words it holds."""
    if piece.kind is Kind.CODE and question.wanted in _NOT_IN_CODE:
        return 0.0
    return evidence(question, piece.text, piece.found)


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word.text) for word in words(text))


def _starts(stems: frozenset[str]) -> frozenset[str]:
    return frozenset(s[:5] for s in stems if len(s) >= 5)


def _matches(weights: dict[str, float], stems: frozenset[str], starts: frozenset[str]) -> dict[str, float]:
    """1 for each term held, _ALIKE where only a word of the same first letters is."""
    return {t: 1.0 if t in stems else _ALIKE * (len(t) >= 5 and t[:5] in starts) for t in weights}


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
