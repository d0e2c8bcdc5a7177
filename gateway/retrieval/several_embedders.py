"""One answer out of several: passages found by embedders whose scores cannot be compared with each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from msgspec.structs import replace

from gateway.retrieval.passages import are_copies
from gateway.types import Passage, Scope

RANK_OFFSET = 60.0  # of reciprocal rank fusion: how little the first places weigh above the next
MAX_REMEMBERED = 4096

_Mark = str | tuple[str, int]


def fuse(answers: Sequence[list[Passage]], k: int) -> list[Passage]:
    """The best k by reciprocal rank; of copies of a text, or passages that share a chunk, the one found first stays.

    rank_score never rises down the list: a passage takes that of the one before it where its own is higher.
    """
    lists = [passages for passages in answers if passages]
    if len(lists) <= 1:
        return lists[0] if lists else []
    first: list[Passage] = []
    weights: list[float] = []
    places: dict[_Mark, int] = {}
    for passages in lists:
        for rank, passage in enumerate(passages):
            marks = _marks(passage)
            known = next((places[mark] for mark in marks if mark in places), None)
            place = _place_of_copy(passage, first) if known is None else known
            if place == len(first):
                first.append(passage)
                weights.append(0.0)
                places |= dict.fromkeys(marks, place)
            weights[place] += 1.0 / (RANK_OFFSET + rank)
    order = sorted(range(len(first)), key=lambda place: (-weights[place], -first[place].rank_score))
    found: list[Passage] = []
    ceiling = 1.0
    for passage in (first[place] for place in order[:k]):
        ceiling = min(ceiling, passage.rank_score)
        found.append(passage if passage.rank_score == ceiling else replace(passage, rank_score=ceiling))
    return found


def _place_of_copy(passage: Passage, among: Sequence[Passage]) -> int:
    """Where another passage says the same; behind the last where none does."""
    return next(
        (place for place, other in enumerate(among) if are_copies(passage.text, other.text)), len(among)
    )


def _marks(passage: Passage) -> list[_Mark]:
    """What two passages that say the same share: the text, or a chunk that is found by two embedders while it moves.

    The texts may differ then: one of them may have been joined with its neighbour.
    """
    chunks = passage.chunk_ids or [passage.chunk_id]
    return [passage.text, *((passage.collection_id, chunk) for chunk in chunks)]


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
