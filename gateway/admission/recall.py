"""Which slot is asked back for somebody who waits: the pure maths. `recall.lua` is the same inside Redis.

A slot lasts as long as its answer, so where all are taken, whoever has a right to one waits for an end. Some answers
can be broken off and gone on with later, at the price of reading their prompt again. One of those gives way when a
tenant that holds less than its fair share waits, and it is of a worse band, or of the same one and a tenant that holds
clearly more. The worst band gives way first, then the tenant with most slots, then who was let in last and so loses
least.

It is paid with credit: as much as answers have ended, so most of the work that is done is never done twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.admission.drain import Slot

MIN_HELD_MS = 100  # a slot is not asked back before: one that is just given has done nothing yet
PRICE = 2  # of one that is asked back, in ends of answers
HEADS = 4  # of the line, for whom is looked again at every beat
OVER = 1.25  # times an equal part of the slots: beyond it a tenant is a heavy one
LIGHT = 2  # slots that make nobody a heavy one


class Given(NamedTuple):
    """A slot whose answer can be broken off. waiter: whom it is asked back for."""

    granted_ms: int
    waiter: str = ""


class Wanting(NamedTuple):
    """Who waits."""

    name: str
    band: int
    tenant: str


@dataclass
class Recalls:
    """What is known of the slots that may be asked back. credit: ends of answers to pay with, -1 = as many as slots."""

    given: dict[str, Given] = field(default_factory=dict)
    credit: int = -1

    def let_in(self, name: str, now_ms: int, *, gives: bool) -> None:
        """It has a slot. gives: whether that may be asked back."""
        if gives:
            self.given[name] = Given(now_ms)
        else:
            self.given.pop(name, None)

    def ended(self, limit: int) -> None:
        """An answer came to its end."""
        self.credit = min(limit, self._credit_left(limit) + 1)

    def can_ask(self, limit: int) -> bool:
        return bool(self.given) and self._credit_left(limit) >= PRICE

    def victim(
        self,
        wanting: Wanting,
        held: Mapping[str, Slot],
        first: Iterable[str],
        who: Callable[[str], Wanting | None],
        *,
        limit: int,
        now_ms: int,
    ) -> str | None:
        """The slot to ask back for one that waits, if any. first: the first in line. who: of those that still wait."""
        if len(held) < limit or not self.can_ask(limit):
            return None
        served = {name: waiter for name, each in self.given.items() if (waiter := who(each.waiter))}
        ahead = [waiter for name in first if (waiter := who(name))]
        given = self.given
        return victim(wanting, held=held, gives=given, served=served, first=ahead, limit=limit, now_ms=now_ms)

    def ask_back(self, slot: str, waiter: str, limit: int) -> None:
        self.given[slot] = self.given[slot]._replace(waiter=waiter)
        self.credit = self._credit_left(limit) - PRICE

    def drop(self, slot: str) -> None:
        """The slot is free, or nobody's that is known here."""
        self.given.pop(slot, None)

    def waiter(self, slot: str) -> str:
        """Whom it is asked back for; "" = for nobody."""
        return self.given[slot].waiter if slot in self.given else ""

    def is_served(self, waiter: str) -> bool:
        return any(given.waiter == waiter for given in self.given.values())

    def _credit_left(self, limit: int) -> int:
        return limit if self.credit < 0 else min(limit, self.credit)


def victim(
    wanting: Wanting,
    *,
    held: Mapping[str, Slot],
    gives: Mapping[str, Given],
    served: Mapping[str, Wanting],
    first: Iterable[Wanting],
    limit: int,
    now_ms: int,
) -> str | None:
    """The slot to ask back for one that waits, all being taken; None where nobody has to give way.

    served: by slot, those that it is asked back for and that still wait. first: the first in line.
    """
    if any(each.name == wanting.name for each in served.values()):
        return None
    total, good = Counter[str](), Counter[str]()  # by tenant: all slots, and those of no worse band
    for name, slot in held.items():
        owner = served.get(name, slot)  # one that is asked back is as good as its waiter's
        total[owner.tenant] += 1
        if owner.band <= wanting.band:
            good[owner.tenant] += 1
    others = {wanting.name, *(each.name for each in served.values())}
    waiting = [each.tenant for each in first if each.band <= wanting.band and each.name not in others]
    wants = good + Counter([wanting.tenant, *waiting])
    mine = good[wanting.tenant]
    if mine >= fair_share(wants, limit):
        return None
    most = max(LIGHT, OVER * limit / len(wants), mine + 1)  # that makes nobody a heavy one
    heavy = {tenant for tenant, number in good.items() if number > most}
    best = None
    for name, given in gives.items():
        slot = held[name]
        gives_way = slot.band > wanting.band or (
            slot.band == wanting.band and slot.tenant != wanting.tenant and slot.tenant in heavy
        )
        if not gives_way or given.waiter or given.granted_ms > now_ms - MIN_HELD_MS:
            continue
        key = (slot.band, total[slot.tenant], slot.since_ms, name)
        best = key if best is None else max(best, key)
    return None if best is None else best[-1]


def fair_share(wants: Mapping[str, int], limit: int) -> float:
    """The max-min fair share: what those have who want more, where nobody has more than is wanted.

    wants: slots by tenant. Infinite where there are enough for all.
    """
    left, unmet = limit, dict(wants)
    while unmet:
        share = left / len(unmet)
        met = [tenant for tenant, wanted in unmet.items() if wanted <= share]
        if not met:
            return share
        for tenant in met:
            left -= unmet.pop(tenant)
    return math.inf
