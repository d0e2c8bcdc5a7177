"""Cuts a text into blocks: the pieces that a chunk holds whole wherever they fit. Pure; owns what a block is in each
style, knows nothing of how blocks become chunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_MAX_TITLE_CHARS = 120
_MAX_HEADING_LINE_CHARS = 300  # a longer line is no heading, whatever it begins with

_LINE = re.compile(r"[^\n]+")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]++(.*)")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_NO_TITLE = re.compile(r" {4}|\s*+(?:[-*+>|]|\d{1,9}[.)]\s|[=_\s]*+$)")
_TABLE_RULE = re.compile(r"[ \t|:-]++$")
_UNDERLINE = re.compile(r" {0,3}(?:(=)=++|--++)[ \t]*+$")


class Style(StrEnum):
    """How a text is read. MARKDOWN knows headings, fences and tables, PROSE sentences, LINES only lines, CODE
    definitions."""

    MARKDOWN = "markdown"
    PROSE = "prose"
    LINES = "lines"
    CODE = "code"


class Kind(StrEnum):
    """TEXT is cut between sentences when it is too long, all others between lines."""

    TEXT = "text"
    HEADING = "heading"
    FENCE = "fence"
    TABLE = "table"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class Block:
    """text[start:end], without space at its ends. path: what it stands under, from the outermost.

    is_opening: a chunk likes to begin here. is_split: its start is a cut inside a longer block.
    """

    start: int
    end: int
    path: tuple[str, ...] = ()
    kind: Kind = Kind.TEXT
    is_opening: bool = False
    is_split: bool = False


def text_blocks(text: str, style: Style) -> Iterator[Block]:
    """Runs of non-empty lines; in Markdown also headings (a line, or one and its underline), fenced code and tables."""
    if style is Style.MARKDOWN:
        yield from _markdown_blocks(text)
        return
    kind = Kind.LINES if style is Style.LINES else Kind.TEXT
    start = end = -1
    for line in _LINE.finditer(text):
        is_blank = line.group().isspace()
        if start >= 0 and (is_blank or line.start() > end + 1):
            yield Block(*trimmed(text, start, end), (), kind)
            start = -1
        if not is_blank:
            start = line.start() if start < 0 else start
            end = line.end()
    if start >= 0:
        yield Block(*trimmed(text, start, end), (), kind)


class _Open:
    """The block that lines are added to, if there is one."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.start = self.end = self._last = -1  # _last: where its last line starts
        self.kind = Kind.TEXT

    def add(self, start: int, end: int, kind: Kind) -> None:
        if self.start < 0:
            self.start, self.kind = start, kind
        self.end, self._last = end, start

    @property
    def is_table(self) -> bool:
        return self.start >= 0 and self.kind is Kind.TABLE

    @property
    def last_line(self) -> str:
        """Of running text; else empty."""
        is_text = self.start >= 0 and self.kind is Kind.TEXT
        return self._text[self._last : self.end] if is_text else ""

    @property
    def is_one_line(self) -> bool:
        return self._last == self.start

    def close_before_last(self, path: list[tuple[int, str]], kind: Kind) -> Iterator[Block]:
        """The block without its last line, which begins another one, of this kind."""
        if not self.is_one_line:
            yield Block(*trimmed(self._text, self.start, self._last), _titles(path), self.kind)
        self.start, self.kind = self._last, kind

    def close(self, path: list[tuple[int, str]]) -> Iterator[Block]:
        if self.start >= 0:
            yield Block(*trimmed(self._text, self.start, self.end), _titles(path), self.kind)
        self.start = -1


def _markdown_blocks(text: str) -> Iterator[Block]:
    path: list[tuple[int, str]] = []
    block, fence = _Open(text), ""
    for line in _LINE.finditer(text):
        words, start, end = line.group(), line.start(), line.end()
        if fence:
            block.end = end
            if closes_fence(words, fence):
                yield from block.close(path)
                fence = ""
            continue
        if words.isspace() or start > block.end + 1:
            yield from block.close(path)
        if words.isspace():
            continue
        title = heading_of(words)
        if title is None and block.is_one_line and (title := underlined(block.last_line, words)):
            start, block.start = block.start, -1
        if title:
            yield from block.close(path)
            path = [entry for entry in path if entry[0] < title[0]] + [title]
            yield Block(*trimmed(text, start, end), _titles(path), Kind.HEADING, is_opening=True)
            continue
        if "|" in words and _TABLE_RULE.match(words) and "|" in block.last_line:
            yield from block.close_before_last(path, Kind.TABLE)
        fence = opened_fence(words)
        is_table = is_row(words) or (block.is_table and "|" in words)
        kind = Kind.FENCE if fence else Kind.TABLE if is_table else Kind.TEXT
        if kind is not block.kind:
            yield from block.close(path)
        block.add(start, end, kind)
    yield from block.close(path)


def heading_of(line: str) -> tuple[int, str] | None:
    """Level and title of a heading line, closing hashes off (`## Install ##`, but `# C#` keeps its own)."""
    found = _HEADING.match(line) if len(line) <= _MAX_HEADING_LINE_CHARS else None
    if found is None:
        return None
    title = found[2].rstrip(" \t")
    bare = title.rstrip("#")
    if not bare or bare[-1] in " \t":
        title = bare.rstrip(" \t")
    return len(found[1]), title[:_MAX_TITLE_CHARS]


def underlined(line: str, below: str) -> tuple[int, str] | None:
    """Level and title of a line that the next one underlines, with `=` or with dashes. None where it does not, or the
    line is a rule, an item of a list, a quotation or code."""
    mark, words = _UNDERLINE.match(below), line.strip()
    is_title = mark is not None and words and len(words) <= _MAX_TITLE_CHARS and not _NO_TITLE.match(line)
    return (1 if mark is not None and mark[1] else 2, words) if is_title else None


def opened_fence(line: str) -> str:
    """The marks of a fence that this line opens, or empty."""
    mark = _FENCE.match(line)
    return mark[1] if mark else ""


def closes_fence(line: str, fence: str) -> bool:
    return opened_fence(line).startswith(fence) and not line.strip().strip(fence[0])


def is_row(line: str) -> bool:
    """A line of a table: it begins with a bar, or has cells with a bar between them."""
    words = line.strip()
    return words.startswith("|") or " | " in words


def columns_of(text: str, start: int, end: int) -> str:
    """The first row of the table text[start:end] as a title, or empty where a table has only one row."""
    first, _, rest = text[start:end].partition("\n")
    if not rest or _TABLE_RULE.match(first):
        return ""
    return " | ".join(cell.strip() for cell in first.strip().strip("|").split("|"))[:_MAX_TITLE_CHARS]


def _titles(path: list[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(title for _, title in path if title)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
