"""Was a hit by similarity right? A sample is answered anew, when nobody waits, and the two answers are compared.

Knows nothing of when: gateway/pipeline/remember.py decides which hits are checked, and what follows.
"""

from __future__ import annotations

from gateway.caching.entry import Entry, Piece, chunk_ids
from gateway.language.terms import is_content, stem, words
from gateway.types import Citation, Passage

SAME_SHARE = 0.5  # of quotes, or of words, that two answers must have in common


class KeptAnswer:
    """A sink that only keeps what it is sent."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.passages: list[Passage] = []

    def chosen(self, tier: str) -> None:
        """Of no interest."""

    async def stage(self, name: str) -> None:
        """Of no interest."""

    def waiting(self, position: int, eta_s: float) -> None:
        """Of no interest."""

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        self.pieces.append(Piece(text, citations))
        self.passages = passages


def is_same_answer(entry: Entry, made: KeptAnswer) -> bool:
    """Both say no, or both stand on the same passages and say about the same: by their quotes, else by their words."""
    old, new = _quotes(entry.pieces), _quotes(made.pieces)
    if bool(old) != bool(new):
        return False
    if old and not _cited(entry.pieces, entry.passages) & _cited(made.pieces, made.passages):
        return False
    if old & new:
        return 2 * len(old & new) >= min(len(old), len(new))
    one, other = _words(entry.pieces), _words(made.pieces)
    return len(one & other) >= SAME_SHARE * max(1, len(one | other)) or one == other


def _quotes(pieces: list[Piece]) -> set[str]:
    return {citation.text for piece in pieces for citation in piece.citations}


def _cited(pieces: list[Piece], passages: list[Passage]) -> frozenset[int]:
    numbers = {citation.passage for piece in pieces for citation in piece.citations}
    return chunk_ids([passages[number - 1] for number in numbers])


def _words(pieces: list[Piece]) -> set[str]:
    found = words("".join(piece.text for piece in pieces))
    return {stem(word.text) for word in found if is_content(word.text)}
