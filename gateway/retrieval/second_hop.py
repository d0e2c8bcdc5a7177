"""What to look for once more when the first passages answer only a part of a question. Pure: no search of its own.

Three shapes of questions have two parts: two questions joined by `and`, two things compared, and a thing named only
through another one (`where was the architect of the bridge born?`), whose name the first passages give.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from gateway.language.follow_up import resolve
from gateway.language.mentions import names
from gateway.language.pieces import candidates, passage_words
from gateway.language.question import Question, read
from gateway.language.support import cover_of, lexical_scores, sentence_rows, weighed
from gateway.types import Passage, Turn

MAX_HOPS = 2  # searches beyond the first
MAX_ADDED = 4  # passages that one of them adds
MAX_PLANNED_CHARS = 600  # a longer text is no question of two parts
_THIN = 0.75  # share of a part's terms that some passage must hold, or the part is looked for by itself
_KNOWN = 0.3  # share that the best sentence must hold, before what it names is worth following

# Repetitions are bounded, so that no text takes time out of proportion.
_JOINED = re.compile(
    r"[,;?]?\s{1,4}(?:and|und)\s{1,4}(?=(?:(?:in|at|by|for|from|to|since|until) )?(?:how|why|what|who|whom|whose|when"
    r"|where|which|wie|warum|was|wer|wann|wo|welche[rs]?)\b)|\?\s{1,4}(?=\S)",
    re.IGNORECASE,
)
_COMPARED = re.compile(
    r"\b(?:compare|differences? between|relationship between) (?P<one>[^?,;]{2,80}?) "
    r"(?:and|with|to) (?P<other>[^?,;]{2,80}?)[ ?.]{0,4}$"
    r"|(?P<left>[\w' -]{2,60}?) (?:vs\.?|versus) (?P<right>[\w' -]{2,60}?)[ ?.]{0,4}$",
    re.IGNORECASE,
)


class Plan(msgspec.Struct, frozen=True):
    """parts: what the answer must have a sentence for each of; empty = the question is one. searches: what to look for.

    Both are texts of questions, at most MAX_HOPS searches.
    """

    parts: list[str] = []
    searches: list[str] = []


def planned(question: str, passages: Sequence[Passage]) -> Plan:
    """The second hop for a question, given what the first found, best first."""
    if len(question) > MAX_PLANNED_CHARS:
        return Plan()
    parts = _joined(question) or _compared(question)
    if parts:
        return Plan(parts, [part for part in parts if _is_thin(part, passages)][:MAX_HOPS])
    bridge = _bridge(question, passages)
    return Plan([question, bridge], [bridge]) if bridge else Plan()


def with_found(passages: Sequence[Passage], found: Sequence[Sequence[Passage]]) -> list[Passage]:
    """The first passages and those that further searches add, each chunk once; at most MAX_ADDED of a search."""
    merged = list(passages)
    held = {chunk for passage in passages for chunk in _chunks(passage)}
    for each in found:
        fresh = [passage for passage in each if held.isdisjoint(_chunks(passage))][:MAX_ADDED]
        held.update(chunk for passage in fresh for chunk in _chunks(passage))
        merged += fresh
    return merged


def _chunks(passage: Passage) -> list[tuple[str, int]]:
    return [(passage.collection_id, chunk) for chunk in passage.chunk_ids or [passage.chunk_id]]


def _joined(question: str) -> list[str]:
    """The two questions in one, the second made to stand alone."""
    pieces = [piece.strip() for piece in _JOINED.split(question, maxsplit=1) if piece and piece.strip(" ?")]
    if len(pieces) != 2 or not all(read(piece).terms for piece in pieces):
        return []
    first, second = (f"{piece.rstrip('?.! ')}?" for piece in pieces)
    return [first, resolve(second, [Turn("user", first)]).question]


def _compared(question: str) -> list[str]:
    match = _COMPARED.search(question)
    if match is None:
        return []
    sides = [match["one"] or match["left"], match["other"] or match["right"]]
    return [f"What is {side.strip()}?" for side in sides]


def _is_thin(part: str, passages: Sequence[Passage]) -> bool:
    asked, found = read(part), candidates(passages)
    terms = weighed(asked, found)
    return all(cover_of(terms, passage_words(p.text, p.heading)) < _THIN for p in passages)


def _bridge(question: str, passages: Sequence[Passage]) -> str:
    """A question about what the best sentence names, with the terms that no passage brings together; or empty."""
    asked, found = read(question), candidates(passages)
    if len(asked.terms) < 2 or not found or not _is_thin(question, passages):
        return ""
    rows = sentence_rows(asked, found, passages)
    best = int(lexical_scores(rows).argmax())
    piece = found[best].piece
    if rows[best, 0] < _KNOWN:
        return ""
    named = [each.bare for each in names(piece.text) if asked.stems.isdisjoint(read(each.bare).stems)]
    named.sort(key=lambda name: -len(name.split()))  # a full name tells most
    missing = _missing(asked, piece.stems)
    return f"{_asking(question)} {missing} {named[0]}?" if named and missing else ""


def _missing(asked: Question, held: frozenset[str]) -> str:
    """The question's own words for the terms that the sentence lacks."""
    return " ".join(min(asked.forms[term]) for term in asked.terms if term not in held)


def _asking(question: str) -> str:
    """`where`, `when`, … with which the question opens, so that the answer is of its kind."""
    match = re.match(r"\W*(?:in |at |by )?(how (?:many|much|old|long)|\w+)", question, re.IGNORECASE)
    return match[1].capitalize() if match else "What"
