"""The steps of an answer that several requests may read, and what each of them writes into its own receipt."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.caching.flight import Flight, Reader
from gateway.errors import UpstreamUnavailable
from gateway.shown import SharedPassages
from gateway.types import Citation, Passage, Receipt, Usage


@dataclass(frozen=True)
class Chosen:
    tier: str


@dataclass(frozen=True)
class Told:
    stage: str


@dataclass(frozen=True)
class Waiting:
    position: int
    eta_s: float


@dataclass(frozen=True)
class Sent:
    """used: up to the text before this one. cache: what the memory has said of the work."""

    text: str
    citations: list[Citation]
    passages: list[Passage]
    used: Usage
    cache: str = "miss"


Step = Chosen | Told | Waiting | Sent
BROKE_OFF = "The answer broke off, and came out differently when it was made anew."


@dataclass(eq=False)
class SharedWork:
    """One answer under way. made: its receipt, written as it goes. is_anothers: it is made in another worker."""

    made: Receipt
    flight: Flight[Step] = field(default_factory=Flight)
    is_anothers: bool = False
    was_begun_again: bool = False
    _told: str = ""  # what was sent already and comes once more
    _num_told: int = 0  # citations in it

    # The pipeline's Sink: what it is told goes into the log.

    def chosen(self, tier: str) -> None:
        self.flight.put(Chosen(tier))

    async def stage(self, name: str) -> None:
        self.flight.put(Told(name))

    def waiting(self, position: int, eta_s: float) -> None:
        self.flight.put(Waiting(position, eta_s))

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        """Raises: UpstreamUnavailable where work that was begun again says something else than before."""
        if self._told:
            text, citations = self._unsent(text, citations)
            if not text:
                return
        self.flight.put(Sent(text, citations, passages, self.made.usage, self.made.cache))
        await self.flight.drain()

    async def take(self, step: Step) -> None:
        """A step of the same answer, from where it is made."""
        if isinstance(step, Sent):
            self.made.usage, self.made.cache = step.used, step.cache
            await self.delta(step.text, step.citations, step.passages)
        else:
            self.flight.put(step)

    def begin_again(self) -> None:
        """Who made it is gone; what comes now starts from the beginning, and what was sent is not sent twice."""
        sent = [step for step in self.flight.log if isinstance(step, Sent)]
        self.was_begun_again = bool(sent)
        self._told = "".join(step.text for step in sent)
        self._num_told = sum(len(step.citations) for step in sent)
        made = self.made
        self.made = Receipt(id=made.id, created=made.created, outcome=made.outcome, stage=made.stage)
        self.made.tier, self.made.tier_reason = made.tier, made.tier_reason
        self.made.degraded, self.made.cache, self.made.trace_id = (
            list(made.degraded),
            made.cache,
            made.trace_id,
        )

    @property
    def has_sent(self) -> bool:
        return any(isinstance(step, Sent) for step in self.flight.log)

    def check_whole(self) -> None:
        """At the end of the work. Raises: UpstreamUnavailable where less was said than had been sent before."""
        if self._told:
            raise UpstreamUnavailable(BROKE_OFF)

    def used_by(self, reader: Reader[Step]) -> Usage:
        """Of what a reader has taken."""
        unread = (step.used for step in self.flight.log[reader.at :] if isinstance(step, Sent))
        return next(unread, self.made.usage)

    def _unsent(self, text: str, citations: list[Citation]) -> tuple[str, list[Citation]]:
        same = min(len(text), len(self._told))
        if text[:same] != self._told[:same]:
            raise UpstreamUnavailable(BROKE_OFF)
        self._told = self._told[same:]
        known = min(self._num_told, len(citations))
        self._num_told -= known
        return text[same:], citations[known:]


def take_over(receipt: Receipt, made: Receipt) -> None:
    """Everything of the shared work's receipt that is not the request's own."""
    for name in ("tier", "tier_reason", "stage", "embed_ms", "search_ms", "queue_ms", "finish_reason", "hops",
                 "version", "unsupported_citations", "cache", "cache_similarity", "cache_agreement",
                 "cache_age_s"):  # fmt: skip
        setattr(receipt, name, getattr(made, name))
    receipt.degraded = list(made.degraded)
    is_shared = isinstance(made.passages, SharedPassages)
    receipt.passages = made.passages if is_shared else [dict(passage) for passage in made.passages]
