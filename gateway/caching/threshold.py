"""How near is near enough: the lowest similarity at which false hits stay within the operator's budget.

For each topic, hits that were checked are counted by similarity, right or wrong. A threshold holds if the upper 95 %
bound of the share of wrong ones at or above it is within the budget. Checks that were made before delivery
(perf/cache_pairs.py) count as the first ones of every topic, so a topic starts with their threshold and moves from it:
a single wrong hit in its first thousand raises it above that hit.
"""

from __future__ import annotations

import math
from collections import OrderedDict

FLOOR = 0.60  # no topic goes below: nearness must say something
_STEP = 0.02
_NUM_BINS = round((1.0 - FLOOR) / _STEP)
NEVER = 2.0  # above all similarities
MAX_TOPICS = 4096
CONFIDENCE_Z = 1.645  # one-sided 95 %
PRIOR_CHECKS = 1000  # right ones, at and above PRIOR_SIMILARITY
PRIOR_SIMILARITY = 0.80


def upper_bound(num_wrong: int, num_checked: int) -> float:
    """One-sided 95 % bound of a share (Wilson's score interval, exact for none wrong); 1 with nothing checked."""
    if num_checked == 0:
        return 1.0
    if num_wrong == 0:
        return float(1 - 0.05 ** (1 / num_checked))
    z2, share = CONFIDENCE_Z**2, num_wrong / num_checked
    spread = CONFIDENCE_Z * math.sqrt(share * (1 - share) / num_checked + z2 / (4 * num_checked**2))
    return min(1.0, (share + z2 / (2 * num_checked) + spread) / (1 + z2 / num_checked))


class Thresholds:
    """budget: share of hits that may be wrong, 0..1; 0 = no hit by similarity at all."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._topics: OrderedDict[str, list[list[int]]] = OrderedDict()  # topic -> bin -> [right, wrong]
        self._learned: dict[str, float] = {}
        self.num_checked = self.num_wrong = 0
        self._start = self._lowest([[0, 0] for _ in range(_NUM_BINS)])

    def of(self, topic: str) -> float:
        return self._learned.get(topic, self._start)

    def observe(self, topic: str, similarity: float, *, was_right: bool) -> None:
        """Take a hit that was checked."""
        bins = self._topics.setdefault(topic, [[0, 0] for _ in range(_NUM_BINS)])
        self._topics.move_to_end(topic)
        bins[_bin(similarity)][not was_right] += 1
        self.num_checked += 1
        self.num_wrong += not was_right
        self._learned[topic] = self._lowest(bins)
        if len(self._topics) > MAX_TOPICS:
            del self._learned[self._topics.popitem(last=False)[0]]

    @property
    def bound(self) -> float:
        """Upper 95 % bound of the share of wrong hits among all checked ones."""
        return upper_bound(self.num_wrong, self.num_checked)

    def _lowest(self, bins: list[list[int]]) -> float:
        if self.budget <= 0:
            return NEVER
        right, wrong, lowest = PRIOR_CHECKS, 0, NEVER
        for at in reversed(range(_NUM_BINS)):
            right, wrong = right + bins[at][0], wrong + bins[at][1]
            edge = FLOOR + at * _STEP
            if upper_bound(wrong, right + wrong) > self.budget:
                break
            if edge >= PRIOR_SIMILARITY - 1e-9 or sum(map(sum, bins[at:])) >= PRIOR_CHECKS:
                lowest = round(edge, 4)
        return lowest


def _bin(similarity: float) -> int:
    return min(_NUM_BINS - 1, max(0, int((similarity - FLOOR) / _STEP)))
