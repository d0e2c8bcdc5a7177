"""The quotable sentences of a passage, with all that does not depend on the question. Pure; kept, for passages that
answer one question answer others too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

from gateway.language.sentences import Kind, Span, split
from gateway.language.terms import Word, inner_stems, stem, stems, words
from gateway.types import Passage

MAX_PASSAGE_CHARS = 20_000  # of one passage; chunks are far smaller, so only abuse is cut
_MAX_KEPT_PASSAGES = 1024  # about 30 MB of chunks of the usual size
_SAME = 0.8  # share of common words that makes two sentences one
_START_CHARS = 5  # of a longer stem, that related words share

_LINK = re.compile(r"!?\[[^\[\]]*+\]\([^()]*+\)|</?[a-zA-Z][^<>]*+>")
# A row of a CSV or an object of JSON, as ingest tells it: `name: nut; price: 1`.
_RECORD = re.compile(r"[^\s:;][^:;]{0,79}: [^;]{1,400}; [^\s:;][^:;]{0,79}: ")
_CELL_END = re.compile(r"[|\t]|; ")
_VALUE_WORDS = 8  # of a cell with a value, its name included
_QUESTION = re.compile(r"\?[\"'”’»)*_`]*[,.]?\s*$")


class Piece(NamedTuple):
    """A quotable sentence of a passage. start and end: into the passage's text."""

    start: int
    end: int
    text: str
    kind: Kind
    heading: str  # the nearest heading above it
    before: str  # the sentence before it under the same heading, or empty
    found: list[Word]
    forms: frozenset[str]  # words as written, in lower case
    stems: frozenset[str]
    starts: frozenset[str]  # of its longer stems
    inner: frozenset[str]  # stems that stand only inside paths and identifiers
    above: frozenset[str]  # stems of the heading
    around: frozenset[str]  # stems of the heading and of the sentence before it
    around_starts: frozenset[str]


class Candidate(NamedTuple):
    """A sentence that may be quoted. passage: 0-based, among those given."""

    passage: int
    piece: Piece

    @property
    def text(self) -> str:
        return self.piece.text

    @property
    def stems(self) -> frozenset[str]:
        return self.piece.stems


def same_words(one: Candidate, other: Candidate) -> bool:
    """Whether two sentences say the same in nearly the same words. Numbers must agree."""
    smaller = min(len(one.stems), len(other.stems))
    if len(one.stems & other.stems) < _SAME * smaller:
        return False
    return not any(stem[:1].isdigit() for stem in one.stems ^ other.stems)


def stands_alone(piece: Piece) -> bool:
    """Whether what stands before a sentence says nothing of it: a row of a table, or a record, tells of another thing
    than the row above."""
    return piece.kind is Kind.ROW or (piece.kind is Kind.ITEM and _RECORD.match(piece.text) is not None)


def is_of_values(piece: Piece) -> bool:
    """Whether a row or a record holds values alone: a sentence in a cell of it says something by itself."""
    cells = _CELL_END.split(piece.text) if stands_alone(piece) else []
    return bool(cells) and all(len(cell.split()) <= _VALUE_WORDS for cell in cells)


class Words(NamedTuple):
    """What a passage holds anywhere, its headings included."""

    stems: frozenset[str]
    starts: frozenset[str]


def candidates(passages: Sequence[Passage]) -> list[Candidate]:
    """Every quotable sentence in reading order."""
    return [
        Candidate(number, piece)
        for number, passage in enumerate(passages)
        for piece in pieces(passage.text[:MAX_PASSAGE_CHARS], passage.heading)
    ]


@lru_cache(maxsize=_MAX_KEPT_PASSAGES)
def pieces(text: str, heading: str) -> tuple[Piece, ...]:
    """The sentences of one passage."""
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
            held = frozenset(stem(word.text) for word in found)
            around = _stems(before) | above_stems
            result.append(
                Piece(
                    span.start, span.end, quoted, span.kind, above, before, found,
                    frozenset(word.text.lower() for word in found), held, starts(held),
                    inner_stems(quoted, found), above_stems, around, starts(around),
                )
            )  # fmt: skip
        if found:
            before = quoted
    return tuple(result)


@lru_cache(maxsize=_MAX_KEPT_PASSAGES)
def passage_words(text: str, heading: str) -> Words:
    held = _stems(text[:MAX_PASSAGE_CHARS]) | _stems(heading)
    return Words(held, starts(held))


def starts(found: frozenset[str]) -> frozenset[str]:
    return frozenset(each[:_START_CHARS] for each in found if len(each) >= _START_CHARS)


def start_of(term: str) -> str:
    """What `starts` holds of a term; empty for a short one, which nothing else may stand for."""
    return term[:_START_CHARS] if len(term) >= _START_CHARS else ""


def _stems(text: str) -> frozenset[str]:
    return frozenset(stems(text))


def _is_only_links(quoted: str) -> bool:
    """Whether nothing is left without links, pictures and tags. Twice, for a badge is a picture in a link."""
    if "](" not in quoted and "<" not in quoted:
        return False
    return not any(char.isalnum() for char in _LINK.sub("", _LINK.sub("", quoted)))


def _is_rule(text: str, span: Span | None) -> bool:
    """Whether a span is the line of dashes under a table's head."""
    return span is not None and span.kind is Kind.MARKUP and "--" in text[span.start : span.end]
