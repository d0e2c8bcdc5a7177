"""The worker's own level: bounded by bytes, one shelf for each tenant, admission by frequency (W-TinyLFU).

New entries pass a small window; what falls out of it takes a place among the kept ones only if it was asked for more
often than the one that would go, so a scan leaves the kept ones alone. Where what is asked moves on and most of it
fits, age alone tells more: then the window is all there is (LRU). A duel of two small copies says which (duel.py). The
largest shelf gives way first, so no tenant can evict another that holds less.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from gateway.caching.duel import ROOM, ByAge, Duel
from gateway.caching.frequency import FrequencySketch

Value = TypeVar("Value")

_WINDOW_SHARE = 0.05
_PROTECTED_SHARE = 0.8  # of the kept ones
_TYPICAL_BYTES = 4096  # of an entry: how many keys the sketch tells apart
_MOVED_AT_ONCE = 32  # entries, as the window grows small again
_MAX_ENTRY_SHARE = 0.05  # of all memory, for one entry


class _Kept(NamedTuple, Generic[Value]):
    value: Value
    num_bytes: int


class Shelf(Generic[Value]):
    """One tenant's entries. max_bytes: of this shelf; dropped: told of every key that goes. is_adaptive: else the
    window is small whatever comes."""

    def __init__(
        self, max_bytes: int, dropped: Callable[[str], None] = lambda _: None, *, is_adaptive: bool = True
    ) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._dropped = dropped
        num_keys = max(64, min(max_bytes // _TYPICAL_BYTES, 1 << 16))
        self._sketch = FrequencySketch(num_keys)
        self._duel = _duel(max_bytes, max(1, num_keys // ROOM)) if is_adaptive else None
        self.is_by_age = False
        self._window, self._probation, self._protected = (OrderedDict[str, _Kept[Value]]() for _ in range(3))
        self._bytes = {id(part): 0 for part in self._parts()}

    def __len__(self) -> int:
        return sum(map(len, self._parts()))

    def __contains__(self, key: str) -> bool:
        return any(key in part for part in self._parts())

    def items(self) -> Iterator[tuple[str, Value]]:
        for part in self._parts():
            yield from ((key, kept.value) for key, kept in part.items())

    def get(self, key: str) -> Value | None:
        drawn = self._sketch.count(key)
        kept = self._use(key)
        if kept is not None and self._duel is not None and self._duel.is_sampled(drawn):
            self._fight(key, kept.num_bytes)
        return None if kept is None else kept.value

    def _use(self, key: str) -> _Kept[Value] | None:
        """The entry, in its new place."""
        if self.is_by_age and key not in self._window:
            for part in (self._probation, self._protected):
                if key in part:
                    self._move(key, part, self._window)
        if key in self._probation:  # asked for twice: it has earned its place
            self._move(key, self._probation, self._protected)
            while self._bytes[id(self._protected)] > self._main_bytes * _PROTECTED_SHARE:
                self._move(next(iter(self._protected)), self._protected, self._probation)
        for part in self._parts():
            if key in part:
                part.move_to_end(key)
                return part[key]
        return None

    def peek(self, key: str) -> Value | None:
        """The value, as if nobody had asked for it."""
        part = next((part for part in self._parts() if key in part), None)
        return None if part is None else part[key].value

    def put(self, key: str, value: Value, num_bytes: int) -> None:
        was_there = False
        for part in self._parts():
            if key in part:
                self._remove(part, key)
                was_there = True
        if not was_there and self._duel is not None and self._duel.is_sampled(self._sketch.drawn(key)):
            self._fight(key, num_bytes)
        self._add(self._window, key, _Kept(value, num_bytes))
        window_bytes = max(self.max_bytes * self._window_share, num_bytes)
        for _ in range(_MOVED_AT_ONCE):
            if self._bytes[id(self._window)] <= window_bytes:
                break
            candidate = next(iter(self._window))
            self._move(candidate, self._window, self._probation)
            self._settle(candidate)
        while self.num_bytes > self.max_bytes:
            self.evict()

    def pop(self, key: str) -> None:
        for part in self._parts():
            if key in part:
                self._remove(part, key)
                self._dropped(key)

    def evict(self) -> None:
        """Let the entry go that is least worth keeping."""
        part = next((part for part in (self._probation, self._protected, self._window) if part), None)
        if part is not None:
            self.pop(next(iter(part)))

    @property
    def _window_share(self) -> float:
        return 1.0 if self.is_by_age else _WINDOW_SHARE

    @property
    def _main_bytes(self) -> float:
        return self.max_bytes * (1 - _WINDOW_SHARE)

    def _fight(self, key: str, num_bytes: int) -> None:
        if self._duel is None:
            return
        self._duel.ask(key, num_bytes)
        if self.is_by_age != bool(self._duel.leader):
            self.is_by_age = bool(self._duel.leader)
            self._sketch.age()  # what was counted is of other times

    def _settle(self, candidate: str) -> None:
        """Where the kept ones are too many, the candidate or the oldest of them goes: the one asked for less."""
        while (
            self._bytes[id(self._probation)] + self._bytes[id(self._protected)] > self._main_bytes
            and candidate in self._probation
        ):
            victim = next(iter(self._probation))
            if victim == candidate and len(self._probation) == 1 and self._protected:
                victim = next(iter(self._protected))
            is_worth_more = self._sketch.estimate(candidate) > self._sketch.estimate(victim)
            self.pop(victim if is_worth_more else candidate)

    def _parts(self) -> tuple[OrderedDict[str, _Kept[Value]], ...]:
        return self._window, self._probation, self._protected

    def _add(self, part: OrderedDict[str, _Kept[Value]], key: str, kept: _Kept[Value]) -> None:
        part[key] = kept
        self._bytes[id(part)] += kept.num_bytes
        self.num_bytes += kept.num_bytes

    def _remove(self, part: OrderedDict[str, _Kept[Value]], key: str) -> _Kept[Value]:
        kept = part.pop(key)
        self._bytes[id(part)] -= kept.num_bytes
        self.num_bytes -= kept.num_bytes
        return kept

    def _move(
        self, key: str, source: OrderedDict[str, _Kept[Value]], target: OrderedDict[str, _Kept[Value]]
    ) -> None:
        self._add(target, key, self._remove(source, key))


class _ByFrequency:
    """A shelf of sizes alone, for the duel."""

    def __init__(self, max_bytes: int) -> None:
        self._shelf = Shelf[bool](max_bytes, is_adaptive=False)

    def ask(self, key: str, num_bytes: int) -> bool:
        if self._shelf.get(key) is not None:
            return True
        self._shelf.put(key, True, num_bytes)
        return False


def _duel(max_bytes: int, one_in: int) -> Duel:
    return Duel(_ByFrequency(max_bytes // one_in), ByAge(max_bytes // one_in), one_in)


class LocalStore(Generic[Value]):
    """max_bytes: of all tenants; tenant_share: of that, for one. dropped: told of each (tenant, key) that goes."""

    def __init__(
        self,
        max_bytes: int,
        tenant_share: float = 1.0,
        dropped: Callable[[str, str], None] = lambda _tenant, _key: None,
    ) -> None:
        self.max_bytes, self._tenant_bytes = max_bytes, int(max_bytes * tenant_share)
        self._dropped = dropped
        self._shelves: dict[str, Shelf[Value]] = {}

    @property
    def num_bytes(self) -> int:
        return sum(shelf.num_bytes for shelf in self._shelves.values())

    def __len__(self) -> int:
        return sum(map(len, self._shelves.values()))

    def holds(self, tenant_id: str, key: str) -> bool:
        """Whether it is there; says nothing of how often it is asked for."""
        shelf = self._shelves.get(tenant_id)
        return shelf is not None and key in shelf

    def get(self, tenant_id: str, key: str) -> Value | None:
        shelf = self._shelves.get(tenant_id)
        return None if shelf is None else shelf.get(key)

    def peek(self, tenant_id: str, key: str) -> Value | None:
        """The value, as if nobody had asked for it."""
        shelf = self._shelves.get(tenant_id)
        return None if shelf is None else shelf.peek(key)

    def put(self, tenant_id: str, key: str, value: Value, num_bytes: int) -> None:
        """Keep it, unless it is too large to be kept beside others."""
        if num_bytes > self.max_bytes * _MAX_ENTRY_SHARE:
            return
        shelf = self._shelves.get(tenant_id)
        if shelf is None:
            shelf = Shelf(self._tenant_bytes, lambda gone: self._dropped(tenant_id, gone))
            self._shelves[tenant_id] = shelf
        shelf.put(key, value, num_bytes)
        while self.num_bytes > self.max_bytes:
            largest = max(self._shelves, key=lambda name: self._shelves[name].num_bytes)
            self._shelves[largest].evict()
            if not len(self._shelves[largest]):
                del self._shelves[largest]

    def pop(self, tenant_id: str, key: str) -> None:
        if tenant_id in self._shelves:
            self._shelves[tenant_id].pop(key)

    def entries(self, tenant_id: str) -> list[tuple[str, Value]]:
        shelf = self._shelves.get(tenant_id)
        return [] if shelf is None else list(shelf.items())
