"""The order of those who wait for a tier's slots: the pure maths, with ids and milliseconds as arguments.

Bands go strictly one before the other. Inside a band tenants share by tokens: start-time fair queueing. Every tenant
has a finish tag, the band a virtual time that follows the start tags of what was let in. A newcomer starts at the later
of the two, so an idle tenant gets no credit, and its tenant's finish tag moves on by what the request will cost.

What a request costs is a guess until it ends. Then the tenant's tags move by the difference, those of its waiters too,
all alike: among them the first to come stays the first to go. They move when the differences are worth it (`gaps.py`),
and so do those behind one that leaves. No newcomer meets a virtual time past its band's head, which may go back.

Slots may be kept free for light tenants (headroom): one that holds clearly more than an equal part does not get the
last ones while others have been here of late, so a light one finds a slot where it would wait for a heavy one's end.

The line is bounded. Whoever would stand before the last one takes that one's place, so a tenant that floods pushes out
only itself. `queue.lua` is the same maths inside Redis; a test holds the two to each other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gateway.admission.asks import BAND_STEP, BANDS, Ask, Entered, Entry, Moves, Status
from gateway.admission.drain import NUM_BANDS, Drain, Left, Slot
from gateway.admission.gaps import Gaps, is_worth_a_move
from gateway.admission.headroom import Headroom
from gateway.admission.pace import Band, Expected, Paces
from gateway.admission.recall import HEADS, Recalls, Wanting

__all__ = ["BANDS", "Ask", "Entered", "FairLine", "Moves", "Status"]

MAX_TENANTS = 100_000  # whose tags are remembered at most; then all begin again
_LOOK_AHEAD = 32  # places from the head in which a light tenant is looked for


@dataclass
class FairLine:
    """limit: slots. max_waiting and max_bytes: bounds of the line. Ids sort by their age among equals.

    headroom_share: of the slots, what a heavy tenant leaves free for light ones.
    """

    limit: int
    max_waiting: int
    max_bytes: int
    headroom_share: float = 0.0
    held: dict[str, Slot] = field(default_factory=dict)
    recalls: Recalls = field(default_factory=Recalls)
    drain: Drain = field(default_factory=Drain)
    paces: Paces = field(default_factory=Paces)
    num_bytes: int = 0
    _entries: dict[str, Entry] = field(default_factory=dict)
    _order: list[tuple[int, str]] = field(default_factory=list)
    _time: list[int] = field(default_factory=lambda: [0] * len(BANDS))  # virtual, of each band
    _finish: dict[tuple[int, str], int] = field(default_factory=dict)
    _pending: dict[tuple[int, str], int] = field(default_factory=dict)  # differences that moved nothing yet
    _gaps: Gaps = field(default_factory=Gaps)
    _backlog: dict[tuple[int, str], int] = field(default_factory=dict)  # tokens that wait, of each tenant
    _own: dict[tuple[int, str], set[str]] = field(default_factory=dict)  # who waits of each tenant
    _promised: dict[tuple[int, str], int] = field(default_factory=dict)  # the same for tickets that are out
    _granted: list[str] = field(default_factory=list)
    _displaced: dict[str, int] = field(default_factory=dict)
    _recalled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.headroom = Headroom(self.headroom_share)

    def enter(self, name: str, ask: Ask, now_ms: int) -> Entered:
        """A slot, a place in line, or a refusal. Collect `moves` after it."""
        self.headroom.see(ask.tenant, self.limit, now_ms)
        self._grant(now_ms)
        key = (ask.band, ask.tenant)
        tag = self._newcomers_tag(key)
        if ask.tag >= 0:
            tag = min(tag, ask.tag)  # a ticket never makes a place worse
        if ask.before_ms >= 0:
            tag = min([tag, *(self._entries[each].tag for each in self._own.get(key, ()))])
        if self.may_take(ask.tenant):  # whoever waits may not, or had been let in
            self._charge(ask)
            self._let_in(name, ask, tag, now_ms)
            return Entered("granted", 0, 0.0, tag)
        score = ask.band * BAND_STEP + tag
        position = bisect_right(self._order, (score, name)) + 1
        slot = self._victim(Wanting(name, ask.band, ask.tenant), now_ms)
        left = self.left(now_ms)
        wait = Expected(0.0, 0.0) if slot else self._expected(position, ask.band, tag, left, now_ms)
        refusal = self._refusal(ask, score, wait.sure_ms, now_ms)
        if refusal is not None:
            # One with a ticket comes again with the place that it has.
            kept = tag if ask.tag >= 0 else self.promise(key, ask.cost, tag)
            return Entered(refusal, position, wait.told_ms, kept)
        self._charge(ask)
        self._entries[name] = Entry(ask, score)
        self._own.setdefault(key, set()).add(name)
        self._backlog[key] = self._backlog.get(key, 0) + ask.cost
        insort(self._order, (score, name))
        self.num_bytes += ask.size
        if slot:
            self._ask_back(slot, name)
        return Entered("waiting", position, wait.told_ms, tag)

    def give_back(self, name: str, ask: Ask, now_ms: int) -> Entered:
        """Its answer was broken off: whom the slot was asked back for has it, and it waits at the head of its tenant.

        Where nobody waits for the slot any more, it keeps it. ask: with before_ms, and no cost, which was told before.
        """
        if name in self.held:
            if self._wanted_by(name, now_ms) is None:
                self.recalls.let_in(name, now_ms, gives=ask.gives)
                return Entered("granted", 0, 0.0, self._newcomers_tag((ask.band, ask.tenant)))
            self._free(name, now_ms)
        return self.enter(name, ask, now_ms)

    def measure(self, now_ms: int) -> None:
        """How fast the line moves: look now and then while somebody waits."""
        costs = [head.ask.cost if head else 0 for head in map(self._head, range(NUM_BANDS))]
        bands = [Band(self._num_of(at), self._virtual_time(at), cost) for at, cost in enumerate(costs)]
        self.paces.look(bands, self.drain, self.limit, now_ms)

    def recall(self, now_ms: int) -> None:
        """Look again for slots to ask back, for the first in line."""
        for _, name in self._order[:HEADS]:
            ask = self._entries[name].ask
            wanting = Wanting(name, ask.band, ask.tenant)
            if ask.until_ms >= now_ms and (slot := self._victim(wanting, now_ms)):
                self._ask_back(slot, name)

    def _victim(self, wanting: Wanting, now_ms: int) -> str | None:
        first = [name for _, name in self._order[:_LOOK_AHEAD]]
        return self.recalls.victim(wanting, self.held, first, self._wanting, limit=self.limit, now_ms=now_ms)

    def _wanting(self, name: str) -> Wanting | None:
        entry = self._entries.get(name)
        return None if entry is None else Wanting(name, entry.ask.band, entry.ask.tenant)

    def _ask_back(self, slot: str, waiter: str) -> None:
        self.recalls.ask_back(slot, waiter, self.limit)
        self._recalled.append(slot)

    def may_take(self, tenant: str) -> bool:
        """Whether a slot is free for one of this tenant."""
        free = self.limit - len(self.held)
        return self.headroom.leaves(tenant, self.held.values(), free, self.limit)

    def is_closed(self, band: int, tenant: str) -> bool:
        """Whether a newcomer without a ticket would find the line full."""
        if len(self.held) < self.limit or len(self._order) < self.max_waiting:
            return False
        tag = self._newcomers_tag((band, tenant))
        return not self._order or self._is_before(self._order[-1], band * BAND_STEP + tag)

    def _is_before(self, last: tuple[int, str], score: int) -> bool:
        """Whether the last one in line stays there; one that has the beginning of its answer always does."""
        return last[0] <= score or self._entries[last[1]].ask.before_ms >= 0

    def _newcomers_tag(self, key: tuple[int, str]) -> int:
        return max(self._virtual_time(key[0]), self._finish.get(key, 0))

    def _virtual_time(self, band: int) -> int:
        head = self._head(band)
        return self._time[band] if head is None else min(self._time[band], head.tag)

    def _head(self, band: int) -> Entry | None:
        """The first in line of a band."""
        return self._entries[self._order[self.num_ahead(band - 1)][1]] if self._num_of(band) else None

    def _refusal(self, ask: Ask, score: int, sure_ms: float, now_ms: int) -> Status | None:
        if ask.before_ms >= 0:
            return None  # its client has the beginning of the answer
        if sure_ms >= 0 and ask.finish_ms and now_ms + sure_ms + self.drain.mean_ms(ask.band) > ask.finish_ms:
            return "infeasible"
        if ask.has_waited:
            return None
        if sure_ms >= 0 and now_ms + sure_ms > ask.until_ms:
            return "too_long"
        if ask.size > self.max_bytes or self.max_waiting < 1:
            return "full" if self.max_waiting < 1 else "large"
        # With those from another line it may have outgrown its bounds: then it grows no more, and is not cut.
        most, most_bytes = max(self.max_waiting, len(self._order)), max(self.max_bytes, self.num_bytes)
        while len(self._order) >= most or self.num_bytes + ask.size > most_bytes:
            worst = self._order[-1]
            if self._is_before(worst, score):
                return "full" if len(self._order) >= most else "large"
            self._displace(worst[1])
        return None

    def _displace(self, name: str) -> None:
        """Its place goes to one with a better right; with a ticket it may come back to it."""
        entry = self._entries[name]
        self._displaced[name] = entry.tag
        self.remove_all([name])
        self._promised[entry.key] = max(self._promised.get(entry.key, 0), entry.tag + entry.ask.cost)

    def tag(self, name: str) -> int:
        """Of one who waits."""
        return self._entries[name].tag

    def follow(self, band: int, tag: int) -> None:
        """Another line has come so far: tickets of the two are to mean the same places."""
        self._time[band] = max(self._time[band], tag)

    def promise(self, key: tuple[int, str], cost: int, tag: int = 0) -> int:
        """The tag of a ticket for one that is refused: behind those of the same tenant that are out already."""
        tag = max(tag or self._newcomers_tag(key), self._promised.get(key, 0))
        self._promised[key] = tag + cost
        return tag

    def _charge(self, ask: Ask) -> None:
        key = (ask.band, ask.tenant)
        self._finish[key] = self._newcomers_tag(key) + ask.cost
        if len(self._finish) > MAX_TENANTS:
            self._finish.clear()
            self._pending.clear()

    def _let_in(self, name: str, ask: Ask, tag: int, now_ms: int) -> None:
        self.held[name] = Slot(ask.band, now_ms - max(0, ask.before_ms), ask.tenant)
        self.recalls.let_in(name, now_ms, gives=ask.gives)
        self._time[ask.band] = max(self._time[ask.band], tag)

    def leave(self, name: str, now_ms: int) -> None:
        """Give up a place, or a slot that came in the same instant."""
        if name in self._entries:
            self.remove_all([name])
        elif name in self.held:
            self._free(name, now_ms)
            self._grant(now_ms)
        self.rest()

    def hold(self, name: str, slot: Slot) -> None:
        """Count a slot that was given elsewhere; `leave` ends it."""
        self.held[name] = slot

    def release(self, name: str, held_ms: float, now_ms: int) -> None:
        """A slot is free again; once each."""
        slot = self.held.get(name)
        if slot is None:
            return
        is_line, is_light = self._num_of(slot.band) > 0, (slot.band, slot.tenant) not in self._own
        self.drain.note(slot.band, held_ms, now_ms, is_line=is_line, is_light=is_light)
        self.recalls.ended(self.limit)
        self._free(name, now_ms)
        self._grant(now_ms)
        self.rest()

    def _free(self, name: str, now_ms: int) -> None:
        """A slot is free again: whom it was asked back for has it."""
        waiter = self._wanted_by(name, now_ms)
        del self.held[name]
        self.recalls.drop(name)
        if waiter is not None and len(self.held) < self.limit:
            self._give(waiter, now_ms)

    def _wanted_by(self, name: str, now_ms: int) -> str | None:
        """Whom a slot is asked back for, where that one still waits."""
        waiter = self.recalls.waiter(name)
        entry = self._entries.get(waiter)
        return waiter if entry is not None and entry.ask.until_ms >= now_ms else None

    def _give(self, name: str, now_ms: int) -> None:
        entry = self._take_out(name)
        self._let_in(name, entry.ask, entry.tag, now_ms)
        self._granted.append(name)

    def settle(self, tenant: str, band: int, difference: int) -> None:
        """What the request really cost, less what was thought (tokens)."""
        key = (band, tenant)
        if key not in self._finish:
            return
        self._pending[key] = pending = self._pending.get(key, 0) + difference
        if is_worth_a_move(pending, self._backlog.get(key, 0)):
            del self._pending[key]
            self._gaps.shift(key, pending, band * BAND_STEP)
            self._move(key, pending, lambda _: pending)

    def _move(self, key: tuple[int, str], finish: int, by: Callable[[int], int]) -> None:
        """Move a tenant's finish tag, and those of its waiters as their score says."""
        self._finish[key] = max(0, self._finish[key] + finish)
        for name in self._own.get(key, ()):
            entry = self._entries[name]
            if difference := by(entry.score):
                self.paces.moved[key[0]] += difference / self._num_of(key[0])
                del self._order[bisect_left(self._order, (entry.score, name))]
                entry.score = max(key[0] * BAND_STEP, entry.score + difference)
                insort(self._order, (entry.score, name))

    def dissolve(self) -> None:
        """Empty the line. Nobody in it was served, so no tenant is charged."""
        for key, cost in self._backlog.items():
            self._finish[key] = max(0, self._finish.get(key, 0) - cost - self._gaps.close(key).total)
        for each in (self._entries, self._order, self._own, self._backlog):
            each.clear()
        self.num_bytes = 0

    def resize(self, limit: int, now_ms: int) -> None:
        self.limit = limit
        self._grant(now_ms)

    def moves(self) -> Moves:
        """What happened to those in line since the last call."""
        moves = Moves(self._granted, self._displaced, self._recalled)
        self._granted, self._displaced, self._recalled = [], {}, []
        return moves

    def remove_all(self, names: Iterable[str]) -> None:
        """Of those that were not served: their tenants are not charged, and those of them behind them move up. But for
        who came with a ticket: standing before its own tenant's others, it has pushed none of them back."""
        left = [entry for entry in [self._take_out(name) for name in names] if entry.ask.tag < 0]
        for entry in left:
            self._gaps.add(entry.key, entry.score, entry.ask.cost)
        for key in {entry.key for entry in left}:
            if self._gaps.are_many(key, self._backlog.get(key, 0), len(self._own.get(key, ()))):
                self._close_gaps(key)

    def _close_gaps(self, key: tuple[int, str]) -> None:
        gaps = self._gaps.close(key)
        if key in self._finish:
            self._move(key, -gaps.total, lambda score: -gaps.before(score))

    def _take_out(self, name: str) -> Entry:
        entry = self._entries.pop(name)
        del self._order[bisect_left(self._order, (entry.score, name))]
        self.num_bytes -= entry.ask.size
        key = entry.key
        self._own[key].discard(name)
        self._backlog[key] -= entry.ask.cost
        if not self._own[key]:
            del self._own[key], self._backlog[key]
            self._close_gaps(key)
        return entry

    def _grant(self, now_ms: int) -> None:
        while len(self.held) < self.limit and (name := self._next(now_ms)):
            self._give(name, now_ms)

    def _next(self, now_ms: int) -> str | None:
        """The first in line who may have a slot."""
        while True:
            for _, name in self._order[:_LOOK_AHEAD]:
                ask = self._entries[name].ask
                if ask.until_ms < now_ms:
                    self.remove_all([name])  # its wait is over, and it knows that by itself
                    break
                if self.may_take(ask.tenant):
                    return name
            else:
                return None

    def rest(self) -> None:
        """With nobody here, nobody is ahead of anybody."""
        if not self.held and not self._order:
            self._time = [
                max([at, *(tag for (band, _), tag in self._finish.items() if band == number)])
                for number, at in enumerate(self._time)
            ]
            for known in (self._finish, self._pending, self._promised):
                known.clear()

    def position(self, name: str) -> int:
        """1-based; 0 when not in line."""
        entry = self._entries.get(name)
        return 0 if entry is None else bisect_left(self._order, (entry.score, name)) + 1

    def num_ahead(self, band: int) -> int:
        """Waiters of this band and of those before it."""
        return bisect_left(self._order, ((band + 1) * BAND_STEP, ""))

    def _num_of(self, band: int) -> int:
        return self.num_ahead(band) - self.num_ahead(band - 1)

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def left(self, now_ms: int) -> Left:
        return self.drain.left(self.held.values(), now_ms)

    def _expected(self, position: int, band: int, tag: int, left: Left, now_ms: int) -> Expected:
        """The wait at a position, for one of this band."""
        ends = [min(position - 1, self.num_ahead(each)) for each in range(NUM_BANDS)]
        ahead = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        forecast = self.drain.forecast(ahead, band, left, self.limit, now_ms)
        head = self._head(band)
        gap = tag - head.tag if head else 0
        return self.paces.expected(band, gap, forecast, self.drain.hold_ms, self.limit)

    def where(self, name: str, left: Left, now_ms: int) -> tuple[int, float]:
        """Position and expected wait of one who waits; 0 and 0 when it does not."""
        entry = self._entries.get(name)
        if entry is None:
            return 0, 0.0
        position = self.position(name)
        if self.recalls.is_served(name):
            return position, 0.0
        return position, self._expected(position, entry.ask.band, entry.tag, left, now_ms).told_ms

    def waiting_names(self) -> Sequence[str]:
        return [name for _, name in self._order]
