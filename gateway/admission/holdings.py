"""The slots that a worker's requests have in the one queue of all workers, and what goes back to it.

**Early slots.** Whoever asks for a slot hears of it within milliseconds. Where it hears nothing for
`queue_store.LATE_S`, the tier had free slots when last heard of, and this worker's own share has one, it takes that:
under the name by which it asked, so when Redis turns out to have been slow, its "granted" means the same slot. Any
other reply is answered by telling Redis what is held. Such a slot goes back only after the reply: Redis must not hear
of its end before its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from gateway.admission.slots import SlotQueue
from gateway.admission.waiting import Claim, Permit


class Row(NamedTuple):
    """A slot or a place that goes back. held_ms: -1 = it was not used. difference: of cost, in tokens."""

    name: str
    held_ms: float
    tenant: str
    band: int
    difference: int


class Holdings:
    """own: this worker's share, which counts all that its requests have. on_row: called when something goes back.
    on_free: called when a slot is free here. clock: monotonic seconds.
    """

    def __init__(
        self,
        own: SlotQueue,
        *,
        on_row: Callable[[], object],
        on_free: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own, self._on_row, self._on_free, self._clock = own, on_row, on_free, clock
        self.names: set[str] = set()
        self.permits: dict[str, Permit] = {}  # those whose slots may be asked back
        self.returned: list[Row] = []
        self._early: dict[str, list[Row]] = {}  # what goes back after the reply, by name

    def permit(self, name: str, claim: Claim, band: int) -> Permit:
        self.names.add(name)
        self._own.hold(name, band, claim.tenant)

        def release(difference: int) -> None:
            self.permits.pop(name, None)
            self._own.drop(name)
            self.give_back(Row(name, permit.held_ms, claim.tenant, band, difference))

        permit = Permit(release, name=name, before_ms=claim.before_ms, clock=self._clock)
        if claim.gives:
            self.permits[name] = permit
        return permit

    def is_early(self, name: str) -> bool:
        """Whether it has a slot, or had one, and the reply to it is still to come."""
        return name in self._early

    def take_early(self, name: str, band: int, tenant: str) -> bool:
        """Whether it has a slot of this worker's own share now."""
        if not self._own.has_room(tenant):
            return False
        self._early[name] = []
        self.names.add(name)
        self._own.hold(name, band, tenant)
        return True

    def end_early(self, name: str) -> None:
        """Its reply is here, or will not come."""
        for row in self._early.pop(name):
            self._put_back(row)

    def leave(self, row: Row) -> None:
        """Of a place; or of an early slot that came in the instant in which its request left."""
        if row.name in self.names:
            self._own.drop(row.name)
        self.give_back(row)

    def drop(self, permit: Permit) -> str:
        """The permit is over, and its slot is given back by its name, which is returned."""
        self.names.discard(permit.name)
        self.permits.pop(permit.name, None)
        self._own.drop(permit.name)
        permit.end()
        return permit.name

    def give_back(self, row: Row) -> None:
        was_held = row.name in self.names
        self.names.discard(row.name)
        if self.is_early(row.name):
            self._early[row.name].append(row)
        else:
            self._put_back(row)
        if was_held:
            self._on_free()

    def take_back(self, number: int) -> list[Row]:
        """So many of what goes back, at most."""
        rows, self.returned = self.returned[:number], self.returned[number:]
        return rows

    def _put_back(self, row: Row) -> None:
        self.returned.append(row)
        self._on_row()
