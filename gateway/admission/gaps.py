"""What those who left a line unserved would have cost, until those of their tenants behind them move up by it.

A tenant is not charged for who leaves. To move all behind it at once would be a walk through the tenant's line for each
that leaves, and thousands may leave one by one. So their places stay as gaps until these have come to a part of the
tenant's backlog: then all move, each by the gaps before it. Until then the tenant's own stand a little too far back,
and nobody else's. `waiting.lua` is the same inside Redis.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate

LEAST_MOVE = 64  # tokens
MOVE_OF_BACKLOG, MOVE_OF_LONG = 1 / 64, 1 / 16
LONG = 2000  # waiters of one tenant
Key = tuple[int, str]  # band, tenant


def is_worth_a_move(tokens: int, backlog: int, part: float = MOVE_OF_BACKLOG) -> bool:
    """Whether a tenant's line of so many tokens is to be rewritten for a difference of its tags: of that part of it."""
    return not backlog or abs(tokens) >= max(LEAST_MOVE, backlog * part)


@dataclass
class Gaps:
    """By tenant and band: scores of those who have left, and what each would have cost (tokens)."""

    _left: dict[Key, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, key: Key, score: int, cost: int) -> None:
        self._left.setdefault(key, []).append((score, cost))

    def are_many(self, key: Key, backlog: int, num_waiting: int) -> bool:
        """Whether those behind them are to move up. backlog: tokens of the tenant's waiters."""
        left = self._left.get(key, [])
        part = MOVE_OF_LONG if num_waiting > LONG else MOVE_OF_BACKLOG
        return len(left) > num_waiting or is_worth_a_move(sum(cost for _, cost in left), backlog, part)

    def shift(self, key: Key, difference: int, least: int) -> None:
        """The tenant's whole line has moved, to this score at the least."""
        left = self._left.get(key)
        if left is not None:
            self._left[key] = [(max(least, score + difference), cost) for score, cost in left]

    def close(self, key: Key) -> Closed:
        left = sorted(self._left.pop(key, ()))
        return Closed([score for score, _ in left], [0, *accumulate(cost for _, cost in left)])


@dataclass
class Closed:
    """Gaps that are no more. sums: of the first so many costs."""

    scores: list[int]
    sums: list[int]

    @property
    def total(self) -> int:
        return self.sums[-1]

    def before(self, score: int) -> int:
        """By how much one of this score moves up."""
        return self.sums[bisect_left(self.scores, score)]
