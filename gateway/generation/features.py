"""What speaks for each sentence of the passages as the answer to a question: numbers, not yet a choice.

`lexical` needs no model. Every feature is about 0..1, so that a weight says how much it matters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
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


# A sentence that opens like this speaks of what the sentence before it names.
_LINKED = re.compile(
    r"\W*(?:(?:today|later|however|also|but|and|then|there|here|in|at|by|for|of|since|after|to|from|among|during)[\s,]+)?"
    r"(?:this|these|those|that|it|its|he|his|him|she|her|they|their|them|such|both|another"
    r"|the (?:former|latter|same|other))\b",
    re.IGNORECASE,
)


_QUESTION = re.compile(r"\?[\"'”’»)*_`]*[,.]?\s*$")


class Candidate(NamedTuple):
    """A sentence that may be quoted. passage: 0-based; start and end: into passage.text."""

    passage: int
    start: int
    end: int
    text: str
    kind: Kind
    before: str  # the sentence before it in the passage, or ""
    heading: str  # the nearest heading above it
    found: list[Word]
    stems: frozenset[str]


def candidates(passages: Sequence[Passage]) -> list[Candidate]:
    """Every quotable sentence in reading order."""
    result = []
    for number, passage in enumerate(passages):
        text = passage.text[:_MAX_PASSAGE_CHARS]
        heading, before = passage.heading, ""
        spans = split(text)
        for span, following in zip_longest(spans, spans[1:]):
            quoted = text[span.start : span.end]
            is_table_head = span.kind is Kind.ROW and _is_rule(text, following)
            if span.kind is Kind.HEADING or is_table_head:
                heading, before = f"{passage.heading} {quoted}", ""
            if span.kind in (Kind.HEADING, Kind.MARKUP) or is_table_head:
                continue
            if _QUESTION.search(quoted):  # asks, so it does not answer
                before = quoted
                continue
            found = words(quoted)
            if found:
                stems = frozenset(stem(word.text) for word in found)
                result.append(
                    Candidate(number, span.start, span.end, quoted, span.kind, before, heading, found, stems)
                )
                before = quoted
    return result


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
        here = _matches(weights, candidate.stems)
        around = _matches(weights, _stems(candidate.before) | _stems(candidate.heading))
        cover = sum(weights[t] * here[t] for t in weights) / whole
        reach = sum(weights[t] * max(here[t], around[t]) for t in weights) / whole
        rows[row] = (
            cover,
            reach - cover,
            (reach - cover) * bool(_LINKED.match(candidate.text)),
            evidence(question, candidate.text, candidate.found),
            max(-1.0, passages[candidate.passage].score - best_score),
            held[candidate.passage] / best_cover,
            min(1.0, math.log(1 + len(candidate.found)) / 4),
        )
    return rows


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word.text) for word in words(text))


def _matches(weights: dict[str, float], stems: frozenset[str]) -> dict[str, float]:
    """1 for each term held, 0.6 where only a word of the same first letters is."""
    starts = {s[:5] for s in stems if len(s) >= 5}
    return {t: 1.0 if t in stems else 0.6 * (len(t) >= 5 and t[:5] in starts) for t in weights}


def _passage_cover(weights: dict[str, float], found: Sequence[Candidate], count: int) -> list[float]:
    """Weighted share of the question's terms that each passage holds anywhere, its headings included."""
    stems: list[set[str]] = [set() for _ in range(count)]
    for candidate in found:
        stems[candidate.passage] |= candidate.stems | _stems(candidate.heading)
    whole = sum(weights.values()) or 1.0
    return [sum(weights[t] * m for t, m in _matches(weights, frozenset(s)).items()) / whole for s in stems]
