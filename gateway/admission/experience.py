"""What requests really cost beside what was guessed, remembered by tier and tenant. Pure; of one worker.

A guess counts the longest answer that the request allows. A queue that charged that much would hand the difference back
only at the end, and meanwhile every place in it would be measured by a cost that nobody has.
"""

from __future__ import annotations

from collections import OrderedDict

_NEWEST_SHARE = 0.1
_FEW = 5  # requests of a tenant before its own experience counts for more than the tier's
_BOUNDS = (0.02, 4.0)  # of real / guessed


class Experience:
    """max_tenants: whose are remembered, at each tier together; the ones longest not seen go first."""

    def __init__(self, max_tenants: int = 10_000) -> None:
        self._max_tenants = max_tenants
        self._tiers: dict[str, float] = {}
        self._tenants: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def expected(self, tier: str, tenant: str, guessed: int) -> int:
        """Tokens that a request for which so many were guessed will likely cost."""
        ratio = self._tiers.get(tier, 1.0)
        own, count = self._tenants.get((tier, tenant), (ratio, 0))
        weight = count / (count + _FEW)
        return max(1, round(guessed * (weight * own + (1 - weight) * ratio)))

    def note(self, tier: str, tenant: str, guessed: int, real: int) -> None:
        """guessed: what `expected` was asked about."""
        low, high = _BOUNDS
        ratio = min(high, max(low, real / max(1, guessed)))
        self._tiers[tier] = _moved(self._tiers.get(tier), ratio)
        key = (tier, tenant)
        own, count = self._tenants.pop(key, (None, 0))
        self._tenants[key] = _moved(own, ratio), count + 1
        if len(self._tenants) > self._max_tenants:
            self._tenants.popitem(last=False)


def _moved(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + _NEWEST_SHARE * (newest - mean)
