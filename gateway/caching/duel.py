"""Which policy keeps more of what is asked: two small copies of a store, one by frequency and one by age, tell.

Each plays the same sample of keys, a fixed one by their digests, in as large a part of the memory. So what they are
compared by is the same questions, and a few hundred of them are enough; whole hit rates before and after a change, as
Caffeine climbs by, are ruled by what was asked meanwhile. Knows keys and sizes only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

ROOM = 192  # entries of a small copy, about
LOOK_EVERY = 64  # sampled questions, after which the leads are looked at and half forgotten
_SURE = 2.0  # standard deviations


class Copy(Protocol):
    """A small store of sizes. ask: whether it was there; it is afterwards, unless refused."""

    def ask(self, key: str, num_bytes: int) -> bool: ...


class ByAge:
    """Plain LRU."""

    def __init__(self, max_bytes: int) -> None:
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._left = max_bytes

    def ask(self, key: str, num_bytes: int) -> bool:
        is_there = key in self._kept
        self._left += self._kept.pop(key, 0) - num_bytes
        self._kept[key] = num_bytes
        while self._left < 0:
            self._left += self._kept.popitem(last=False)[1]
        return is_there


class Duel:
    """one, other: copies that hold 1 of `one_in` keys. leader: 0 or 1, the one that is ahead beyond chance."""

    def __init__(self, one: Copy, other: Copy, one_in: int, leader: int = 0) -> None:
        self._copies, self._one_in, self.leader = (one, other), one_in, leader
        self._ahead = [0.0, 0.0]  # questions that one alone had
        self._num_asked = 0

    def is_sampled(self, drawn: int) -> bool:
        """drawn: from the key, always the same."""
        return drawn % self._one_in == 0

    def ask(self, key: str, num_bytes: int) -> None:
        """A sampled key."""
        one, other = (copy.ask(key, num_bytes) for copy in self._copies)
        if one != other:
            self._ahead[other] += 1
        self._num_asked += 1
        if self._num_asked % LOOK_EVERY == 0:
            self._look()

    def _look(self) -> None:
        lead, count = self._ahead[1] - self._ahead[0], sum(self._ahead)
        if lead**2 > _SURE**2 * count:
            self.leader = int(lead > 0)
        self._ahead = [each / 2 for each in self._ahead]
