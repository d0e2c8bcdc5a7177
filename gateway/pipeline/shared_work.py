"""The steps of an answer that several requests may read, and what each of them writes into its own receipt."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.caching.flight import Flight, Reader
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
    """used: up to the text before this one."""

    text: str
    citations: list[Citation]
    passages: list[Passage]
    used: Usage


Step = Chosen | Told | Waiting | Sent


@dataclass(eq=False)
class SharedWork:
    """One answer under way. made: its receipt, written as it goes."""

    made: Receipt
    flight: Flight[Step] = field(default_factory=Flight)

    # The pipeline's Sink: what it is told goes into the log.

    def chosen(self, tier: str) -> None:
        self.flight.put(Chosen(tier))

    async def stage(self, name: str) -> None:
        self.flight.put(Told(name))

    def waiting(self, position: int, eta_s: float) -> None:
        self.flight.put(Waiting(position, eta_s))

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        self.flight.put(Sent(text, citations, passages, self.made.usage))
        await self.flight.drain()

    def used_by(self, reader: Reader[Step]) -> Usage:
        """Of what a reader has taken."""
        unread = (step.used for step in self.flight.log[reader.at :] if isinstance(step, Sent))
        return next(unread, self.made.usage)


def take_over(receipt: Receipt, made: Receipt) -> None:
    """Everything of the shared work's receipt that is not the request's own."""
    for name in ("tier", "tier_reason", "stage", "embed_ms", "search_ms", "queue_ms", "finish_reason", "hops",
                 "unsupported_citations", "cache", "cache_similarity", "cache_agreement", "cache_age_s"):  # fmt: skip
        setattr(receipt, name, getattr(made, name))
    receipt.degraded = list(made.degraded)
    receipt.passages = [dict(passage) for passage in made.passages]
