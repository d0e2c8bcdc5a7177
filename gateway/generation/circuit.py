"""A circuit breaker: leaves a server alone that fails, and tries it again now and then. Pure; time is an argument.

    closed ── enough failures ──► open ── cool_down_s over ──► half open ── one good try ──► closed
                                   ▲                               │
                                   └──── it fails: twice as long ──┘

Times are seconds on one monotonic clock. Knows nothing of what is tried.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]
MAX_TRIES = 256  # the newest ones that are judged; more would only make it slower to notice


@dataclass(frozen=True)
class Rule:
    """Opens at min_failures within window_s, if these are at least failure_share of the tries that ended in it.

    cool_down_s: how long it then stays open; doubled with each failed try after it, up to max_cool_down_s.
    """

    min_failures: int = 5
    failure_share: float = 0.5
    window_s: float = 30.0
    cool_down_s: float = 5.0
    max_cool_down_s: float = 60.0


class Circuit:
    """Every try that `enter` lets in must be told of: `succeeded` as soon as it is, `failed` (also after that, when a
    stream breaks off), `left` in any other case. What comes after the first two in `left` changes nothing.
    """

    def __init__(self, rule: Rule | None = None) -> None:
        self._rule = rule or Rule()
        self._ended: deque[tuple[float, bool]] = deque(maxlen=MAX_TRIES)  # when, and whether it failed
        self._open_until: float | None = None  # None = closed
        self._cool_down_s = self._rule.cool_down_s
        self._probing: int | None = None  # the try that is to show whether it works again
        self._num_tries = 0

    def state(self, now: float) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half_open"

    def wait_s(self, now: float) -> float:
        """How long until a try is let in; 0 = now. While somebody else's try is out: a guess, not a promise."""
        if self._open_until is None:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        return 0.0 if self._probing is None else 1.0

    def enter(self, now: float) -> int | None:
        """The number of a try that may be made now; None = leave it."""
        if self.wait_s(now) > 0:
            return None
        self._num_tries += 1
        if self._open_until is not None:
            self._probing = self._num_tries
        return self._num_tries

    def succeeded(self, number: int, now: float) -> None:
        if number == self._probing:
            self._probing, self._open_until, self._cool_down_s = None, None, self._rule.cool_down_s
            self._ended.clear()
        if self._open_until is None:  # an old try that still got through says nothing of now
            self._ended.append((now, False))

    def failed(self, number: int, now: float) -> None:
        if number == self._probing:
            self._probing = None
            self._cool_down_s = min(self._cool_down_s * 2, self._rule.max_cool_down_s)
            self._open_until = now + self._cool_down_s
        elif self._open_until is None:
            self._ended.append((now, True))
            if self._is_too_much(now):
                self._open_until = now + self._cool_down_s

    def left(self, number: int) -> None:
        """It ended without showing anything: its client left, or the request itself was at fault."""
        if number == self._probing:
            self._probing = None

    def _is_too_much(self, now: float) -> bool:
        while self._ended and self._ended[0][0] < now - self._rule.window_s:
            self._ended.popleft()
        num_failed = sum(failed for _, failed in self._ended)
        return num_failed >= max(self._rule.min_failures, self._rule.failure_share * len(self._ended))
