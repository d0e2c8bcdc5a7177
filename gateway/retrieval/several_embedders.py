"""One answer out of several: passages found by embedders whose scores cannot be compared with each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from msgspec.structs import replace

from gateway.types import Passage, Scope

RANK_OFFSET = 60.0  # of reciprocal rank fusion: how little the first places weigh above the next
MAX_REMEMBERED = 4096


def fuse(answers: Sequence[list[Passage]], k: int) -> list[Passage]:
    """The best k by reciprocal rank; of equal passages the one that was found first stays.

    rank_score never rises down the list: a passage takes that of the one before it where its own is higher.
    """
    lists = [passages for passages in answers if passages]
    if len(lists) <= 1:
        return lists[0] if lists else []
    weights: dict[str, float] = {}
    first: dict[str, Passage] = {}
    for passages in lists:
        for rank, passage in enumerate(passages):
            weights[passage.text] = weights.get(passage.text, 0.0) + 1.0 / (RANK_OFFSET + rank)
            first.setdefault(passage.text, passage)
    order = sorted(first.values(), key=lambda passage: (-weights[passage.text], -passage.rank_score))
    found: list[Passage] = []
    ceiling = 1.0
    for passage in order[:k]:
        ceiling = min(ceiling, passage.rank_score)
        found.append(passage if passage.rank_score == ceiling else replace(passage, rank_score=ceiling))
    return found


class OtherEmbedders:
    """Which embedders, beside the one asked for, a scope needed the last time: what to ask at once the next time."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, ...], tuple[str, ...]] = OrderedDict()

    def expected(self, scope: Scope) -> tuple[str, ...]:
        return self._known.get(_key(scope), ())

    def remember(self, scope: Scope, others: Sequence[str]) -> None:
        self._known.pop(_key(scope), None)
        if others:
            self._known[_key(scope)] = tuple(others)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)


def _key(scope: Scope) -> tuple[object, ...]:
    return scope.tenant_id, tuple(scope.collections), scope.embedder
