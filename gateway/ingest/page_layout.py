"""From the lines of pages to running text: paragraphs, headings, words that a line break cut, running heads off. Pure.

Knows where lines stand and how large they are, not where they come from.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from gateway.ingest.blocks import heading_of, opened_fence

_MAX_HEADING_CHARS = 160
_MAX_HEADING_LINES = 3
_MAX_LEVELS = 6
_LARGER = 1.12  # a heading's size over that of the body
_PARAGRAPH_GAP = 1.35  # a distance between lines over the usual one that begins a paragraph
_WRAPPED_SHARE = 0.8  # of the column's width that a line fills when the next one goes on with it
_MIN_WRAPPED_CHARS = 25  # the narrowest column has more; where all lines are shorter, none is wrapped
_MONO_WIDTH = 0.6  # of a letter, in its size
_MAX_INDENT = 40
_MARGIN_LINES = 2  # at the top and the bottom of a page, where running heads stand
_MIN_REPEATS = 3
_MAX_PAGE_OFFSET = 1000  # of a page's number from its place in the file; an invoice's number is larger

_DIGITS = re.compile(r"\d+|\b[ivxlc]{1,7}\b")
_NUMBER = re.compile(r"\d{1,18}")
_ITEM = re.compile(r"(?:[•◦▪‣·●○■–—*-]|\(?\d{1,3}[.)]|\(?[a-z]\))\s+\S")
_BULLET = re.compile(r"[•◦▪‣·●○■]\s+")
_SENTENCE_END = re.compile(r"[.!?…:。！？][\"'”’)\]]*$")
_LAST_WORD = re.compile(r"(?<![^\W\d_])[^\W\d_]++$")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_WORD = re.compile(r"[^\W\d_]{2,}(?:-[^\W\d_]{2,})*")
_NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)*\.?|[IVXLC]+\.|[A-Z]\.)\s+")
_QUOTES = "'''"  # for marks that would close our fence
_SPACE = re.compile(r"\s+")


class Line(NamedTuple):
    """size: of its font, in points. The edges are in points from the lower left corner. ` | ` parts the cells of a
    table. A soft hyphen at its end is one that breaks a word."""

    text: str
    size: float
    is_bold: bool
    is_mono: bool
    left: float
    right: float
    bottom: float


class Page(NamedTuple):
    lines: list[Line]


class Bookmark(NamedTuple):
    """level: from 1. page: from 0."""

    title: str
    level: int
    page: int


class Laid(NamedTuple):
    """text: Markdown. page_starts[n]: where the text of page n + 1 begins."""

    text: str
    page_starts: list[int]


@dataclass(slots=True)
class _Piece:
    """A paragraph, a table, code or (level > 0) a heading. page: from 0, of its first line."""

    text: str
    page: int
    lines: list[Line]
    level: int = 0
    is_code: bool = False


def lay_out(pages: Sequence[Page], bookmarks: Sequence[Bookmark] = ()) -> Laid:
    traits = _Traits(pages, bookmarks)
    pieces = [
        piece
        for number, page in enumerate(_without_running_lines(pages, traits))
        for piece in _pieces(page, number, traits)
    ]
    return _written(pieces, len(pages))


def _without_running_lines(pages: Sequence[Page], traits: _Traits) -> list[Page]:
    """Heads, feet and page numbers off: lines at the edge of a page that others share but for the page's number."""
    groups: defaultdict[tuple[str, int], dict[int, Line]] = defaultdict(dict)
    for number, page in enumerate(pages):
        for line in _edge_lines(page, traits):
            groups[_running_key(line)][number] = line
    often = max(_MIN_REPEATS, 0.3 * len(pages))
    running = {
        id(line)
        for found in groups.values()
        if len(found) >= often and _counts_pages(found)
        for line in found.values()
    }
    kept = [[line for line in page.lines if id(line) not in running] for page in pages]
    # where all is alike, it is no frame around something else
    return [Page(own) if own else page for own, page in zip(kept, pages, strict=True)]


def _edge_lines(page: Page, traits: _Traits) -> Iterator[Line]:
    """Lines with room between them and the text, and numbers alone. Large letters at the top are a chapter's title,
    however many chapters begin like this one."""
    gap, upwards = _usual_gap(page.lines), sorted(page.lines, key=lambda line: line.bottom)
    yield from _margin(upwards, gap)
    yield from (line for line in _margin(upwards[::-1], gap) if not traits.is_large(line))


def _margin(inwards: Sequence[Line], gap: float) -> Iterator[Line]:
    """inwards: from the edge of the page."""
    rooms = [
        abs(line.bottom - inner.bottom) > max(gap, line.size) * _PARAGRAPH_GAP
        for line, inner in pairwise(inwards[: _MARGIN_LINES + 1])
    ]
    for at, line in enumerate(inwards[:_MARGIN_LINES]):
        if any(rooms[at:]) or not _WORD.search(line.text):
            yield line


def _running_key(line: Line) -> tuple[str, int]:
    return _DIGITS.sub("#", line.text.lower()), round(line.bottom / 8)


def _counts_pages(found: dict[int, Line]) -> bool:
    """Whether most numbers in lines of one key stay as they are or go up with the pages: those of an invoice do not.

    found: by page, in order.
    """
    numbers = [(page, [int(each) for each in _NUMBER.findall(line.text)]) for page, line in found.items()]
    num_steady = 0
    for (page, before), (later, after) in pairwise(numbers):
        steps = [(old, new - old) for old, new in zip(before, after, strict=False)]
        num_steady += all(
            not step or (step == later - page and old - page < _MAX_PAGE_OFFSET) for old, step in steps
        )
    return 2 * num_steady >= len(numbers) - 1


class _Traits:
    """What the document as a whole tells about a line: whether it is a heading, code, the rest of a broken word."""

    def __init__(self, pages: Sequence[Page], bookmarks: Sequence[Bookmark]) -> None:
        lines = [line for page in pages for line in page.lines]
        sizes: Counter[float] = Counter()
        for line in lines:
            sizes[line.size] += len(line.text)
        num_chars = sum(sizes.values())
        self._body_size = sizes.most_common(1)[0][0] if sizes else 0.0
        large = sorted((size for size in sizes if size >= self._body_size * _LARGER), reverse=True)
        self._by_size = {size: min(level, _MAX_LEVELS - 1) for level, size in enumerate(large, start=1)}
        self._by_title = {(mark.page, _plain(mark.title)): mark.level for mark in bookmarks}
        self._is_bold_rare = sum(len(line.text) for line in lines if line.is_bold) * 5 < num_chars
        self._is_mono_rare = sum(len(line.text) for line in lines if line.is_mono) * 2 < num_chars
        self._words = Counter(word.lower() for line in lines for word in _WORD.findall(line.text))

    def is_large(self, line: Line) -> bool:
        return line.size in self._by_size

    def is_code(self, line: Line) -> bool:
        return line.is_mono and self._is_mono_rare

    def level_of(self, line: Line, page: int, *, stands_alone: bool) -> int:
        """1 to 6, or 0 for a line that is no heading. stands_alone: there is room around it."""
        if len(line.text) > _MAX_HEADING_CHARS or " | " in line.text or not _WORD.search(line.text):
            return 0
        marked = self._by_title.get((page, _plain(line.text)))
        if marked:
            return min(marked, _MAX_LEVELS)
        if self.is_large(line):
            return self._by_size[line.size]
        is_title = (line.text[0].isupper() or _NUMBERING.match(line.text)) and line.text[-1] not in ".,;:"
        is_bold_title = line.is_bold and self._is_bold_rare and is_title and len(line.text) <= 80
        if is_bold_title and stands_alone and line.size >= self._body_size:
            return min(len(self._by_size) + 1, _MAX_LEVELS)
        return 0

    def joined(self, before: str, after: str) -> str:
        """Two lines as one. A hyphen at the end stays where the document has the word with it more often."""
        before = before.rstrip()
        is_hyphen = before.endswith("-") and len(before) > 2 and before[-2].isalpha()
        if not before.endswith("\xad") and not is_hyphen:
            return f"{before} {after}"
        stem = before[:-1]
        head, tail = _LAST_WORD.search(stem), _FIRST_WORD.match(after)
        if head is None or tail is None or not tail[0][0].islower():
            return f"{stem}-{after}"
        whole, parts = (head[0] + tail[0]).lower(), f"{head[0]}-{tail[0]}".lower()
        return f"{stem}-{after}" if self._words[parts] > self._words[whole] else f"{stem}{after}"


def _plain(title: str) -> str:
    return _SPACE.sub("", _NUMBERING.sub("", title)).casefold()


def _pieces(page: Page, number: int, traits: _Traits) -> Iterator[_Piece]:
    gap, columns = _usual_gap(page.lines), _Columns(page.lines)
    nears = [_is_near(above, below, gap) for above, below in pairwise(page.lines)]
    piece: _Piece | None = None
    for index, line in enumerate(page.lines):
        is_near = index > 0 and nears[index - 1]
        is_code = traits.is_code(line)
        stands_alone = not is_near or index == len(nears) or not nears[index]
        level = 0 if is_code else traits.level_of(line, number, stands_alone=stands_alone)
        is_like = piece is not None and (piece.level, piece.is_code) == (level, is_code)
        if piece is not None and is_like and _belongs(piece, line, is_near=is_near):
            piece.text = _with_line(piece, line, columns, traits)
            piece.lines.append(line)
            continue
        if piece is not None:
            yield piece
        piece = _Piece(line.text, number, [line], level, is_code)
    if piece is not None:
        yield piece


def _usual_gap(lines: list[Line]) -> float:
    """Points from one baseline to the next, where one line stands right under the other."""
    gaps = [above.bottom - below.bottom for above, below in pairwise(lines)]
    usual = [gap for gap, line in zip(gaps, lines, strict=False) if 0 < gap < 2.5 * max(line.size, 4)]
    return median(usual) if usual else 0.0


def _is_near(above: Line, below: Line, gap: float) -> bool:
    """No more room between them than between lines of a paragraph, and the same size of letters."""
    distance = above.bottom - below.bottom
    is_same_row = abs(distance) < 0.5 * min(above.size, below.size)
    is_next_row = 0 < distance <= max(gap, below.size) * _PARAGRAPH_GAP
    return (is_same_row or is_next_row) and abs(above.size - below.size) < 0.1 * max(above.size, 1)


def _belongs(piece: _Piece, line: Line, *, is_near: bool) -> bool:
    """Whether a line of the same sort goes on with the piece."""
    last = piece.lines[-1]
    distance = last.bottom - line.bottom
    if piece.is_code or (_is_row(last) and _is_row(line)):  # more room between them is usual
        return 0 <= distance < 3 * line.size
    if piece.level:
        return is_near and len(piece.lines) < _MAX_HEADING_LINES
    return is_near and _is_row(last) == _is_row(line)


def _is_row(line: Line) -> bool:
    return " | " in line.text


class _Columns:
    """How far to the right the lines of a column reach, by where they begin."""

    _WIDTH = 60.0  # points: an indented line belongs to the same column

    def __init__(self, lines: list[Line]) -> None:
        self._right: dict[int, float] = {}
        for line in lines:
            for key in self._keys(line):
                self._right[key] = max(self._right.get(key, 0.0), line.right)

    def right_of(self, line: Line) -> float:
        return max(self._right.get(key, line.right) for key in self._keys(line))

    def _keys(self, line: Line) -> tuple[int, int]:
        key = int(line.left // self._WIDTH)
        return key, key + 1


def _with_line(piece: _Piece, line: Line, columns: _Columns, traits: _Traits) -> str:
    """The piece's text with one more line."""
    if piece.is_code:
        indent = round((line.left - piece.lines[0].left) / (_MONO_WIDTH * max(line.size, 1)))
        return f"{piece.text}\n{' ' * min(max(indent, 0), _MAX_INDENT)}{line.text}"
    if piece.level or _runs_on(piece.lines[-1], line, columns):
        return traits.joined(piece.text, line.text)
    return f"{piece.text}\n{line.text}"


def _runs_on(before: Line, line: Line, columns: _Columns) -> bool:
    """Whether the line above was full, so that this one goes on with it: a row of a table and a verse end earlier."""
    if _ITEM.match(line.text) or _is_row(line):
        return False
    left = min(before.left, line.left)
    is_full = before.right - left >= _WRAPPED_SHARE * (columns.right_of(before) - left)
    is_hyphen = before.text.endswith("\xad")
    return is_hyphen or (is_full and len(before.text) >= _MIN_WRAPPED_CHARS)


def _written(pieces: list[_Piece], num_pages: int) -> Laid:
    out: list[str] = []
    starts: list[int] = []
    length = 0
    last: _Piece | None = None
    for piece in pieces:
        gap = "" if last is None else " " if _is_cut_by_page(last, piece) else "\n\n"
        starts += [length + len(gap)] * (piece.page + 1 - len(starts))
        words = gap + _markdown(piece)
        out.append(words)
        length += len(words)
        last = piece
    starts += [length] * (num_pages - len(starts))
    return Laid("".join(out) + ("\n" if out else ""), starts)


def _is_cut_by_page(last: _Piece, piece: _Piece) -> bool:
    """A paragraph that a page break cut in two: it had no end, and goes on with a small letter."""
    is_text = not (last.level or piece.level or last.is_code or piece.is_code)
    return (
        is_text
        and last.page != piece.page
        and not _SENTENCE_END.search(last.text)
        and piece.text[0].islower()
        and " | " not in last.text
    )


def _markdown(piece: _Piece) -> str:
    text = piece.text.replace("\xad", "")
    if piece.level:
        return f"{'#' * piece.level} {text}"
    if piece.is_code and "\n" in text:
        return f"```\n{text.replace('```', _QUOTES)}\n```"
    # No line of a paragraph is a heading or a fence; bullets are list items.
    lines = (_BULLET.sub("- ", line, count=1) if _BULLET.match(line) else line for line in text.split("\n"))
    return "\n".join(f"    {line}" if heading_of(line) or opened_fence(line) else line for line in lines)
