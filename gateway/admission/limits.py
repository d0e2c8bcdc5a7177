"""The maths of limits in one worker: sliding minutes, budgets, streams; leases, and shares for when no store answers.

A store shared by all workers holds the truth of a limit: what each worker has used, by second, and what it has leased
and not yet used. A worker spends its lease without asking anybody. It tells the store what it has used as absolute
numbers, so that telling twice, or not knowing whether the store heard, does no harm.

Pure: time is an argument (unix seconds by the store's clock). Knows no Redis, no asyncio, no requests.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from gateway.admission.flow import FLOW_S, Flow

WINDOW_S = 60
LEASE_S = 2.5  # a worker spends a lease for so long; the store keeps it for longer (STORE_LEASE_S)
STORE_LEASE_S = 3.0
LOW_WATER = 0.25  # of a block: below it a busy limit's next one is fetched behind the requests
# Below a busy rate something is held ahead only where each worker could have so many times as much.
AMPLE = 4
SPARE_PART = 2  # a worker holds unused at most its even part of what is left, divided by this (lease.lua too)
REFUSAL_S = (
    0.25  # a refusal stands for so long without asking the store again: others may give something back
)
FRESH_S = 2.0  # the store's last word on what is left is believed for so long after it went away

Kind = Literal["window", "budget", "streams"]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker tells the store of one limit. hold: leased, and kept whatever the answer. need: for requests that
    wait for it now, `unit` for the smallest of them. want: the lease it would like, hold and need included.

    used: absolute numbers of this worker by slot (unix second; 0 in a budget) under `generation`, the store's mark of
    one unbroken count ("" = not known yet). seed: what a budget begins with, -1 = not known.
    """

    name: str
    kind: Kind
    limit: int
    hold: int
    need: int
    unit: int
    want: int
    generation: str = ""
    seed: int = -1
    used: list[tuple[int, int]] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """status: `ok`; `changed` (the store began a new count: tell all again); `unseeded` (a budget needs its seed).

    level: the lease from now on. left: what nobody has used or leased. wait_s: until what was needed is free;
    reset_s: until all of the limit is.
    """

    status: Literal["ok", "changed", "unseeded"] = "ok"
    level: int = 0
    left: int = 0
    wait_s: float = 0.0
    reset_s: float = 0.0
    generation: str = ""


class Meter:
    """One limit of a tenant or a key, as this worker knows it: a sliding minute, or a budget.

    slot_s: 1 counts by seconds of which the last WINDOW_S matter; 0 counts for ever.
    """

    kind: Kind = "window"

    def __init__(self, name: str, limit: int, *, counts_tokens: bool = False) -> None:
        self.name, self.limit, self.counts_tokens = name, limit, counts_tokens
        self.lease = 0
        self.lease_until = 0.0
        self.generation = ""
        self.left: int | None = None  # by the store's last answer
        self.reset_at = 0.0
        self.answered_at = -math.inf
        self.refused_until = 0.0
        self.refused_need = 0
        self.free_at = 0.0  # when what was refused last is free
        self.seed = -1
        self._used: dict[int, int] = {}
        self._dirty: set[int] = set()
        self._sent: set[int] = set()
        self._flow = Flow()  # what the next block goes by
        self._low = 0.0  # of the lease, below which the next block is fetched
        self._need = self._unit = 0
        self._spent = 0  # since the last ask was made
        self._net = 0  # since then, less what was given back
        self._net_before = 0  # between the ask that was answered last and the last ask

    def slot(self, now: float) -> int:
        return int(now)

    def used(self, now: float) -> int:
        """This worker's own, of what counts now."""
        first = self.slot(now) - WINDOW_S
        for slot in [slot for slot in self._used if slot < first] if self.kind == "window" else ():
            del self._used[slot]
            self._dirty.discard(slot)
        return sum(self._used.values())

    # What a request asks, in this order.

    def covers(self, amount: int, now: float) -> bool:
        """Whether the lease has room: nobody need be asked."""
        return self.lease >= amount and now < self.lease_until

    def is_refused(self, amount: int, now: float) -> bool:
        """Whether the store has just said no to as much."""
        return now < self.refused_until and amount >= self.refused_need

    def share_covers(self, amount: int, now: float, workers: int) -> bool:
        """Whether this worker's part of the limit has room, when the store does not answer."""
        room = math.ceil(self.limit / workers) - self.used(now)
        if self.left is not None and now - self.answered_at < FRESH_S:
            room = min(room, self._rest(workers))
        return amount <= room

    def _rest(self, workers: int) -> int:
        """The part of what the store said was left, less what was spent since."""
        return math.ceil((self.left or 0) / workers) - self._net - self._net_before

    def take(self, amount: int, now: float) -> int:
        """Spend; from the lease if there is one. Returns the slot it was counted in."""
        slot = self.slot(now)
        if now < self.lease_until:
            self.lease = max(0, self.lease - amount)
        self._add(slot, amount)
        self._flow.add(amount, now)
        return slot

    def settle(self, slot: int, taken: int, actual: int, now: float) -> None:
        """Correct an estimate: what was not used goes back to where it was taken, what was used beyond counts now."""
        if actual > taken:
            self.lease = max(0, self.lease - (actual - taken))
            self._add(self.slot(now), actual - taken)
        elif actual < taken and slot >= self.slot(now) - WINDOW_S and slot in self._used:
            self._used[slot] = max(0, self._used[slot] - (taken - actual))
            self._dirty.add(slot)
            self._net -= taken - actual

    def _add(self, slot: int, amount: int) -> None:
        self._used[slot] = self._used.get(slot, 0) + amount
        self._dirty.add(slot)
        self._spent += amount
        self._net += amount

    # What the store is told, and what it says.

    def require(self, amount: int) -> None:
        """A request waits for the next ask to bring so much."""
        self._need += amount
        self._unit = min(self._unit, amount) if self._unit else amount

    def wish(self, amount: int) -> None:
        """A request was refused without asking; the next ask is for one like it, not for all of them."""
        if not self._need:
            self.require(amount)

    def is_low(self, now: float) -> bool:
        """Whether the next block should be fetched, before anybody has to wait for it."""
        return self._low > 0 and (self.lease < self._low or now > self.lease_until - 0.5)

    def has_news(self, now: float) -> bool:
        """Whether the store would learn something, or a lease should be kept or given back."""
        return bool(self._dirty) or self.lease > 0

    def ask(self, now: float, *, is_tick: bool = False, workers: int = 1, least: int = 1) -> Ask:
        """is_tick: what is leased beyond the use of late, or beyond a fair part of what is left, is given back.

        workers: that share the limit. least: of a limit that had fewer requests lately nothing is held ahead of them.
        """
        spare, is_busy = self._spare(now, least), self._flow.is_busy(now)
        is_ample = spare * AMPLE * workers <= self.remaining(now)
        if not is_ample and not is_busy:
            spare = 0
        self._low = spare * LOW_WATER if is_busy else 0.0
        if now >= self.lease_until:
            self.lease = 0
        if is_tick:
            self.lease = min(self.lease, spare, self.remaining(now) // (SPARE_PART * workers))
        self.used(now)
        self._sent, self._dirty = self._dirty, set()
        self._net_before, self._net, self._spent = self._net_before + self._net, 0, 0
        need, unit, self._need, self._unit = max(0, self._need - self.lease), self._unit, 0, 0
        hold = self._hold()
        ahead = 0 if is_tick and not is_ample else max(0, spare - self.lease)
        return Ask(
            name=self.name,
            kind=self.kind,
            limit=self.limit,
            hold=hold,
            need=need,
            unit=unit,
            want=hold + need + ahead,
            generation=self.generation,
            seed=-1 if self.generation else self.seed,
            used=[(slot, self._used.get(slot, 0)) for slot in sorted(self._sent)],
        )

    def hear(self, ask: Ask, answer: Answer, sent_at: float, now: float) -> None:
        """Take the store's answer to an ask. sent_at, now: by the store's clock."""
        if answer.status != "ok":
            self.generation, self.lease = "", 0
            self._restart()
            return
        self.generation = answer.generation
        self.lease_until = sent_at + LEASE_S
        self._set_lease(answer.level)
        self.left, self.answered_at, self._net_before = answer.left + answer.level, now, 0
        self.reset_at = now + answer.reset_s
        if ask.need and answer.level < ask.hold + ask.need:
            self.refused_until = now + min(answer.wait_s or REFUSAL_S, REFUSAL_S)
            self.refused_need = ask.unit
            self.free_at = now + answer.wait_s

    def lose(self) -> None:
        """The store did not answer; whether it heard is not known."""
        self._dirty |= self._sent
        self._sent = set()

    def _restart(self) -> None:
        self._dirty = set(self._used)

    def _hold(self) -> int:
        return self.lease

    def _spare(self, now: float, least: int) -> int:
        """What to hold for those who will come until the next tick."""
        return self._flow.expected(now, least=least)

    def _set_lease(self, level: int) -> None:
        self.lease = max(0, level - self._spent)

    # What the caller is told.

    def remaining(self, now: float) -> int:
        """What this worker knows to be left, for everybody."""
        if self.left is None:
            return max(0, self.limit - self.used(now))
        return max(0, self.left - self._net - self._net_before)

    def reset_s(self, now: float) -> float:
        """Until all of the limit is free again, if nothing more is used."""
        own = max((slot + WINDOW_S + 1 - now for slot, used in self._used.items() if used), default=0.0)
        return max(0.0, self.reset_at - now, own)

    def wait_s(self, now: float) -> float:
        """Until what was refused may pass."""
        return max(0.0, self.free_at - now) or self.reset_s(now)


class Budget(Meter):
    """So many tokens in one calendar month. ends_at: unix seconds; then another one begins."""

    kind = "budget"

    def __init__(self, name: str, limit: int, ends_at: float) -> None:
        super().__init__(name, limit, counts_tokens=True)
        self.ends_at = ends_at
        self._open = (
            0  # taken and not settled: the ledger, from which a new count begins, does not have it yet
        )

    def slot(self, now: float) -> int:
        return 0

    def share_covers(self, amount: int, now: float, workers: int) -> bool:
        if self.left is None:
            begun = self.limit - max(0, self.seed)
            return amount <= math.ceil(begun / workers) - self.used(now)
        return amount <= self._rest(workers)

    def take(self, amount: int, now: float) -> int:
        self._open += amount
        return super().take(amount, now)

    def settle(self, slot: int, taken: int, actual: int, now: float) -> None:
        self._open -= taken
        super().settle(slot, taken, actual, now)

    def _restart(self) -> None:
        self._used = {0: self._open} if self._open else {}
        self._dirty = set(self._used)

    def reset_s(self, now: float) -> float:
        return max(0.0, self.ends_at - now)

    def wait_s(self, now: float) -> float:
        return self.reset_s(now)

    def remaining(self, now: float) -> int:
        if self.left is None:
            return max(0, self.limit - max(0, self.seed) - self.used(now))
        return super().remaining(now)


class Streams(Meter):
    """So many answers at once. The lease is a number of places that are held, in use or not."""

    kind = "streams"

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(name, limit)
        self.in_use = 0
        self._peaks: dict[int, int] = {}  # most in use at once, by second
        self._mean_hold_s = 1.0

    def used(self, now: float) -> int:
        return self.in_use

    def share_covers(self, amount: int, now: float, workers: int) -> bool:
        return self.in_use + amount <= math.ceil(self.limit / workers)

    def take(self, amount: int, now: float) -> int:
        self.in_use += amount
        second = int(now)
        self._peaks[second] = max(self._peaks.get(second, 0), self.in_use)
        self.lease = max(0, self.lease - amount)
        self._flow.add(amount, now)
        return second

    def free(self, taken_at: float, now: float) -> None:
        """One of them ended."""
        self.in_use -= 1
        if now < self.lease_until:
            self.lease += 1
        self._mean_hold_s += 0.1 * (max(0.0, now - taken_at) - self._mean_hold_s)

    def has_news(self, now: float) -> bool:
        return self.in_use > 0 or self.lease > 0

    def is_low(self, now: float) -> bool:
        return False

    def _hold(self) -> int:
        return self.in_use + self.lease

    def _spare(self, now: float, least: int) -> int:
        """As many places as were in use at once lately, and one."""
        if not self._flow.expected(now, least=least):
            return 0
        self._peaks = {second: most for second, most in self._peaks.items() if second >= int(now) - FLOW_S}
        return max(0, max(self._peaks.values(), default=0) - self.in_use) + 1

    def _set_lease(self, level: int) -> None:
        self.lease = max(0, level - self.in_use)

    def remaining(self, now: float) -> int:
        if self.left is None:
            return max(0, self.limit - self.in_use)
        return max(0, self.left - self.in_use)

    def reset_s(self, now: float) -> float:
        return self._mean_hold_s if self.in_use else 0.0

    def wait_s(self, now: float) -> float:
        """By how long they last, the next one of `limit` ends after so much."""
        return self._mean_hold_s / max(1, self.limit)
