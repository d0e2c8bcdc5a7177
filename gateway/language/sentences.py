"""Cuts text into sentences with exact offsets. Owns what a sentence is; knows nothing of questions or answers.

Two passes: lines become blocks (paragraph, heading, list item, table row, code), then paragraphs and items are cut
at sentence ends. Every span is trimmed, spans are in order and never overlap, and together they hold every
character that is not white space, so a quoted sentence is always `text[start:end]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from gateway.language.terms import word_set

MAX_SPAN_CHARS = 1000  # longer than any real sentence; text without full stops is cut at white space

_FENCE = re.compile(r"\s{0,3}(```+|~~~+)")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s++\S")
_UNDERLINE = re.compile(r"\s{0,3}(?:=++|--++)\s*+$")
_RULE = re.compile(r"\s{0,3}(?:[-*_=]\s*+){3,}+$")
_TABLE_RULE = re.compile(r"(?=.*--)[|:\-\s]++$", re.DOTALL)
_MARKER = re.compile(r"\s*+(?:>\s*+)*+(?:[-*+•‣◦▪–]|\d{1,3}[.)]|\(?[a-z]\))\s++(?=\S)|\s*+(?:>\s*+)++(?=\S)")
_INDENTED = re.compile(r"(?: {4}|\t)\s*+\S")
_NUMBERED_TITLE = re.compile(
    r"(?:chapter|section|part|appendix|article|kapitel)\s+[\divxlc]+\b", re.IGNORECASE
)

_END = re.compile(
    r"(?P<cjk>[。！？｡]+[」』”’）】]*)"
    # the whole run of marks, from its first: a search from each of them would take quadratic time
    r"|(?<![.!?…])(?P<mark>[.!?…]++)(?P<close>[\"'”’»)\]*_]*+(?:\[[^\]\n]{1,30}\])*+)(?=\s|$)",
)
_LAST_WORD = re.compile(r"(?<![^\s(\[\"'“‘«])[^\s(\[\"'“‘«]++$")
_MORE_POINTS = re.compile(r"\s++[.…]")  # ". . ."
_NEXT_WORD = re.compile(r"\s*[\"'“‘«(\[*_]*([^\W_]+)?")

# Never the end of a sentence, whatever follows.
_TITLES = word_set(
    "mr mrs ms dr prof st gen col lt sgt capt cmdr rev hon pres gov sen rep messrs mme mlle "
    "vs v e.g i.e cf viz ca approx op ed eds trans resp z.b d.h bzw nr"
)
# Not the end before a number.
_COUNTED = word_set("no nos fig figs eq vol pp p ch sec art")
# The end only if the next word is one that starts sentences.
_MAYBE = word_set(
    "etc al inc ltd co corp bros jr sr dept univ assn est u.s u.k u.n e.u d.c a.m p.m b.c a.d ph.d m.d b.a m.a "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun ave blvd rd mt ft min max"
)
_STARTERS = word_set(
    "a an the in on at by for from with after before during since when while as if it its he she they we you i this "
    "that these those there here his her their our my your however but and so then thus although though because "
    "both each many most some several all one two three no not to of also other another such under over what who "
    "how why where which according despite unlike today later according between among"
)


class Kind(StrEnum):
    SENTENCE = "sentence"
    ITEM = "item"  # in a list
    ROW = "row"  # of a table
    CODE = "code"  # one line
    HEADING = "heading"
    MARKUP = "markup"  # list marker, fence, rule: says nothing by itself


class Span(NamedTuple):
    """text[start:end] without white space at its ends."""

    start: int
    end: int
    kind: Kind


def split(text: str) -> list[Span]:
    """All spans of a text, in order. Time is linear in its length."""
    return [piece for block in _blocks(text) for piece in _cut(text, block)]


def _cut(text: str, block: Span) -> Iterator[Span]:
    ranges = [(block.start, block.end)]
    if block.kind in (Kind.SENTENCE, Kind.ITEM):
        ranges = list(_sentences(text, block.start, block.end))
    for start, end in ranges:
        for piece_start, piece_end in _bounded(text, start, end):
            yield Span(piece_start, piece_end, block.kind)


class _Line(NamedTuple):
    start: int
    end: int
    text: str


def _lines(text: str) -> list[_Line]:
    lines, at = [], 0
    for raw in text.splitlines(keepends=True):
        lines.append(_Line(at, at + len(raw), raw))
        at += len(raw)
    return lines


def _blocks(text: str) -> Iterator[Span]:
    """Lines to blocks. A paragraph, and a list item with its wrapped lines, may span several lines."""
    lines = _lines(text)
    open_start = open_end = -1
    open_kind = Kind.SENTENCE
    fence = ""
    is_in_table = False

    def close() -> Iterator[Span]:
        nonlocal open_start
        if open_start >= 0:
            yield from _trimmed(text, open_start, open_end, open_kind)
        open_start = -1

    for index, line in enumerate(lines):
        kind = _alone(lines, index, fence, is_open=open_start >= 0, is_in_table=is_in_table)
        is_in_table = kind is Kind.ROW or (kind is Kind.MARKUP and "|" in line.text)
        mark = _FENCE.match(line.text)
        if mark and (not fence or line.text.strip().startswith(fence)):
            fence = "" if fence else mark[1]
        if kind is not None:
            yield from close()
            yield from _trimmed(text, line.start, line.end, kind)
            continue
        if not line.text.strip():
            yield from close()
            continue
        marker = _MARKER.match(line.text)
        if marker:
            yield from close()
            yield from _trimmed(text, line.start, line.start + marker.end(), Kind.MARKUP)
            open_start, open_kind = line.start + marker.end(), Kind.ITEM
        elif open_start < 0:
            open_start, open_kind = line.start, Kind.SENTENCE
        open_end = line.end
    yield from close()


def _alone(lines: list[_Line], index: int, fence: str, *, is_open: bool, is_in_table: bool) -> Kind | None:
    """The kind of a line that is a block of its own; None where it belongs to a paragraph, an item, or is blank.

    is_in_table: the line before it is a row of a table.
    """
    line = lines[index].text
    if not line.strip():
        return None
    if _FENCE.match(line) and (not fence or line.strip().startswith(fence)):
        return Kind.MARKUP
    if fence:
        return Kind.CODE
    if _RULE.match(line) or _TABLE_RULE.match(line) or (_UNDERLINE.match(line) and is_open):
        return Kind.MARKUP
    if _HEADING.match(line):
        return Kind.HEADING
    if _is_row(lines, index, is_in_table=is_in_table):
        return Kind.ROW
    if is_open:
        return None
    if _INDENTED.match(line) and not _MARKER.match(line):
        return Kind.CODE
    return Kind.HEADING if _is_title(lines, index) else None


def _is_row(lines: list[_Line], index: int, *, is_in_table: bool) -> bool:
    """Whether a line is one of a table. A single bar says so only beside other rows: it may stand in a sentence."""
    line = lines[index].text
    if line.lstrip().startswith("|") or line.count(" | ") >= 2 or line.count("\t") >= 2:
        return True
    if "|" not in line or _MARKER.match(line):
        return False
    after = lines[index + 1].text if index + 1 < len(lines) else ""
    is_head = "|" in after and _TABLE_RULE.match(after) is not None
    return is_in_table or is_head or (" | " in line and " | " in after and not _MARKER.match(after))


def _is_title(lines: list[_Line], index: int) -> bool:
    """A short capitalised line without a full stop that stands alone above more text."""
    line = lines[index].text.strip()
    after = lines[index + 1].text if index + 1 < len(lines) else ""
    if _UNDERLINE.match(after):
        return True
    if after.strip() or len(line) > 60 or line[-1] in ".!?:;,。！？" or _MARKER.match(lines[index].text):
        return False
    if not any(later.text.strip() for later in lines[index + 1 : index + 4]):
        return False
    words = line.split()
    if _NUMBERED_TITLE.match(line):
        return True
    if len(words) > 8 or any(c.isdigit() for c in line) or not line[0].isupper():
        return False
    capitals = sum(word[0].isupper() for word in words)
    return len(words) <= 3 or capitals * 2 > len(words)


def _trimmed(text: str, start: int, end: int, kind: Kind) -> Iterator[Span]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield Span(start, end, kind)


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    for match in _END.finditer(text, start, end):
        if match.end() >= end:
            break
        if match["cjk"] or _is_end(text, at, match, end):
            yield at, match.end()
            at = match.end()
            while at < end and text[at].isspace():
                at += 1
    if at < end:
        yield at, end


def _is_end(text: str, start: int, match: re.Match[str], end: int) -> bool:
    """Whether the marks found close the sentence that began at `start`."""
    following = _NEXT_WORD.match(text, match.end(), min(end, match.end() + 60))
    word = (following and following[1]) or ""
    if word[:1].islower() or _MORE_POINTS.match(text, match.end(), end):
        return False
    if match["mark"] != ".":
        return True
    last = _LAST_WORD.search(text, max(start, match.start() - 24), match.start())
    before = last[0].lower() if last else ""
    if not before:
        return match.start() > start  # after a quote or a bracket, or a point that stands alone
    if before.isdigit() and last is not None and last.start() == start:
        return False  # the "1." of a numbered sentence
    if before in _COUNTED:
        return not word[:1].isdigit()
    if before in _TITLES:
        return False
    is_initial = len(before) == 1 and before.isalpha()
    if is_initial or before in _MAYBE or re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", before):
        return word.lower() in _STARTERS
    return True


def _bounded(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Pieces of at most MAX_SPAN_CHARS, cut at white space where there is some."""
    while end - start > MAX_SPAN_CHARS:
        limit = start + MAX_SPAN_CHARS
        cut = next((at for at in range(limit, start + MAX_SPAN_CHARS // 2, -1) if text[at].isspace()), limit)
        stop = cut
        while text[stop - 1].isspace():
            stop -= 1
        yield start, stop
        start = cut
        while text[start].isspace():
            start += 1
    yield start, end
