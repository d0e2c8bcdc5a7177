"""Cuts a text into chunks that can be searched and cited. Pure; knows characters, not tokens or files.

A chunk is a run of whole blocks (paragraphs, fenced code, headings). It ends where the next block would make
it too long, or at a heading once it is long enough to stand alone. Only a block that is too long by itself is
cut inside: prose between sentences, other text between lines, and an endless word wherever it must be.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

MAX_HEADING_CHARS = 500  # of the column; a single heading keeps to a part of it
_MAX_TITLE_CHARS = 120
_MAX_HEADING_LINE_CHARS = 300  # a longer line is no heading, whatever it begins with
_FENCE_FACTOR = 2  # a fenced block stays whole up to this many chunk lengths

_LINE = re.compile(r"[^\n]+")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]++(.*)")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
# A sentence ends at a mark (and what closes after it) followed by space, or at a mark that needs no space. List items
# and table rows are as good. A line as such is not: hard-wrapped text breaks it anywhere.
_SENTENCE_START = re.compile(
    r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n(?=[ \t]*+(?:[-*+|]|\d{1,3}[.)])[ \t])"
)
_LINE_START = re.compile(r"\n")
_WORD_START = re.compile(r"\s+")


class Style(StrEnum):
    """How a text is read. MARKDOWN knows headings and fences, PROSE sentences, LINES only lines."""

    MARKDOWN = "markdown"
    PROSE = "prose"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class Chunk:
    """text == source[start:end], without space at its ends. heading: `Guide > Install`, or empty."""

    start: int
    end: int
    text: str
    heading: str


@dataclass(frozen=True, slots=True)
class _Block:
    """A piece that is not cut any more. is_split: its start is a cut inside a longer block."""

    start: int
    end: int
    path: tuple[str, ...]
    is_heading: bool = False
    is_fence: bool = False
    is_split: bool = False


def chunk_text(text: str, *, max_chars: int, overlap_chars: int, style: Style) -> list[Chunk]:
    """All chunks in order; every character that is not space is in at least one.

    Holds: a chunk is at most max_chars + overlap_chars long, and 2 * max_chars when it is one fenced block;
    starts and ends increase. The overlap repeats whole sentences (lines) of the same section.
    """
    blocks = _split_long(text, _blocks(text, style), max_chars, style)
    groups = _pack(list(blocks), max_chars, overlap_chars)
    out: list[Chunk] = []
    for index, group in enumerate(groups):
        start, end = group[0].start, group[-1].end
        if index and overlap_chars:
            start = _overlap_start(text, groups[index - 1], group[0], overlap_chars, style)
        out.append(Chunk(start, end, text[start:end], _heading(group)))
    return out


def _blocks(text: str, style: Style) -> Iterator[_Block]:
    """Runs of non-empty lines; in Markdown also headings (one line each) and fenced code (whole)."""
    path: list[tuple[int, str]] = []
    start = end = -1  # the open block, if start >= 0
    fence = ""
    for line in _LINE.finditer(text):
        words = line.group()
        if not fence and start >= 0 and (not words.strip() or line.start() > end + 1):
            yield _Block(*_trimmed(text, start, end), _titles(path))
            start = -1
        if not words.strip():
            continue
        mark = _FENCE.match(words) if style is Style.MARKDOWN else None
        if fence:
            end = line.end()
            if mark and mark[1].startswith(fence) and not words.strip().strip(fence[0]):
                yield _Block(*_trimmed(text, start, end), _titles(path), is_fence=True)
                start, fence = -1, ""
            continue
        title = _title(words) if style is Style.MARKDOWN else None
        if (mark or title) and start >= 0:
            yield _Block(*_trimmed(text, start, end), _titles(path))
            start = -1
        if title:
            path = [entry for entry in path if entry[0] < title[0]] + [title]
            yield _Block(*_trimmed(text, line.start(), line.end()), _titles(path), is_heading=True)
            continue
        fence = mark[1] if mark else ""
        start = line.start() if start < 0 else start
        end = line.end()
    if start >= 0:
        yield _Block(*_trimmed(text, start, end), _titles(path), is_fence=bool(fence))


def _title(line: str) -> tuple[int, str] | None:
    """Level and title of a heading line, closing hashes off (`## Install ##`, but `# C#` keeps its own)."""
    found = _HEADING.match(line) if len(line) <= _MAX_HEADING_LINE_CHARS else None
    if found is None:
        return None
    title = found[2].rstrip(" \t")
    bare = title.rstrip("#")
    if not bare or bare[-1] in " \t":
        title = bare.rstrip(" \t")
    return len(found[1]), title[:_MAX_TITLE_CHARS]


def _titles(path: list[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(title for _, title in path if title)


def _split_long(text: str, blocks: Iterator[_Block], max_chars: int, style: Style) -> Iterator[_Block]:
    for block in blocks:
        limit = max_chars * _FENCE_FACTOR if block.is_fence else max_chars
        if block.end - block.start <= limit:
            yield block
            continue
        by_line = block.is_fence or style is Style.LINES
        for start, end in _cuts(text, block.start, block.end, max_chars, by_line):
            is_split = start != block.start
            yield _Block(start, end, block.path, block.is_heading, block.is_fence, is_split)


def _cuts(text: str, start: int, end: int, max_chars: int, by_line: bool) -> Iterator[tuple[int, int]]:
    """Pieces of at most max_chars: at the last border in reach of the best kind, else anywhere."""
    borders = (_LINE_START, _WORD_START) if by_line else (_SENTENCE_START, _LINE_START, _WORD_START)
    while end - start > max_chars:
        reach = start + max_chars
        found = (_last_start(border, text, start, reach) for border in borders)
        cut = next((at for at in found if at is not None), reach)
        yield _trimmed(text, start, cut)
        start = cut
        while start < end and text[start].isspace():
            start += 1
    if start < end:
        yield _trimmed(text, start, end)


def _last_start(border: re.Pattern[str], text: str, start: int, reach: int) -> int | None:
    """Where the last unit begins that starts in the later half of start..reach (earlier wastes the chunk)."""
    last = None
    for found in border.finditer(text, start + (reach - start) // 2, reach + 1):
        if found.end() <= reach or found.start() < found.end():  # space may reach over; an empty match not
            last = min(found.end(), reach)
    return last


def _pack(blocks: list[_Block], max_chars: int, overlap_chars: int) -> list[list[_Block]]:
    groups: list[list[_Block]] = []
    group: list[_Block] = []
    for block in blocks:
        if group and _should_close(group, block, max_chars, overlap_chars):
            # A heading belongs to what follows it, not to the end of what came before.
            keep = len(group)
            while keep > 1 and group[keep - 1].is_heading:
                keep -= 1
            headings = group[keep:]
            if headings and not _fits(headings, block, max_chars, overlap_chars):
                keep, headings = len(group), []
            groups.append(group[:keep])
            group = headings
        group.append(block)
    if group:
        groups.append(group)
    return groups


def _should_close(group: list[_Block], block: _Block, max_chars: int, overlap_chars: int) -> bool:
    if not _fits(group, block, max_chars, overlap_chars):
        return True
    # A heading opens a chunk, unless what we have is only headings or too little to stand alone.
    is_long = group[-1].end - group[0].start >= max_chars // 3
    return block.is_heading and is_long and not all(entry.is_heading for entry in group)


def _fits(group: list[_Block], block: _Block, max_chars: int, overlap_chars: int) -> bool:
    length = block.end - group[0].start
    if length <= max_chars:
        return True
    # Headings may stand before a full block: such a chunk has no overlap, so the room for it is free.
    room = max_chars * _FENCE_FACTOR if block.is_fence else max_chars + overlap_chars
    return length <= room and all(entry.is_heading for entry in group)


def _overlap_start(text: str, previous: list[_Block], first: _Block, overlap_chars: int, style: Style) -> int:
    """The earliest sentence (line) start in the last overlap_chars before `first`, or its own start."""
    last = previous[-1]
    if first.is_heading or last.is_heading or last.path != first.path:
        return first.start
    if (last.is_fence or first.is_fence) and not (first.is_split and last.is_fence):
        return first.start
    earliest = max(last.start, first.start - overlap_chars)
    borders = [_LINE_START if last.is_fence or style is Style.LINES else _SENTENCE_START]
    if first.is_split:
        borders += [_LINE_START, _WORD_START]  # cut inside a sentence: better a part of it than nothing
    for border in borders:
        starts = [found.end() for found in border.finditer(text, max(earliest - 1, 0), first.start)]
        if last.start == earliest:
            starts.insert(0, earliest)
        index = bisect_left(starts, earliest)
        if index < len(starts) and starts[index] < first.start:
            start = _trimmed(text, starts[index], first.start)[0]
            # Never the whole of the previous chunk again.
            return start if start > previous[0].start else first.start
    return first.start


def _heading(group: list[_Block]) -> str:
    """What all body blocks of the chunk have in common; the first one's path when that is nothing."""
    paths = [block.path for block in group if not block.is_heading] or [group[-1].path]
    common = paths[0]
    for path in paths[1:]:
        common = _common_start(common, path)
    return " > ".join(common or paths[0])[:MAX_HEADING_CHARS]


def _common_start(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return one[:length]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
