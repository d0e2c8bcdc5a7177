"""The ladder: what is given up under pressure, step by step, and taken back with patience. Pure; time is an argument.

    fewer_passages   half of the tier's passages, and no second hop
    no_rerank        passages in the search's own order
    smaller_tier     `auto` takes the cheapest tier that quotes
    shorter_answers  one sentence of a quoting tier, SHORT_TOKENS of one that writes
    cached_neighbour a tier that writes gives its remembered answer to a similar question, labelled as such
    extractive_only  what is asked of a tier that writes is quoted instead
    refuse           503 with the wait as Retry-After

A step is never taken in secret: the receipt names each one that changed its answer.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from gateway.errors import InvalidRequest

SHORT_TOKENS = 128  # of an answer that is written under `shorter_answers`


class Step(enum.StrEnum):
    """In the order in which they are taken. The order of the floor, too."""

    FEWER_PASSAGES = "fewer_passages"
    NO_RERANK = "no_rerank"
    SMALLER_TIER = "smaller_tier"
    SHORTER_ANSWERS = "shorter_answers"
    CACHED_NEIGHBOUR = "cached_neighbour"
    EXTRACTIVE_ONLY = "extractive_only"
    REFUSE = "refuse"


STEPS = tuple(Step)
NO_STEP = "none"  # a floor: nothing is ever given up
FLOORS = ("", NO_STEP, *STEPS)


class Rule(NamedTuple):
    """When steps are taken. enter: pressure from which on each step is; left again below leave_share of it.

    rise_s: least time between two steps taken. fall_s: calm that is needed for each one taken back. Seconds.
    """

    enter: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4, 1.7, 2.0, 4.0)
    leave_share: float = 0.6
    rise_s: float = 0.25
    fall_s: float = 5.0


USUAL = Rule()


class Ladder:
    """How far down one line of requests has gone. level: how many of STEPS are in force."""

    def __init__(self, rule: Rule = USUAL) -> None:
        self._rule = rule
        self.level = 0
        self.pressure = 0.0
        self._taken_at = float("-inf")
        self._calm_since: float | None = None

    def update(self, pressure: float, now: float) -> int:
        """Take a reading and return the level. pressure: 1.0 = as much as is promised to be borne. now: seconds.

        Holds: the level changes by one at most; it falls only after fall_s without a reading that would keep it.
        """
        self.pressure = pressure
        rule = self._rule
        due = sum(pressure >= enter for enter in rule.enter)
        kept = sum(pressure >= enter * rule.leave_share for enter in rule.enter)
        if kept >= self.level:
            self._calm_since = None
        if due > self.level and now - self._taken_at >= rule.rise_s:
            self.level += 1
            self._taken_at = now
        elif kept < self.level:
            if self._calm_since is None:
                self._calm_since = now
            if now - self._calm_since >= rule.fall_s:
                self.level -= 1
                self._calm_since = now
        return self.level


class Orders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator wants, whatever the pressure: steps that are in force, and steps that are never taken."""

    pinned: list[Step] = []
    forbidden: list[Step] = []

    def checked(self) -> Orders:
        """In the ladder's order, each once. Raises: InvalidRequest for a step that is in both lists."""
        both = [step for step in STEPS if step in self.pinned and step in self.forbidden]
        if both:
            raise InvalidRequest(
                f"The step {both[0].value!r} is both pinned and forbidden.",
                code="invalid_value",
                param="forbidden",
            )
        return Orders(
            [step for step in STEPS if step in self.pinned],
            [step for step in STEPS if step in self.forbidden],
        )


def in_force(level: int, orders: Orders, floor: str = "") -> list[Step]:
    """The steps for one request, in order. floor: the last step that its tenant may be taken down to; "" = any.

    The floor is a promise to the tenant: it also holds against what is pinned.
    """
    steps: Iterable[Step] = STEPS
    if floor:
        steps = STEPS[: FLOORS.index(floor) - 1]
    return [
        step
        for step in steps
        if step not in orders.forbidden and (step in orders.pinned or STEPS.index(step) < level)
    ]
