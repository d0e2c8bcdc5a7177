"""How near is near enough: the lowest similarity at which false hits stay within the operator's budget.

For each topic, answers that were compared are counted by similarity, right or wrong: hits of which a sample was made
anew, and shadows, near answers that were not given, beside the one that was made instead. So what is closed goes on
being looked at, and opens again once enough of it was right; no reader sees a wrong answer for that.

A threshold holds if the upper 95 % bound of the share of wrong ones at or above it is within the budget, and if no step
on the way down to it is surely over the budget by itself. Checks that were made before delivery (perf/cache_pairs.py)
count as the first ones of every topic from PRIOR_SIMILARITY on; below that each step has to show all by itself.
Documents change, so what was counted loses half its weight whenever FADE_AT answers have come together.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

FLOOR = 0.60  # no topic goes below: nearness must say something
_STEP = 0.04
_NUM_BINS = round((1.0 - FLOOR) / _STEP)
NEVER = 2.0  # above all similarities
MAX_TOPICS = 4096
COUNTS_VERSION = (
    1  # of what counts mean: the steps, and the guards and the encoder that they were counted with
)
CONFIDENCE_Z = 1.645  # one-sided 95 %
PRIOR_CHECKS = 1000  # right ones, at and above PRIOR_SIMILARITY
PRIOR_SIMILARITY = 0.80
_FIRST_PRIOR_BIN = round((PRIOR_SIMILARITY - FLOOR) / _STEP)
FADE_AT = 4000  # answers compared in one topic
YOUNG = 50  # answers compared, below which a topic is looked at more closely
_ROUNDING = 1e-9  # 0.80 is no multiple of a step in binary


def upper_bound(num_wrong: float, num_checked: float) -> float:
    """One-sided 95 % bound of a share (Wilson's score interval, exact for none wrong); 1 with nothing checked."""
    if num_checked <= 0:
        return 1.0
    none_wrong = float(1 - 0.05 ** (1 / num_checked))
    return (
        min(1.0, max(none_wrong, _wilson(num_wrong, num_checked, CONFIDENCE_Z))) if num_wrong else none_wrong
    )


def lower_bound(num_wrong: float, num_checked: float) -> float:
    """The other side: the share is hardly less; 0 with nothing checked."""
    return max(0.0, _wilson(num_wrong, num_checked, -CONFIDENCE_Z)) if num_checked > 0 else 0.0


def _wilson(num_wrong: float, num_checked: float, z: float) -> float:
    z2, share = z**2, num_wrong / num_checked
    spread = z * math.sqrt(share * (1 - share) / num_checked + z2 / (4 * num_checked**2))
    return (share + z2 / (2 * num_checked) + spread) / (1 + z2 / num_checked)


class Topic(NamedTuple):
    """What one threshold is learned for. collections: ids, sorted; empty = all."""

    tenant_id: str
    tier: str
    collections: tuple[str, ...] = ()


@dataclass
class Tally:
    """Answers compared since the start, of all topics."""

    num_compared: int = 0
    num_wrong: int = 0

    @property
    def bound(self) -> float:
        """Upper 95 % bound of the share of wrong ones."""
        return upper_bound(self.num_wrong, self.num_compared)

    def add(self, *, was_right: bool) -> None:
        self.num_compared += 1
        self.num_wrong += not was_right


class Learned(NamedTuple):
    """A topic as it stands. threshold: NEVER = only the same question is met. num_compared, num_wrong: faded, all
    similarities; bound: upper 95 %, of what lies at or above the threshold, prior included; where there is none, of
    everything from PRIOR_SIMILARITY on."""

    topic: Topic
    threshold: float
    num_compared: float
    num_wrong: float
    bound: float


@dataclass
class Counts:
    """right, wrong: by similarity, in steps from FLOOR on. prior: what the checks before delivery still count."""

    right: list[float] = field(default_factory=lambda: [0.0] * _NUM_BINS)
    wrong: list[float] = field(default_factory=lambda: [0.0] * _NUM_BINS)
    prior: float = PRIOR_CHECKS

    @property
    def is_sound(self) -> bool:
        """Of what somebody else has written down."""
        numbers = [*self.right, *self.wrong, self.prior]
        return len(self.right) == len(self.wrong) == _NUM_BINS and all(
            math.isfinite(number) and number >= 0 for number in numbers
        )

    def add(self, similarity: float, *, was_right: bool) -> None:
        (self.right if was_right else self.wrong)[_bin(similarity)] += 1
        if self.num_compared >= FADE_AT:
            self.right = [count / 2 for count in self.right]
            self.wrong = [count / 2 for count in self.wrong]
            self.prior /= 2

    @property
    def num_compared(self) -> float:
        return sum(self.right) + sum(self.wrong)

    def bounds(self) -> Iterator[tuple[int, float]]:
        """Each step from the nearest down, with the bound of all from there up."""
        right, wrong = self.prior, 0.0
        for at in reversed(range(_NUM_BINS)):
            right, wrong = right + self.right[at], wrong + self.wrong[at]
            yield at, upper_bound(wrong, right + wrong)

    def is_barred(self, at: int, budget: float) -> bool:
        """Whether a step ends the way down: it is over the budget by itself, or below all that was checked and has
        not shown yet that it is within."""
        wrong, compared = self.wrong[at], self.wrong[at] + self.right[at]
        if at < _FIRST_PRIOR_BIN:
            return upper_bound(wrong, compared) > budget
        return lower_bound(wrong, compared + self.prior / (_NUM_BINS - _FIRST_PRIOR_BIN)) > budget


class Seen(NamedTuple):
    """One answer that was compared."""

    similarity: float
    was_right: bool


class Thresholds:
    """budget: share of hits that may be wrong, 0..1; 0 = no hit by similarity at all.

    Where what is learned is kept beyond this worker, each comparison is also news for who keeps it.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._news: dict[Topic, list[Seen]] | None = None
        self._is_waiting = False
        self.checked, self.shadows = Tally(), Tally()
        self._counts: OrderedDict[Topic, Counts] = OrderedDict()  # looked at longest ago first
        self._learned: dict[Topic, float] = {}
        self.start = self._lowest(Counts())[0]

    def of(self, topic: Topic) -> float:
        return NEVER if self._is_waiting else self._learned.get(topic, self.start)

    def wait_for_kept(self) -> None:
        """No other wording is met until what is kept has been adopted."""
        self._is_waiting, self._news = True, {}

    def take_news(self) -> dict[Topic, list[Seen]]:
        """What was compared since the last time."""
        news, self._news = self._news or {}, {}
        return news

    def put_back(self, news: Mapping[Topic, list[Seen]]) -> None:
        """News that could not be told; those of a topic beyond FADE_AT would count little."""
        mine = self._news = self._news or {}
        for topic, seen in news.items():
            mine[topic] = [*seen, *mine.get(topic, [])][-FADE_AT:]

    def adopt(self, kept: Iterable[tuple[Topic, Counts]]) -> None:
        """What all workers together know of topics, those learned of longest ago first; with our own news on top."""
        for topic, counts in kept:
            for seen in (self._news or {}).get(topic, []):
                counts.add(seen.similarity, was_right=seen.was_right)
            self._take(topic, counts)
        self._is_waiting = False

    def observe(self, topic: Topic, similarity: float, *, was_right: bool, was_given: bool = True) -> None:
        """Take an answer that was compared with the one made for the question itself. was_given: a hit."""
        counts = self._counts.get(topic) or Counts()
        counts.add(similarity, was_right=was_right)
        (self.checked if was_given else self.shadows).add(was_right=was_right)
        self._take(topic, counts)
        if self._news is not None and (topic in self._news or len(self._news) < MAX_TOPICS):
            seen = self._news.setdefault(topic, [])
            seen.append(Seen(similarity, was_right))
            del seen[:-FADE_AT]

    def _take(self, topic: Topic, counts: Counts) -> None:
        self._counts[topic] = counts
        self._counts.move_to_end(topic)
        self._learned[topic] = self._lowest(counts)[0]
        if len(self._counts) > MAX_TOPICS:
            self._forget_one()

    def is_young(self, topic: Topic) -> bool:
        """Whether little more than the checks before delivery speaks for its threshold."""
        counts = self._counts.get(topic)
        return counts is None or counts.num_compared < YOUNG

    @property
    def num_closed(self) -> int:
        """Topics in which no other wording is met."""
        return sum(threshold == NEVER for threshold in self._learned.values())

    @property
    def middle(self) -> float:
        """The median threshold of the topics of which something was learned; the first one before that."""
        return median(self._learned.values()) if self._learned else self.start

    @property
    def num_topics(self) -> int:
        """Of which something was learned."""
        return len(self._learned)

    def topics(self, limit: int) -> list[Learned]:
        """Those learned of last, the latest first."""
        return [self._told(topic) for topic, _ in zip(reversed(self._counts), range(limit), strict=False)]

    def _told(self, topic: Topic) -> Learned:
        counts = self._counts[topic]
        threshold, bound = self._lowest(counts)
        return Learned(topic, threshold, counts.num_compared, sum(counts.wrong), bound)

    def _lowest(self, counts: Counts) -> tuple[float, float]:
        """The threshold and its bound."""
        lowest, bound_there, is_open = NEVER, 1.0, self.budget > 0
        for at, bound in counts.bounds():
            is_open = is_open and not counts.is_barred(at, self.budget)
            if is_open and bound <= self.budget:
                lowest, bound_there = round(FLOOR + at * _STEP, 4), bound
            elif lowest == NEVER and at >= _FIRST_PRIOR_BIN:
                bound_there = bound
        return lowest, bound_there

    def _forget_one(self) -> None:
        """The oldest topic of the tenant that has most, so that one cannot make the others' forgotten."""
        tenant, _ = Counter(topic.tenant_id for topic in self._counts).most_common(1)[0]
        oldest = next(topic for topic in self._counts if topic.tenant_id == tenant)
        del self._counts[oldest], self._learned[oldest]


def _bin(similarity: float) -> int:
    return min(_NUM_BINS - 1, max(0, int((similarity - FLOOR) / _STEP + _ROUNDING)))
