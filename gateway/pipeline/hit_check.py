"""Was another wording's answer right? It is compared with the one that the question itself gets.

A sample of hits is answered anew, when nobody waits; shadows are compared with what was made in their place anyway.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.caching.entry import Entry, Piece, chunk_ids
from gateway.caching.threshold import Thresholds, Topic
from gateway.caching.wording import NEGATIONS
from gateway.errors import TidegateError
from gateway.language.question import read
from gateway.language.terms import is_content, stem, words
from gateway.metrics import Metrics
from gateway.pipeline.request import Sink
from gateway.types import Citation, Passage, Receipt

log = logging.getLogger("tidegate.cache")

CHECKED_SHARE = 0.05  # of the hits by similarity
YOUNG_SHARE = 0.2  # of the first ones of a topic
CHECKED_AFTER_S = 0.02  # the hit itself is sent first, and its slot is back by then
SAME_SHARE = 0.5  # of quotes, or of words, that two answers must have in common

RIGHT, WRONG, UNCLEAR = "right", "wrong", "unclear"
_MARK = re.compile(r"\[\d+\]")

Anew = Callable[[Sink], Awaitable[None]]


class Told(Protocol):
    """An answer as it was given."""

    @property
    def question(self) -> str: ...

    @property
    def pieces(self) -> list[Piece]: ...

    @property
    def passages(self) -> list[Passage]: ...

    @property
    def tier(self) -> str: ...

    @property
    def finish_reason(self) -> str: ...


class KeptAnswer:
    """A sink that only keeps what it is sent; the rest is in the receipt of the work."""

    def __init__(self, question: str, receipt: Receipt) -> None:
        self.question, self.receipt = question, receipt
        self.pieces: list[Piece] = []
        self.passages: list[Passage] = []

    @property
    def tier(self) -> str:
        return self.receipt.tier

    @property
    def finish_reason(self) -> str:
        return self.receipt.finish_reason

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
    """Hits are made anew one at a time. chance: uniform in 0..1."""

    def __init__(self, thresholds: Thresholds, metrics: Metrics, chance: Callable[[], float]) -> None:
        self._thresholds, self._metrics, self._chance = thresholds, metrics, chance
        self.tasks: set[asyncio.Task[None]] = set()

    def is_due(self, topic: Topic) -> bool:
        share = YOUNG_SHARE if self._thresholds.is_young(topic) else CHECKED_SHARE
        return not self.tasks and self._chance() < share

    def start(
        self,
        topic: Topic,
        similarity: float,
        given: Entry,
        kept: KeptAnswer,
        anew: Anew,
        *,
        is_idle: Callable[[], bool],
    ) -> None:
        """anew: makes the answer that the question would have got without the hit, into `kept`. is_idle: whether its
        tier can do that without keeping anybody waiting; asked when the check begins, and else there is none."""

        async def check() -> None:
            await asyncio.sleep(CHECKED_AFTER_S)
            if is_idle():
                await self._check(topic, similarity, given, kept, anew)

        task = asyncio.get_running_loop().create_task(check())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _check(
        self, topic: Topic, similarity: float, given: Entry, kept: KeptAnswer, anew: Anew
    ) -> None:
        try:
            await anew(kept)
        except TidegateError as error:
            log.debug("a hit was not checked: %s", error)
            return
        except Exception:
            log.exception("a hit was not checked")
            return
        result = judged(given, kept)
        self._metrics.cache_checked.labels(result).inc()
        if result != UNCLEAR:
            self._thresholds.observe(topic, similarity, was_right=result == RIGHT)
        if result == WRONG:
            log.warning("an answer was wrong for another wording, at similarity %.3f", similarity)

    def take_shadow(self, topic: Topic, similarity: float, entry: Entry, made: Entry) -> None:
        """entry: a near question's answer that was not given; made: the one that was."""
        result = judged(entry, made)
        self._metrics.cache_shadows.labels(result).inc()
        if result != UNCLEAR:
            self._thresholds.observe(topic, similarity, was_right=result == RIGHT, was_given=False)


def judged(given: Told, made: Told) -> str:
    """Whether another wording's answer says in substance what the question's own one says: right, wrong or unclear.

    Unclear where another tier made it, where the corpus has changed between the two, and where one of them refuses
    though the questions differ in nothing but their politeness: that is a reader in doubt, not another question. Two
    refusals agree, whatever sections they name. Else both have to quote a passage in common, and to say the same: what
    one of them quotes first is quoted by the other, or half of the quotes are; or they agree by their words.
    """
    if made.tier != given.tier or not _cited(given) <= chunk_ids(made.passages):
        return UNCLEAR
    if _refuses(given) and _refuses(made):
        return RIGHT
    if _refuses(given) or _refuses(made):
        return UNCLEAR if _asks_the_very_same(given.question, made.question) else WRONG
    if bool(_quotes(given)) != bool(_quotes(made)) or (_quotes(given) and not _cited(given) & _cited(made)):
        return WRONG
    return RIGHT if _quotes_agree(given, made) or _words_agree(given, made) else WRONG


def _refuses(told: Told) -> bool:
    return told.finish_reason == "no_answer"


def _asks_the_very_same(one: str, other: str) -> bool:
    """Word for word, but for what is put around a question."""
    return _plain(read(one).text).lower() == _plain(read(other).text).lower()


def _quotes_agree(one: Told, other: Told) -> bool:
    """Of answers that are nothing but quotes; the first one is the one that answers best."""
    if not (_is_quoted(one) and _is_quoted(other)):
        return False
    old, new = _quotes(one), _quotes(other)
    if not old or not new:
        return False
    return old[0] in new or new[0] in old or 2 * len({*old} & {*new}) >= min(len({*old}), len({*new}))


def _words_agree(one: Told, other: Told) -> bool:
    """Half of the words that say something in common; no number that only the one and another that only the other
    has; both with a `not` or both without."""
    old, new = _said(one), _said(other)
    numbers, others = ({word for word in said if word[0].isdigit()} for said in (old, new))
    if not (numbers <= others or others <= numbers) or bool(old & NEGATIONS) != bool(new & NEGATIONS):
        return False
    meant, also_meant = ({stem(word) for word in said if is_content(word)} for said in (old, new))
    return len(meant & also_meant) >= SAME_SHARE * len(meant | also_meant)


def _said(told: Told) -> set[str]:
    """The words of the answer, without its marks."""
    text = _MARK.sub(" ", "".join(piece.text for piece in told.pieces)).replace("n't", " not")
    return {word.text.lower() for word in words(text)}


def _quotes(told: Told) -> list[str]:
    return [citation.text for piece in told.pieces for citation in piece.citations]


def _is_quoted(told: Told) -> bool:
    """Whether each piece is what it cites, word for word, but for our own words before it and the mark."""
    return all(
        len(piece.citations) == 1 and _plain(piece.citations[0].text) in _plain(piece.text)
        for piece in told.pieces
    )


def _plain(text: str) -> str:
    return " ".join(word.text for word in words(text))


def _cited(told: Told) -> frozenset[int]:
    numbers = {citation.passage for piece in told.pieces for citation in piece.citations}
    return chunk_ids([told.passages[number - 1] for number in numbers])
