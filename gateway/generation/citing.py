"""Citations of a written answer: reads its `[n]` marks as they stream in and verifies each against its passage. Pure.

A mark stays only if passage n was in the prompt and says something that the marked sentence says, and, where that
sentence tells numbers (since the mark before), holds one of them, its heading included; of several marks at one place
one such passage is enough. It then points at the sentence of the passage that bears it out best. Any other mark is
taken out of the text: one that leads nowhere is worse than none. In code, a number in brackets right behind a name is
an index and stays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateway.errors import InvalidRequest
from gateway.language.figures import numbers_claimed, numbers_held
from gateway.language.pieces import Piece, pieces
from gateway.language.terms import stem, words
from gateway.types import Citation, Passage

MAX_CLAIM_CHARS = 600  # of the answer, back from a mark, that are looked at
MAX_MARK_CHARS = 40  # longer brackets are text

# Every repetition is bounded, so that no text takes time out of proportion.
_MARK = re.compile(r"[ \t]{0,3}\[(\d{1,3}(?:\s{0,2}[,;]\s{0,2}\d{1,3}){0,8})\]")
_OPEN = re.compile(rf"[ \t]{{0,3}}(?:\[[\d\s,;]{{0,{MAX_MARK_CHARS}}})?\Z")  # what may be the start of a mark
_CODE_MARK = re.compile(r"`+|\n")
_SENTENCE_END = re.compile(r"(?<![.!?。！？])[.!?。！？]++[\"'”’»)]*+(?:\s|\Z)|\n")


class Cited(NamedTuple):
    """A stretch of the answer that ends with its marks; citations are theirs."""

    text: str
    citations: list[Citation]


class AsWritten:
    """The way through for an answer that is JSON, or that has no passages: brackets in it are its own."""

    num_unsupported = 0

    def feed(self, text: str) -> list[Cited]:
        return [Cited(text, [])] if text else []

    def finish(self) -> list[Cited]:
        return []


def check_not_json(schema: str) -> None:
    """Raises: InvalidRequest: a sentence that there is no answer is no JSON."""
    if schema:
        raise InvalidRequest(
            "The documents hold nothing on the question, so there is nothing to fill the JSON Schema with.",
            code="no_evidence",
            param="response_format",
        )


class _Code:
    """Whether a text that comes in pieces is inside code just now: between back-ticks of one line, or in a fence."""

    def __init__(self) -> None:
        self._is_fenced = False
        self._opened = 0  # back-ticks that a stretch of code inside a line began with, and will end with
        self._ticks = 0  # at the end of what was read: the next piece may bring more of them

    def read(self, text: str) -> None:
        if not self._ticks and "`" not in text and not (self._opened and "\n" in text):  # nearly always
            return
        text = "`" * self._ticks + text
        rest = text.rstrip("`")
        for found in _CODE_MARK.finditer(rest):
            self._meet(found[0])
        self._ticks = len(text) - len(rest)

    def is_inside(self) -> bool:
        """Asked where something else than a back-tick comes next."""
        if self._ticks:
            self._meet("`" * self._ticks)
            self._ticks = 0
        return self._is_fenced or self._opened > 0

    def _meet(self, mark: str) -> None:
        if mark == "\n" or len(mark) == self._opened:
            self._opened = 0
        elif len(mark) >= 3 and not self._opened:
            self._is_fenced = not self._is_fenced
        elif not (self._is_fenced or self._opened):
            self._opened = len(mark)


class CitationStream:
    """One answer's text on its way through. passages: those in the prompt, numbered 1..n as given.

    num_unsupported: marks taken out so far; of a bracket with several numbers each counts.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self.num_unsupported = 0
        self._held = ""
        self._said = ""
        self._num_fresh = 0  # characters that were said since the last mark
        self._unborne: frozenset[str] = frozenset()  # claimed numbers that no passage held so far
        self._held_by: dict[int, frozenset[str]] = {}  # numbers of the passages that were cited
        self._code = _Code()

    def feed(self, text: str) -> list[Cited]:
        """What can be shown now. The start of what may be a mark waits for its rest."""
        if not text:
            return []
        if not self._held and "[" not in text and not text.endswith((" ", "\t")):  # nearly every delta
            self._say(text)
            return [Cited(text, [])]
        text = self._held + text
        found = _OPEN.search(text, max(0, len(text) - MAX_MARK_CHARS - 4))
        end = found.start() if found else len(text)
        self._held = text[end:]
        return self._resolved(text[:end])

    def finish(self) -> list[Cited]:
        """What is left at the end of the answer."""
        rest, self._held = self._held, ""
        return self._resolved(rest)

    def _resolved(self, text: str) -> list[Cited]:
        out, at = [], 0
        for mark in _MARK.finditer(text):
            self._say(text[at : mark.start()])
            if self._is_index(mark[0]):
                self._say(mark[0])
                out.append(Cited(text[at : mark.end()], []))
                at = mark.end()
                continue
            numbers = dict.fromkeys(int(number) for number in re.findall(r"\d+", mark[1]))
            citations = self._borne_out(numbers)
            self.num_unsupported += len(numbers) - len(citations)
            gap = mark[0][: mark[0].index("[")] if citations else ""
            shown = gap + "".join(f"[{each.passage}]" for each in citations)
            out.append(Cited(text[at : mark.start()] + shown, citations))
            at = mark.end()
        if text[at:]:
            self._say(text[at:])
            out.append(Cited(text[at:], []))
        return [each for each in out if each.text]

    def _is_index(self, mark: str) -> bool:
        return (
            self._code.is_inside()
            and mark[0] == "["
            and (self._said[-1:].isalnum() or self._said[-1:] in "_)]")
        )

    def _say(self, text: str) -> None:
        self._code.read(text)
        self._said = (self._said + text)[-MAX_CLAIM_CHARS:]
        self._num_fresh += len(text)

    def _borne_out(self, numbers: Iterable[int]) -> list[Citation]:
        """Citations of the marks at one place that their passages bear out."""
        fresh = self._said[-self._num_fresh :] if self._num_fresh else ""
        self._num_fresh = 0
        if any(char.isalnum() for char in fresh):  # else the same place still: `[1] [2]`
            self._unborne = numbers_claimed(last_sentence(fresh))
        within = [number for number in numbers if 1 <= number <= len(self._passages)]
        claimed, self._unborne = self._unborne, frozenset()
        if claimed and not any(claimed & self._numbers_of(number) for number in within):
            self._unborne = claimed
            return []
        return [each for number in within if (each := self._verified(number, claimed)) is not None]

    def _numbers_of(self, number: int) -> frozenset[str]:
        if number not in self._held_by:
            passage = self._passages[number - 1]
            self._held_by[number] = numbers_held(f"{passage.filename}\n{passage.heading}\n{passage.text}")
        return self._held_by[number]

    def _verified(self, number: int, claimed: frozenset[str]) -> Citation | None:
        """claimed: numbers, which may be written otherwise in the passage."""
        passage = self._passages[number - 1]
        claim = _content(last_sentence(self._said))
        best: Piece | None = None
        most = 0.0
        for piece in pieces(passage.text, passage.heading):
            worth = _worth(claim, claimed, piece)
            if worth > most:
                best, most = piece, worth
        if best is None:
            return None
        start = passage.start + best.start
        return Citation(passage=number, start=start, end=start + len(best.text), text=best.text)


def _worth(claim: frozenset[str], claimed: frozenset[str], piece: Piece) -> float:
    """What a sentence has in common with a claim. A number counts twice, however it is written."""
    shared = claim & piece.stems
    num_figures = sum(each[:1].isdigit() for each in shared)
    if claimed and not num_figures:
        num_figures = 2 * (not claimed.isdisjoint(numbers_held(piece.text)))
    return (len(shared) + num_figures) / math.sqrt(4 + len(piece.stems))


def last_sentence(text: str) -> str:
    """The sentence that a mark at the end of `text` speaks of: the one under way, or the one just ended."""
    stripped = text.rstrip(" \t\n.!?。！？\"'”’»)")
    ends = [found.end() for found in _SENTENCE_END.finditer(stripped)]
    return stripped[ends[-1] :] if ends else stripped


def _content(text: str) -> frozenset[str]:
    """Stems of the words that say something; those of function words begin with `=`."""
    return frozenset(each for word in words(text) if not (each := stem(word.text)).startswith("="))
