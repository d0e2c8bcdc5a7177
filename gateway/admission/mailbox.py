"""What Redis tells a worker between its calls: a wait has ended, a slot is asked back."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.admission.holdings import Holdings, Row
from gateway.admission.queue_store import QueueStore
from gateway.admission.waiting import Waiter


class Mailbox:
    """waiters: by name. held: what this worker's requests have."""

    def __init__(self, store: QueueStore, waiters: Mapping[str, Waiter], held: Holdings) -> None:
        self._store, self._waiters, self._held = store, waiters, held

    async def read(self) -> None:
        """Until cancelled."""
        async for letter in self._store.letters():
            self._take(letter)

    def _take(self, letter: str) -> None:
        kind, name = letter[0], letter[1:]
        if kind == "r":
            if name in self._held.permits:
                self._held.permits[name].recall()
            return
        waiter = self._waiters.get(name)
        if waiter is not None:
            waiter.say("granted" if kind == "g" else "displaced")
        elif kind == "g" and name not in self._held.names:
            self._held.give_back(Row(name, -1.0, "", 0, 0))  # it has left in the same instant
