"""Was a hit by similarity right? A sample is answered anew, when nobody waits, and the two answers are compared."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.caching.entry import Entry, Piece, chunk_ids
from gateway.caching.threshold import Thresholds
from gateway.errors import TidegateError
from gateway.language.terms import is_content, stem, words
from gateway.metrics import Metrics
from gateway.pipeline.request import Sink
from gateway.types import Citation, Passage

log = logging.getLogger("tidegate.cache")

CHECKED_SHARE = 0.05  # of the hits by similarity
SAME_SHARE = 0.5  # of quotes, or of words, that two answers must have in common

Anew = Callable[[Sink], Awaitable[None]]


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


class HitChecks:
    """One at a time. chance: uniform in 0..1."""

    def __init__(self, thresholds: Thresholds, metrics: Metrics, chance: Callable[[], float]) -> None:
        self._thresholds, self._metrics, self._chance = thresholds, metrics, chance
        self.tasks: set[asyncio.Task[None]] = set()

    def is_due(self) -> bool:
        return not self.tasks and self._chance() < CHECKED_SHARE

    def start(self, scope: str, similarity: float, entry: Entry, anew: Anew) -> None:
        """anew: makes the answer that the question would have got without the hit."""
        task = asyncio.get_running_loop().create_task(self._check(scope, similarity, entry, anew))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _check(self, scope: str, similarity: float, entry: Entry, anew: Anew) -> None:
        kept = KeptAnswer()
        try:
            await anew(kept)
        except TidegateError as error:
            log.debug("a hit was not checked: %s", error)
            return
        was_right = is_same_answer(entry, kept)
        self._thresholds.observe(scope, similarity, was_right=was_right)
        self._metrics.cache_checked.labels("right" if was_right else "wrong").inc()
        if not was_right:
            log.warning("an answer was wrong for another wording, at similarity %.3f", similarity)


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
