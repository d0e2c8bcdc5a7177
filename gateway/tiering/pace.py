"""How long a tier's answers usually take, learned from those that ended. Pure."""

from __future__ import annotations

NEWEST_SHARE = 0.1  # what the newest answer counts in the mean


class Pace:
    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}

    def learn(self, tier: str, seconds: float) -> None:
        """seconds: from arrival to the end, without the wait for a slot."""
        mean_s = self._mean_s.get(tier, seconds)
        self._mean_s[tier] = mean_s + NEWEST_SHARE * (seconds - mean_s)

    def work_s(self, tier: str) -> float:
        """0 before the first answer."""
        return self._mean_s.get(tier, 0.0)
