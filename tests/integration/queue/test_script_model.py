"""The script inside Redis and the pure maths say the same, whatever happens in whatever order.

Requests come from two workers, with tickets or without; they leave, give way, and die with their worker. Beside the
comparison the test keeps a book of its own: every request has one end, no slot and no ticket is lost.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis
from redis.commands.core import Script

from gateway.admission.line import Ask, Entered, FairLine
from gateway.admission.queue_store import SCRIPT
from tests.fakes.redis_process import RedisProcess

MAX_WAITING, MAX_BYTES = 5, 1000
SILENT_MS = (1500, 600)  # longer than a worker may be silent, in steps in which the other one is not
KEYS = [f"q:{part}" for part in ("held", "line", "entries", "tenants", "state", "workers", "seen", "gives")]
TENANTS = st.sampled_from(["a", "b", "c"])


class Ticket(NamedTuple):
    id: str
    tenant: str
    band: int
    tag: int


def bury(line: FairLine, gone: set[str]) -> None:
    """All requests of a dead worker at once; those behind them move up by what was before them."""
    for name in gone & {*line.held}:
        del line.held[name]
        line.recalls.drop(name)
    line.remove_all(sorted(gone & {*line.waiting_names()}))


class Both(RuleBasedStateMachine):
    """The script and the maths, told the same. What it runs on stands in a subclass: Hypothesis makes it by itself."""

    redis: Redis
    script: Script
    headroom_share: float

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.now, self.limit, self.count = 1_000_000, 2, 0
        self.workers, self.births = ["w0", "w1"], count(2)
        self.worker_of: dict[str, str] = {}
        self.tickets: list[Ticket] = []
        self.used: set[str] = set()
        self.served: set[str] = set()  # by the test's own book: who has a slot
        self.ended: set[str] = set()
        self.num_moved = self.moved_bytes = 0  # of those who had waited elsewhere
        self.model = FairLine(self.limit, MAX_WAITING, MAX_BYTES, self.headroom_share)
        self.waiting: set[str] = set()
        self.recalled: set[str] = set()
        self.asks: dict[str, Ask] = {}
        for worker in self.workers:
            self.run("beat", worker, "00", self.limit)

    def run(self, operation: str, *args: Any) -> Any:
        return self.script(
            keys=KEYS,
            args=[operation, self.now, self.limit, "mail:", self.model.headroom.slots(self.limit), *args],
        )

    def settle(self) -> None:
        """Whose wait ended is the same in both, by kind; each is told once."""
        moves = self.model.moves()
        told = []
        for worker in self.workers:
            letters = [letter.decode() for letter in self.redis.lpop("mail:" + worker, 1000) or []]
            assert {self.worker_of[letter[1:]] for letter in letters} <= {worker}
            told += letters
        kinds = {"g": moves.granted, "d": moves.displaced, "r": moves.recalled}
        assert sorted(told) == sorted(kind + name for kind, names in kinds.items() for name in names)
        assert {*moves.recalled} <= {*self.model.held} | {*moves.granted}
        self.recalled |= {*moves.recalled}
        assert {*moves.granted, *moves.displaced} <= self.waiting
        self.waiting -= {*moves.granted, *moves.displaced}
        self.served |= {*moves.granted}
        self.end(*moves.displaced)
        for name, tag in moves.displaced.items():
            ask = self.asks[name]
            self.tickets.append(Ticket(f"displaced{name}", ask.tenant, ask.band, tag))

    def end(self, *names: str) -> None:
        """Once each."""
        assert not self.ended & {*names}
        self.ended |= {*names}

    @rule(
        tenant=TENANTS,
        band=st.integers(0, 2),
        cost=st.integers(1, 500),
        size=st.sampled_from([0, 10, 400, 2000]),
        wait_ms=st.sampled_from([50, 1000, 100_000]),
        finish_ms=st.sampled_from([0, 0, 200, 100_000]),
        gives=st.booleans(),
        has_waited=st.sampled_from([False, False, False, True]),
        at=st.integers(0, 1),
    )
    def enter(
        self,
        tenant: str,
        band: int,
        cost: int,
        size: int,
        wait_ms: int,
        finish_ms: int,
        gives: bool,
        has_waited: bool,
        at: int,
    ) -> None:
        until, finish = self.now + wait_ms, self.now + finish_ms if finish_ms else 0
        ask = Ask(tenant, band, cost, size, until, finish, gives=gives, has_waited=has_waited)
        entered = self.comes(ask, at)
        if has_waited:
            self.num_moved, self.moved_bytes = self.num_moved + 1, self.moved_bytes + size
            assert entered.status in {"granted", "waiting", "infeasible"}

    @precondition(lambda self: self.tickets)
    @rule(
        data=st.data(),
        cost=st.integers(1, 500),
        wait_ms=st.sampled_from([50, 100_000]),
        at=st.integers(0, 1),
    )
    def come_back(self, data: st.DataObject, cost: int, wait_ms: int, at: int) -> None:
        """With a ticket: to the place that it keeps, once. A refusal leaves it good."""
        ticket = data.draw(st.sampled_from(self.tickets))
        is_good = ticket.id not in self.used
        tag = max(0, ticket.tag - 1) if is_good else -1
        ask = Ask(ticket.tenant, ticket.band, cost, 10, self.now + wait_ms, tag=tag)
        entered = self.comes(ask, at, ticket.id)
        if is_good:
            assert entered.tag <= tag, "the place is no worse than the one that was promised"
            if entered.status in {"granted", "waiting"}:
                self.used.add(ticket.id)
            else:
                self.tickets[self.tickets.index(ticket)] = ticket._replace(tag=entered.tag)

    def comes(self, ask: Ask, at: int, ticket_id: str = "") -> Entered:
        self.count += 1
        name = f"{self.count:06d}"
        self.worker_of[name] = self.workers[at]
        self.waiting.add(name)  # moved by its own arrival, at the earliest
        entered = self.model.enter(name, ask, self.now)
        self.entered(name, ask, entered, ticket_id)
        if entered.status != "granted" and not ticket_id:
            self.tickets.append(Ticket(f"ticket{self.count}", ask.tenant, ask.band, entered.tag))
        return entered

    @precondition(lambda self: self.recalled & {*self.model.held})
    @rule(data=st.data(), wait_ms=st.sampled_from([1000, 100_000]), gives=st.booleans(), again=st.booleans())
    def give_way(self, data: st.DataObject, wait_ms: int, gives: bool, again: bool) -> None:
        """A slot that was asked back comes, and its request waits again; the call may be sent twice."""
        name = data.draw(st.sampled_from(sorted(self.recalled & {*self.model.held})))
        self.recalled.discard(name)
        before = self.asks[name]
        held_ms = self.now - self.model.held[name].since_ms
        ask = before._replace(
            cost=0, until_ms=self.now + wait_ms, finish_ms=0, gives=gives, before_ms=held_ms
        )
        waiter = self.model.recalls.waiter(name)
        is_wanted = waiter in self.model and self.asks[waiter].until_ms >= self.now
        self.waiting.add(name)
        self.served.discard(name)
        entered = self.model.give_back(name, ask, self.now)
        self.entered(name, ask, entered)
        if is_wanted:  # it has the slot, and nobody who came before; but for slots that went meanwhile
            assert waiter in self.model.held or len(self.model.held) >= self.limit
        else:
            assert entered.status == "granted"
        if again and name in self.model.held:
            assert self.ask(name, ask)[0] == b"granted"

    def entered(self, name: str, ask: Ask, entered: Entered, ticket_id: str = "") -> None:
        reply = self.ask(name, ask, ticket_id)
        assert reply[0].decode() == entered.status
        assert int(reply[3]) == entered.tag
        if entered.status != "granted":
            assert int(reply[1]) == entered.position
            assert float(reply[2]) == pytest.approx(entered.eta_ms)
        if entered.status != "waiting":
            self.waiting.discard(name)
            if entered.status == "granted":
                self.served.add(name)
            else:
                self.end(name)
        self.asks[name] = ask
        self.settle()

    def ask(self, name: str, ask: Ask, ticket_id: str = "") -> Any:
        tag = self.tag_of(ticket_id)
        left = (ask.until_ms - self.now, ask.finish_ms - self.now if ask.finish_ms else 0)
        terms = [name, self.worker_of[name], ask.tenant, ask.band, ask.cost, ask.size, *left]
        bounds = [tag, MAX_WAITING, MAX_BYTES, ticket_id, 120_000]
        return self.run("enter", *terms, *bounds, int(ask.gives), ask.before_ms, int(ask.has_waited))

    def tag_of(self, ticket_id: str) -> int:
        """As a worker reads it; one that has been used the script must know by itself."""
        tags = [max(0, ticket.tag - 1) for ticket in self.tickets if ticket.id == ticket_id]
        return tags[0] if tags else -1

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), held_ms=st.integers(1, 5000), difference=st.integers(-200, 200))
    def release(self, data: st.DataObject, held_ms: int, difference: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.held)))
        self.served.discard(name)
        self.end(name)
        ask = self.asks[name]
        self.model.settle(ask.tenant, ask.band, difference)
        self.model.release(name, held_ms, self.now)
        self.give_back(name, held_ms, ask, difference)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.discard(name)
        self.end(name)
        self.model.leave(name, self.now)
        self.give_back(name, -1, self.asks[name], 0)
        self.settle()

    def give_back(self, name: str, held_ms: float, ask: Ask, difference: int) -> None:
        rows = f'[["{name}",{held_ms},"{ask.tenant}",{ask.band},{difference}]]'
        self.run("release", rows)

    @rule(ms=st.sampled_from([1, 100, 1500]))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self.beat()

    @rule(at=st.integers(0, 1))
    def die(self, at: int) -> None:
        """A worker falls silent; its slots and places come back, and another is started in its place."""
        dead, (living,) = self.workers[at], [each for each in self.workers if each != self.workers[at]]
        self.now += SILENT_MS[0]
        self.beat(living)
        self.now += SILENT_MS[1]
        gone = {name for name in self.waiting | self.served if self.worker_of[name] == dead}
        self.waiting -= gone
        self.served -= gone
        self.end(*gone)
        bury(self.model, gone)
        self.workers[at] = f"w{next(self.births)}"
        self.beat(living)
        assert not self.redis.exists("mail:" + dead)
        self.beat(self.workers[at])

    def beat(self, *workers: str) -> None:
        for worker in workers or self.workers:
            self.model.resize(self.limit, self.now)
            self.run("beat", worker, "00", self.limit)
            self.model.measure(self.now)
            self.model.recall(self.now)
            self.model.rest()
            self.settle()

    @rule(limit=st.integers(1, 8))
    def resize(self, limit: int) -> None:
        self.limit = limit
        for worker in self.workers:  # they all know
            self.redis.hset("q:state", "l" + worker, limit)
        self.beat()

    @invariant()
    def same_state(self) -> None:
        assert {name.decode() for name in self.redis.hkeys("q:held")} == {*self.model.held} == self.served
        self.counts_are_those_of_the_slots()
        given = {name.decode(): value.decode() for name, value in self.redis.hgetall("q:gives").items()}
        kept = self.model.recalls.given.items()
        assert given == {name: f"{each.granted_ms}|{each.waiter}" for name, each in kept}
        assert given.keys() <= self.model.held.keys()
        names = list(self.model.waiting_names())
        assert [name.decode() for name in self.redis.zrange("q:line", 0, -1)] == names
        assert self.redis.hlen("q:entries") == len(names)
        assert {*names} <= self.waiting
        late = {name for name in self.waiting if self.asks[name].until_ms < self.now}
        assert self.waiting - late <= {*names}, "somebody who waits was forgotten"
        assert not self.ended & (self.waiting | self.served)
        assert int(self.redis.hget("q:state", "bytes") or 0) == self.model.num_bytes
        if names:
            held, waiting, places, etas, tags = self.run("look", *names)
            left = self.model.left(self.now)
            for name, place, eta, tag in zip(names, places, etas, tags, strict=True):
                assert (place, pytest.approx(float(eta))) == self.model.where(name, left, self.now)
                assert int(tag) == self.model.tag(name)
            assert (held, waiting) == (len(self.model.held), len(names))
        for kind in {(self.asks[name].tenant, self.asks[name].band) for name in names}:
            own = [name for name in names if (self.asks[name].tenant, self.asks[name].band) == kind]
            own = [name for name in own if self.asks[name].tag < 0]  # those that have no ticket
            assert own == sorted(own), "first come, first served"
        newcomers = [self.asks[name] for name in names if self.asks[name].before_ms < 0]
        assert len(newcomers) <= MAX_WAITING + self.num_moved
        assert sum(ask.size for ask in newcomers) <= MAX_BYTES + self.moved_bytes

    def counts_are_those_of_the_slots(self) -> None:
        since: dict[int, dict[bytes, float]] = {0: {}, 1: {}, 2: {}}
        by_worker: Counter[bytes] = Counter()
        by_tenant: dict[int, Counter[bytes]] = {0: Counter(), 1: Counter(), 2: Counter()}
        for name, value in self.redis.hgetall("q:held").items():
            worker, began_ms, band, tenant = value.split(b"|")
            since[int(band)][name] = float(began_ms)
            by_worker[worker] += 1
            by_tenant[int(band)][tenant] += 1
        for band, names in since.items():
            assert dict(self.redis.zrange(f"q:held:since:{band}", 0, -1, withscores=True)) == names
            assert dict(self.redis.zrange(f"q:held:of:{band}", 0, -1, withscores=True)) == by_tenant[band]
        assert {name: int(number) for name, number in self.redis.hgetall("q:held:by").items()} == by_worker
        asked = {name.encode() for name, each in self.model.recalls.given.items() if each.waiter}
        assert self.redis.smembers("q:held:asked") == asked


def machine(redis: Redis, headroom_share: float) -> type[RuleBasedStateMachine]:
    parts = {"redis": redis, "script": redis.register_script(SCRIPT), "headroom_share": headroom_share}
    return type("Both", (Both,), parts)


@pytest.mark.parametrize("headroom_share", [0.0, 0.3])
def test_the_script_and_the_maths_agree(redis_process: RedisProcess, headroom_share: float) -> None:
    with Redis.from_url(redis_process.url, protocol=3) as redis:
        run_state_machine_as_test(
            machine(redis, headroom_share),
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
