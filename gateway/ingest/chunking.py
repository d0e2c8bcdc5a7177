"""Cuts a text into chunks that can be searched and cited. Pure; knows characters, not tokens or files.

A chunk is a run of whole blocks (paragraphs, fenced code, tables, headings, definitions). It ends where the next
block would make it too long, or at a heading once it is long enough to stand alone. Only a block that is too long by
itself is cut inside: prose between sentences, other text between lines, and an endless word wherever it must be.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.ingest.blocks import Block, Kind, Style, columns_of, text_blocks, trimmed
from gateway.ingest.code import code_blocks

__all__ = ["MAX_HEADING_CHARS", "Chunk", "Style", "chunk_text"]

MAX_HEADING_CHARS = 500  # of the column; a single heading keeps to a part of it
_WHOLE_FACTOR = (
    2  # fenced code, and a single line of a table or of code, stays whole up to this many chunk lengths
)

# A sentence ends at a mark (and what closes after it) followed by space, or at a mark that needs no space. List items
# are as good. A line as such is not: hard-wrapped text breaks it anywhere.
_SENTENCE_START = re.compile(
    r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n(?=[ \t]*+(?:[-*+|]|\d{1,3}[.)])[ \t])"
)
_LINE_START = re.compile(r"\n")
_WORD_START = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Chunk:
    """text == source[start:end], without space at its ends. heading: `Guide > Install`, or empty."""

    start: int
    end: int
    text: str
    heading: str


def chunk_text(text: str, *, max_chars: int, overlap_chars: int, style: Style) -> list[Chunk]:
    """All chunks in order; every character that is not space is in at least one.

    Holds: a chunk is at most max_chars + overlap_chars long, and 2 * max_chars when it is one fenced block or one
    line that is not prose; starts and ends increase; between neighbours there is nothing but space. The overlap
    repeats whole sentences (lines) of the same section.
    """
    blocks = code_blocks(text, max_chars) if style is Style.CODE else text_blocks(text, style)
    groups = _pack(_split_long(text, blocks, max_chars), max_chars, overlap_chars)
    out: list[Chunk] = []
    for index, group in enumerate(groups):
        start, end = group[0].start, group[-1].end
        if index and overlap_chars and end - start <= max_chars:
            start = _overlap_start(text, groups[index - 1], group[0], overlap_chars)
        out.append(Chunk(start, end, text[start:end], _heading(group)))
    return out


def _split_long(text: str, blocks: Iterable[Block], max_chars: int) -> Iterator[Block]:
    for block in blocks:
        limit = max_chars * _WHOLE_FACTOR if block.kind is Kind.FENCE else max_chars
        if block.end - block.start <= limit:
            yield block
            continue
        cut = _prose_cuts if block.kind in (Kind.TEXT, Kind.HEADING) else _line_cuts
        columns = columns_of(text, block.start, block.end) if block.kind is Kind.TABLE else ""
        for start, end in cut(text, block.start, block.end, max_chars):
            is_split = start != block.start
            path = (
                (*block.path, columns) if is_split and columns else block.path
            )  # rows say little without it
            yield Block(start, end, path, block.kind, block.is_opening and not is_split, is_split)


def _prose_cuts(text: str, start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """Pieces of at most max_chars: at the last border in reach of the best kind, else anywhere."""
    while end - start > max_chars:
        cut = _last_border((_SENTENCE_START, _LINE_START, _WORD_START), text, start, start + max_chars)
        yield trimmed(text, start, cut)
        start = _after_space(text, cut, end)
    if start < end:
        yield trimmed(text, start, end)


def _line_cuts(text: str, start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """Pieces of whole lines, of at most max_chars or one line; only an endless line is cut inside."""
    while end - start > max_chars:
        line_end = text.rfind("\n", start, start + max_chars + 1)
        if line_end <= start:
            line_end = text.find("\n", start, start + max_chars * _WHOLE_FACTOR + 1)
            if line_end < 0 and end - start <= max_chars * _WHOLE_FACTOR:
                line_end = end
        if line_end < 0:
            line_end = _last_border((_SENTENCE_START, _WORD_START), text, start, start + max_chars)
        yield trimmed(text, start, line_end)
        start = _after_space(text, line_end, end)
    if start < end:
        yield trimmed(text, start, end)


def _last_border(borders: Iterable[re.Pattern[str]], text: str, start: int, reach: int) -> int:
    """Where the last unit begins, of the best kind that has one in the later half of start..reach (earlier wastes the
    chunk); else `reach`."""
    for border in borders:
        last = None
        for found in border.finditer(text, start + (reach - start) // 2, reach + 1):
            if (
                found.end() <= reach or found.start() < found.end()
            ):  # space may reach over; an empty match not
                last = min(found.end(), reach)
        if last is not None:
            return last
    return reach


def _after_space(text: str, at: int, end: int) -> int:
    while at < end and text[at].isspace():
        at += 1
    return at


def _pack(blocks: Iterable[Block], max_chars: int, overlap_chars: int) -> list[list[Block]]:
    groups: list[list[Block]] = []
    group: list[Block] = []
    has_body = False  # something else than headings
    for block in blocks:
        if group and _should_close(group, block, max_chars, overlap_chars, has_body=has_body):
            headings = _headings_at_end(group) if has_body else []
            if headings and not _fits(headings, block, max_chars, overlap_chars, has_body=False):
                headings = []
            groups.append(group[: len(group) - len(headings)])
            group, has_body = headings, False
        group.append(block)
        has_body = has_body or block.kind is not Kind.HEADING
    if group:
        groups.append(group)
    return groups


def _headings_at_end(group: list[Block]) -> list[Block]:
    """They belong to what follows, not to the end of what came before."""
    keep = len(group)
    while group[keep - 1].kind is Kind.HEADING:
        keep -= 1
    return group[keep:]


def _should_close(
    group: list[Block], block: Block, max_chars: int, overlap_chars: int, *, has_body: bool
) -> bool:
    if not _fits(group, block, max_chars, overlap_chars, has_body=has_body):
        return True
    # A heading opens a chunk, unless what we have is only headings or too little to stand alone.
    is_long = group[-1].end - group[0].start >= max_chars // 3
    return block.is_opening and is_long and has_body


def _fits(group: list[Block], block: Block, max_chars: int, overlap_chars: int, *, has_body: bool) -> bool:
    length = block.end - group[0].start
    if length <= max_chars:
        return True
    # Headings may stand before a full block: such a chunk has no overlap, so the room for it is free.
    room = max_chars * _WHOLE_FACTOR if block.kind is Kind.FENCE else max_chars + overlap_chars
    return length <= room and not has_body


def _overlap_start(text: str, previous: list[Block], first: Block, overlap_chars: int) -> int:
    """The earliest sentence (line) start in the last overlap_chars before `first`, or its own start."""
    last = previous[-1]
    kinds = {last.kind, first.kind}
    if kinds & {Kind.HEADING, Kind.TABLE} or last.path != first.path:
        return first.start
    if Kind.FENCE in kinds and not (first.is_split and last.kind is Kind.FENCE):
        return first.start
    earliest = max(last.start, first.start - overlap_chars)
    borders = [_SENTENCE_START if last.kind is Kind.TEXT else _LINE_START]
    if first.is_split:
        borders += [_LINE_START, _WORD_START]  # cut inside a sentence: better a part of it than nothing
    for border in borders:
        starts = [found.end() for found in border.finditer(text, max(earliest - 1, 0), first.start)]
        if last.start == earliest:
            starts.insert(0, earliest)
        index = bisect_left(starts, earliest)
        if index < len(starts) and starts[index] < first.start:
            start = trimmed(text, starts[index], first.start)[0]
            # Never the whole of the previous chunk again.
            return start if start > previous[0].start else first.start
    return first.start


def _heading(group: list[Block]) -> str:
    """What all body blocks of the chunk have in common; the path of the longest one when that is nothing."""
    body = [block for block in group if block.kind is not Kind.HEADING] or group[-1:]
    common = body[0].path
    for block in body[1:]:
        common = _common_start(common, block.path)
    longest = max(body, key=lambda block: block.end - block.start)
    return " > ".join(common or longest.path)[:MAX_HEADING_CHARS]


def _common_start(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return one[:length]
