"""What `auto` takes: by complexity, budget, load and deadline, each with its reason. Pure: plain numbers in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.tiering.complexity import Complexity

COMPLEX, VERY_COMPLEX = (
    0.5,
    0.8,
)  # share, from which on the best tier that quotes, and the best of all, is wanted
LITTLE_BUDGET = 0.1  # share of the month's tokens, below which the cheapest tier is taken
# How long an answer of a better tier may be waited for before a shorter line is taken (seconds).
PATIENCE_S = {"interactive": 2.0, "standard": 8.0, "batch": 60.0}


class Offer(NamedTuple):
    """A tier that may be taken. eta_s: expected wait for its slot. work_s: of a usual answer; 0 = not known yet."""

    name: str
    is_generative: bool = False
    eta_s: float = 0.0
    work_s: float = 0.0

    @property
    def takes_s(self) -> float:
        return self.eta_s + self.work_s


class Situation(NamedTuple):
    """left_s: until the deadline. budget_left: 0..1 of the month's tokens; 1 = no budget was set."""

    complexity: Complexity
    priority: str = "interactive"
    left_s: float = float("inf")
    budget_left: float = 1.0


class Choice(NamedTuple):
    """code: the reason that decided, as the metric's label. reasons: all that counted, as the receipt tells them."""

    name: str
    code: str
    reasons: list[str]

    def in_words(self) -> str:
        return "auto: " + "; ".join(self.reasons)


def choose(offers: Sequence[Offer], now: Situation) -> Choice:
    """One of the offers, which stand cheapest first (at least one).

    What the question is worth is asked first; then the budget, the wait and the deadline may take it down or aside.
    """
    wanted = _worth(offers, now.complexity.share)
    chosen = Choice(
        offers[wanted].name,
        "complex" if now.complexity.share >= COMPLEX else "simple",
        [now.complexity.why],
    )
    if now.budget_left < LITTLE_BUDGET and wanted > 0:
        wanted = 0
        chosen = _because(chosen, offers[0], "budget", "little of this month's token budget is left")
    other = _shorter_line(offers, wanted, PATIENCE_S[now.priority])
    if other != wanted:
        why = f"{offers[wanted].name} has a wait of {offers[wanted].eta_s:.1f} s"
        wanted, chosen = other, _because(chosen, offers[other], "load", why)
    other = _in_time(offers, wanted, now.left_s)
    if other != wanted:
        why = (
            f"{offers[wanted].name} would take {offers[wanted].takes_s:.1f} s of the {now.left_s:.1f} s left"
        )
        chosen = _because(chosen, offers[other], "deadline", why)
    return chosen


def better(offers: Sequence[Offer], name: str, now: Situation) -> str | None:
    """The tier to go on with when `name` found too little: the next better one that can be had in time and budget."""
    names = [offer.name for offer in offers]
    if name not in names or now.budget_left < LITTLE_BUDGET:
        return None
    for offer in offers[names.index(name) + 1 :]:
        if offer.eta_s <= PATIENCE_S[now.priority] and offer.takes_s <= now.left_s:
            return offer.name
    return None


def _because(choice: Choice, offer: Offer, code: str, why: str) -> Choice:
    return Choice(offer.name, code, [*choice.reasons, why])


def _worth(offers: Sequence[Offer], share: float) -> int:
    if share >= VERY_COMPLEX:
        return len(offers) - 1
    quoting = [index for index, offer in enumerate(offers) if not offer.is_generative] or [0]
    return quoting[-1] if share >= COMPLEX else quoting[0]


def _shorter_line(offers: Sequence[Offer], wanted: int, patience_s: float) -> int:
    """The wanted one where its wait can be borne; else the best of the cheaper ones, else the shortest of these lines.

    Never a dearer one: under load it would add to the work that others wait for.
    """
    if offers[wanted].eta_s <= patience_s:
        return wanted
    cheaper = [index for index in range(wanted) if offers[index].eta_s <= patience_s]
    if cheaper:
        return cheaper[-1]
    return min(range(wanted + 1), key=lambda index: (offers[index].eta_s, index))


def _in_time(offers: Sequence[Offer], wanted: int, left_s: float) -> int:
    """The wanted one where it ends in time or none does; else the best that does."""
    in_time = [index for index, offer in enumerate(offers) if offer.takes_s <= left_s]
    if wanted in in_time or not in_time:
        return wanted
    return max((index for index in in_time if index < wanted), default=in_time[0])
