"""Who waits in a line that is kept elsewhere, as their worker knows them: each is told its place, none is forgotten."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from gateway.admission.queue_store import Away, QueueStore
from gateway.admission.slots import seconds
from gateway.admission.waiting import Waiter

LOOK_EVERY_S = 0.25
LOOK_AT_MOST = 256  # places asked for in one call
AT_ONCE = (
    512  # in one turn: a longer line is looked through in several, or it would take up the store by itself
)


class Places:
    """waiters: by name. entering: those whose place is just being asked for. is_here: whether the line can be asked."""

    def __init__(self, store: QueueStore, is_here: Callable[[], bool]) -> None:
        self._store, self._is_here = store, is_here
        self.waiters: dict[str, Waiter] = {}
        self.entering: set[str] = set()

    async def watch(self) -> None:
        """Until cancelled: tell each waiter its place, and find those whose place or mail was lost."""
        turn = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            step = max(1, math.ceil(len(self.waiters) / AT_ONCE))
            turn = (turn + 1) % step
            names = [name for name in [*self.waiters][turn::step] if name not in self.entering]
            for at in range(0, len(names) if self._is_here() else 0, LOOK_AT_MOST):
                part = names[at : at + LOOK_AT_MOST]
                try:
                    places, etas_ms, tags = await self._store.look(part)
                except Away:
                    break
                for name, place, eta_ms, tag in zip(part, places, etas_ms, tags, strict=True):
                    self._tell(name, int(place), float(eta_ms), int(tag))

    def _tell(self, name: str, position: int, eta_ms: float, tag: int) -> None:
        waiter = self.waiters.get(name)
        if waiter is None or waiter.future.done():
            return
        if position > 0:
            waiter.position, waiter.tag, waiter.missed = position, tag, 0
            waiter.eta_s = seconds(eta_ms)
            return
        waiter.missed += 1
        if waiter.missed > 1:  # once may be mail that is on its way
            waiter.say("granted" if position == 0 else "lost")
