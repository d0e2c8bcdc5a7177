"""Slots that are kept free for light tenants, and who is one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.admission.drain import Slot
from gateway.admission.recall import LIGHT, OVER

RECENT_MS = 30_000  # a tenant that asked within it counts among those who share the slots


@dataclass
class Headroom:
    """share: of the slots, what a heavy tenant leaves free."""

    share: float
    _seen: dict[str, int] = field(default_factory=dict)  # when each tenant asked last

    def slots(self, limit: int) -> int:
        return int(limit * self.share)

    def see(self, tenant: str, limit: int, now_ms: int) -> None:
        if self.slots(limit):
            self._seen[tenant] = now_ms
            self._seen = {name: at for name, at in self._seen.items() if at >= now_ms - RECENT_MS}

    def leaves(self, tenant: str, held: Iterable[Slot], free: int, limit: int) -> bool:
        """Whether one of this tenant may have one of so many free slots."""
        if free > self.slots(limit) or free <= 0 or len(self._seen) < 2:
            return free > 0
        own = sum(slot.tenant == tenant for slot in held)
        return own < max(LIGHT, OVER * limit / len(self._seen))
