"""A crowd before a line, played through on a clock of its own: who is told what, and how long each really waits.

The engine has slots and a pace; what is asked back is given back a moment later and goes on from where it stood.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.admission.line import Ask, FairLine
from gateway.admission.slots import seconds

SLOTS = 16
GAP_MS, PREFILL_MS, GIVES_BACK_MS = 20, 50, 6
LOOK_EVERY_MS = 500
HOLD_MS = PREFILL_MS + 64 * GAP_MS  # of an answer of 64 tokens
GOODPUT = SLOTS / HOLD_MS  # such answers for each millisecond, at most
PATIENCE_MS = 60_000
AT_MOST = 3  # times that one answer is broken off


@dataclass(frozen=True)
class Source:
    """weight: its part of the arrivals, over its tenants together."""

    name: str
    weight: int
    num_tenants: int = 1
    band: int = 0
    tokens: int = 64


@dataclass
class Caller:
    """told_s: the first expected wait, 0 = it had a slot at once. waited_ms: in all. left: tokens to come."""

    at_ms: int
    source: str
    ask: Ask
    left: int
    told_s: float = 0.0
    waited_ms: int = 0
    outcome: str = ""
    since_ms: int = 0  # when its wait, or its hold, began
    held_ms: int = 0
    num_broken: int = 0

    @property
    def is_near(self) -> bool:
        """Within a quarter, or a tenth of a second, which nobody minds: as the load test counts it."""
        waited_s = self.waited_ms / 1000
        return abs(self.told_s - waited_s) <= max(0.1, waited_s / 4)


def arrivals(sources: list[Source], rate: float, until_ms: int, seed: int) -> Iterator[Caller]:
    """rate: callers for each millisecond."""
    draw, at_ms = random.Random(seed), 0.0
    weights = [source.weight for source in sources]
    while (at_ms := at_ms + draw.expovariate(rate)) < until_ms:
        (source,) = draw.choices(sources, weights)
        tenant, cost = f"{source.name}-{draw.randrange(source.num_tenants)}", 60 + 2 * source.tokens
        ask = Ask(tenant, source.band, cost, 0, int(at_ms) + PATIENCE_MS, gives=True)
        yield Caller(int(at_ms), source.name, ask, source.tokens)


@dataclass
class Crowd:
    """line: with as many slots as the engine has. is_stalled: asked with the time, whether nothing ends."""

    line: FairLine
    is_stalled: Callable[[int], bool] = lambda now_ms: False
    now_ms: int = 0
    callers: dict[str, Caller] = field(default_factory=dict)
    _events: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def play(self, callers: Iterator[Caller]) -> list[Caller]:
        """Until all that came are gone."""
        for number, caller in enumerate(callers):
            self.callers[f"{number:06d}"] = caller
        for name, caller in self.callers.items():
            self._at(caller.at_ms, lambda name=name: self._enter(name))  # type: ignore[misc]
        self._at(0, self._look)
        while len(self._events) > 1 or self.line.held or len(self.line):  # the next look is always one
            self.now_ms, _, what = heapq.heappop(self._events)
            what()
            self._hear()
        return list(self.callers.values())

    def _at(self, at_ms: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_ms, next(self._numbers), what))

    def _look(self) -> None:
        self.line.measure(self.now_ms)
        self.line.recall(self.now_ms)
        self.line.rest()
        self._at(self.now_ms + LOOK_EVERY_MS, self._look)

    def _enter(self, name: str) -> None:
        caller = self.callers[name]
        caller.since_ms = self.now_ms
        entered = self.line.enter(name, caller.ask, self.now_ms)
        if entered.status == "granted":
            self._begin(name)
        elif entered.status == "waiting":
            caller.told_s = seconds(entered.eta_ms)
        else:
            caller.outcome = entered.status

    def _begin(self, name: str) -> None:
        caller = self.callers[name]
        caller.waited_ms += self.now_ms - caller.since_ms
        caller.since_ms = self.now_ms
        num_broken = caller.num_broken

        def end() -> None:
            if caller.num_broken != num_broken:
                return
            if self.is_stalled(self.now_ms):
                self._at(self.now_ms + 100, end)
                return
            caller.outcome = "served"
            self.line.release(name, caller.held_ms + self.now_ms - caller.since_ms, self.now_ms)

        self._at(self.now_ms + PREFILL_MS + caller.left * GAP_MS, end)

    def _give_back(self, name: str) -> None:
        caller = self.callers[name]
        if name not in self.line.held or caller.outcome:
            return
        held_ms = self.now_ms - caller.since_ms
        caller.held_ms += held_ms
        caller.left -= min(caller.left - 1, max(0, held_ms - PREFILL_MS) // GAP_MS)
        caller.since_ms, caller.num_broken = self.now_ms, caller.num_broken + 1
        gives = caller.num_broken < AT_MOST
        ask = caller.ask._replace(cost=0, until_ms=10**12, gives=gives, before_ms=caller.held_ms)
        if self.line.give_back(name, ask, self.now_ms).status == "granted":
            self._begin(name)

    def _hear(self) -> None:
        moves = self.line.moves()
        for name in moves.granted:
            self._begin(name)
        for name in moves.displaced:
            self.callers[name].outcome = "displaced"
        for name in moves.recalled:
            self._at(self.now_ms + GIVES_BACK_MS, lambda name=name: self._give_back(name))  # type: ignore[misc]


def share_near(callers: list[Caller], source: str = "", *, of_ms: tuple[int, int]) -> float:
    """Of those who came within a time and were told a wait, that of whom it was right. Raises: where that is nobody."""
    told = [
        caller.is_near
        for caller in callers
        if caller.told_s and caller.outcome == "served" and caller.source.startswith(source)
        and of_ms[0] <= caller.at_ms < of_ms[1]
    ]  # fmt: skip
    return sum(told) / len(told)
