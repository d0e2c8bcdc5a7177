"""Slots that follow the engine: fewer when first tokens come late, more when they do not. `Limit` is the pure maths.

The signal is the time to the first token less what reading the prompt takes on an idle engine. Total latency would say
nothing: it is how many tokens were written.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.admission.waiting import Queue

LATE_S = 0.25  # beyond the expected time to the first token, from which the engine counts as crowded
BACK_OFF = 0.9
IDLE_SHARE = 0.25  # of the slots in use at most, for a measurement of the idle engine; one always may be
FULL_SHARE = 0.8  # of the slots in use at least, for more of them to be any use
_NEWEST_SHARE = 0.1


@dataclass
class Limit:
    """Additive increase, multiplicative decrease. ceiling: what the replicas have; floor: never fewer."""

    ceiling: int
    floor: int = 1
    value: float = 0.0

    def __post_init__(self) -> None:
        self.value = self.value or float(self.ceiling)

    @property
    def slots(self) -> int:
        return max(self.floor, min(self.ceiling, int(self.value)))

    def observe(self, late_s: float, *, used: int) -> None:
        """late_s: of one first token, beyond what was expected. used: slots in use at that time."""
        if late_s > LATE_S:
            # One decrease for each round of requests, not for each of them.
            self.value = max(float(self.floor), self.value - (1 - BACK_OFF) * self.value / max(used, 1))
        elif used >= FULL_SHARE * self.slots:
            self.value = min(float(self.ceiling), self.value + 1 / max(self.value, 1.0))

    def resize(self, ceiling: int) -> None:
        """Replicas came or went: each keeps what it was found to bear."""
        self.value = self.value * ceiling / max(self.ceiling, 1)
        self.ceiling = ceiling


@dataclass
class Prefill:
    """What reading a prompt takes on an idle engine: seconds for each token, learned."""

    s_per_token: float = -1.0

    def learn(self, ttft_s: float, num_tokens: int) -> None:
        found = ttft_s / max(num_tokens, 1)
        known = self.s_per_token
        self.s_per_token = found if known < 0 else known + _NEWEST_SHARE * (found - known)

    def late_s(self, ttft_s: float, num_tokens: int) -> float:
        """Beyond the expected; 0 before anything was learned."""
        return 0.0 if self.s_per_token < 0 else ttft_s - self.s_per_token * num_tokens


class AdaptiveSlots:
    """The controller of one tier: enforces a Limit on its queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.limit = Limit(queue.limit)
        self._told = queue.limit  # which is that of all workers; each has its own share in it
        self._prefill = Prefill()

    def observe(self, ttft_s: float, num_tokens: int) -> None:
        """ttft_s: from the slot to the first token. num_tokens: of the prompt."""
        used = self._queue.inflight
        if used <= max(1, IDLE_SHARE * self.limit.slots):
            self._prefill.learn(ttft_s, num_tokens)
        self.limit.observe(self._prefill.late_s(ttft_s, num_tokens), used=used)
        self._enforce()

    def resize(self, ceiling: int) -> None:
        """As the replicas are; the limit moves below it."""
        self.limit.resize(ceiling)
        self._enforce()

    def _enforce(self) -> None:
        if self._told != self.limit.slots:
            self._told = self.limit.slots
            self._queue.resize(self._told)
