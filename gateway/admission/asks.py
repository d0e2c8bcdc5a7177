"""What the line in front of a tier's slots is asked, and what it says. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

BANDS = ("interactive", "standard", "batch")
BAND_STEP = 2**50  # tags are tokens; three bands of them fit the 53 bits of a sorted set's score

# full: no place is left; large: none of that size is.
Status = Literal["granted", "waiting", "full", "large", "too_long", "infeasible"]


class Ask(NamedTuple):
    """One request for a slot. cost: tokens. size: bytes that the wait keeps in memory. until_ms: leaves the line then.

    finish_ms: the caller's own deadline for the answer, 0 = none. tag: that of a ticket, -1 = none. gives: whether its
    answer can be broken off. before_ms: how long it had a slot until that happened, -1 = it did not. has_waited: in a
    line that is no more; it was told to wait, so neither a full line nor a long one refuses it now.
    """

    tenant: str
    band: int
    cost: int
    size: int
    until_ms: int
    finish_ms: int = 0
    tag: int = -1
    gives: bool = False
    before_ms: int = -1
    has_waited: bool = False


class Entered(NamedTuple):
    """position: 1-based place in line, 0 with a slot. eta_ms: expected wait, -1 before anything was measured.

    tag: its place; for one that was refused, the place that a ticket would keep.
    """

    status: Status
    position: int
    eta_ms: float
    tag: int


class Moves(NamedTuple):
    """Whose wait has ended: with a slot, or as somebody else took the place, with the tag that it had. recalled: slots
    that are asked back."""

    granted: list[str]
    displaced: dict[str, int]
    recalled: list[str]


@dataclass
class Entry:
    ask: Ask
    score: int

    @property
    def key(self) -> tuple[int, str]:
        return self.ask.band, self.ask.tenant

    @property
    def tag(self) -> int:
        return self.score - self.ask.band * BAND_STEP
