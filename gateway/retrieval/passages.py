"""From ranked candidates to passages: copies of a text once, neighbours as one passage. Pure, for every store.

Two texts are copies when they are equal, or share nine tenths of their words and differ in nothing that holds a digit:
versions of a table or a report that differ in their figures alone say different things.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.types import Passage

NUM_CANDIDATES = 24  # given by a search for reranking, however few passages are asked for
MAX_MERGED_CHARS = 3600  # of one passage made of neighbours: some four chunks

# White space between two chunks. Chunks do not keep it: it is taken for line ends, which it nearly always is, and its
# length is right in any case, so offsets are.
MAX_GAP_CHARS = 4

COPY_SHARE = 0.9  # of the words of two texts together, that copies have in common
# Copies are about equally long and equally near to any question, which tells most texts apart unread.
_COSINE_SPREAD = 0.02
_LENGTH_SHARE = 0.85


def collapsed(passages: Sequence[Passage]) -> list[Passage]:
    """Each text once, by its best copy. Best first in and out."""
    kept: list[_Read] = []
    texts: set[str] = set()
    for passage in passages:
        if passage.text in texts:
            continue
        read = _Read(passage)
        # Most pairs end here: this runs for each pair of candidates of each question.
        low, high = passage.score - _COSINE_SPREAD, passage.score + _COSINE_SPREAD
        short, long = read.num_chars * _LENGTH_SHARE, read.num_chars / _LENGTH_SHARE
        near = [other for other in kept if low <= other.score <= high and short <= other.num_chars <= long]
        if not any(_are_copies(read.words(), other.words()) for other in near):
            kept.append(read)
            texts.add(passage.text)
    return [read.passage for read in kept]


def are_copies(one: str, other: str) -> bool:
    """For texts whose scores tell nothing of each other."""
    if one == other:
        return True
    short, long = sorted((len(one), len(other)))
    if short < long * _LENGTH_SHARE:
        return False
    return _are_copies(frozenset(one.lower().split()), frozenset(other.lower().split()))


class _Read:
    """A passage and, once they were asked for, its words."""

    __slots__ = ("_words", "num_chars", "passage", "score")

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self.score = passage.score
        self.num_chars = len(passage.text)
        self._words: frozenset[str] | None = None

    def words(self) -> frozenset[str]:
        if self._words is None:
            self._words = frozenset(self.passage.text.lower().split())
        return self._words


def top_merged(passages: Sequence[Passage], k: int, max_chars: int = MAX_MERGED_CHARS) -> list[Passage]:
    """The k best passages; neighbours in one file that are both among them are one, which makes room for another.

    Best first in and out, a merged passage at the place, and with the scores, of its best part. Its text is exact but
    for white space between chunks (see MAX_GAP_CHARS), and not longer than max_chars unless one part alone is.
    """
    groups: list[_Group] = []
    for passage in passages:
        joined = next((group for group in groups if group.takes(passage, max_chars)), None)
        if joined is None:
            if len(groups) == k:
                break
            groups.append(_Group(passage))
        else:
            joined.add(passage)
            _unite(groups, joined, max_chars)
    return [group.passage() for group in groups]


class _Group:
    """Parts that follow each other in one file, in reading order; `best` came first."""

    def __init__(self, passage: Passage) -> None:
        self.best = passage
        self.parts = [passage]

    def takes(self, passage: Passage, max_chars: int) -> bool:
        first, last = self.parts[0], self.parts[-1]
        if _follows(passage, first):
            return last.end - passage.start <= max_chars
        return _follows(last, passage) and passage.end - first.start <= max_chars

    def add(self, passage: Passage) -> None:
        self.parts = sorted([*self.parts, passage], key=lambda part: part.start)

    def passage(self) -> Passage:
        if len(self.parts) == 1:
            return self.best
        text = self.parts[0].text
        for before, part in zip(self.parts[:-1], self.parts[1:], strict=True):
            text += "\n" * (part.start - before.end) + part.text[max(before.end - part.start, 0) :]
        return msgspec.structs.replace(
            self.best,
            start=self.parts[0].start,
            end=self.parts[-1].end,
            text=text,
            page=self.parts[0].page,
            chunk_ids=[chunk_id for part in self.parts for chunk_id in part.chunk_ids or [part.chunk_id]],
        )


def _unite(groups: list[_Group], grown: _Group, max_chars: int) -> None:
    """A part that closed the gap between two groups makes them one, at the place of the better."""
    for other in groups:
        first, second = sorted((grown, other), key=lambda group: group.parts[0].start)
        if other is grown or not _follows(first.parts[-1], second.parts[0]):
            continue
        if second.parts[-1].end - first.parts[0].start > max_chars:
            continue
        better, worse = sorted((grown, other), key=groups.index)
        better.parts = first.parts + second.parts
        groups.remove(worse)
        return


def _follows(before: Passage, after: Passage) -> bool:
    """Whether `after` overlaps `before` or goes on where it ends, so that together they are one stretch of text.

    Between two chunks of a section there may be white space that is in neither.
    """
    if (before.collection_id, before.file_id) != (after.collection_id, after.file_id):
        return False
    if not (before.start < after.start and before.end < after.end):
        return False
    gap = after.start - before.end
    is_next_of_section = after.ordinal == before.ordinal + 1 and after.heading == before.heading
    return gap <= 0 or (gap <= MAX_GAP_CHARS and is_next_of_section)


def _are_copies(one: frozenset[str], other: frozenset[str]) -> bool:
    common = len(one & other)
    if common < COPY_SHARE * (len(one) + len(other) - common):
        return False
    return not any(character.isdigit() for word in one ^ other for character in word)
