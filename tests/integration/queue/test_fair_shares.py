"""The bound of fair queueing holds in the script, over several workers that come and die.

While two tenants both wait without a break in one band, what the one is given and what the other is given never differ
by more than two of the dearest requests, in whichever stretch of that time. Start-time fair queueing promises it.
"""

from __future__ import annotations

from itertools import combinations, count
from typing import Any

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

from gateway.admission.queue_store import SCRIPT
from tests.fakes.redis_process import RedisProcess

KEYS = [f"q:{part}" for part in ("held", "line", "entries", "tenants", "state", "workers", "seen", "gives")]
TENANTS, BANDS = ("a", "b", "c"), (0, 1)
DEAREST = 500  # tokens
BOUND = 2 * DEAREST
MAX_WAITING = 12
HOUR_MS = 3_600_000


class Stretch:
    """How far two tenants' service has drifted apart since both began to wait."""

    def __init__(self) -> None:
        self.drift = self.least = self.most = 0

    def add(self, cost: int) -> None:
        self.drift += cost
        self.least, self.most = min(self.least, self.drift), max(self.most, self.drift)
        assert self.most - self.least <= BOUND


class FairShares(RuleBasedStateMachine):
    """What it runs on stands in a subclass: Hypothesis makes it by itself."""

    redis: Redis
    script: Script

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.now, self.limit = 1_000_000, 2
        self.numbers, self.births = count(), count()
        self.workers: list[str] = []
        self.asks: dict[str, tuple[str, int, int, str]] = {}  # tenant, band, cost, worker
        self.line: set[str] = set()
        self.order: list[str] = []  # of the line, after the last call
        self.served: set[str] = set()
        self.stretches: dict[tuple[int, str, str], Stretch] = {}
        self.start()
        self.start()

    def start(self) -> None:
        self.workers.append(f"w{next(self.births)}")
        self.run("beat", self.workers[-1], "00", self.limit)

    def run(self, operation: str, *args: Any) -> Any:
        return self.script(keys=KEYS, args=[operation, self.now, self.limit, "mail:", 0, *args])

    def waits(self, tenant: str, band: int) -> bool:
        return any(self.asks[name][:2] == (tenant, band) for name in self.line)

    def look(self) -> None:
        """Read what the workers were told, in the order in which it was decided."""
        letters = [
            letter.decode()
            for worker in self.workers
            for letter in self.redis.lpop("mail:" + worker, 1000) or []
        ]
        if len(self.workers) > 1:  # by where they stood; one mailbox is in order by itself
            letters.sort(key=lambda letter: self.order.index(letter[1:]) if letter[1:] in self.order else 99)
        for letter in letters:
            kind, name = letter[0], letter[1:]
            assert name in self.line, "told once, and only who waits"
            if kind == "g":
                self.give(name)
            else:
                assert kind == "d"
                self.line.discard(name)
        self.see_who_waits()
        self.order = [name.decode() for name in self.redis.zrange("q:line", 0, -1)]

    def give(self, name: str) -> None:
        tenant, band, cost, _ = self.asks[name]
        self.see_who_waits()
        for (its_band, one, other), stretch in self.stretches.items():
            if its_band == band and tenant in {one, other}:
                stretch.add(cost if tenant == one else -cost)
        self.line.discard(name)
        self.served.add(name)
        self.see_who_waits()

    def see_who_waits(self) -> None:
        for band in BANDS:
            for pair in combinations(TENANTS, 2):
                if all(self.waits(tenant, band) for tenant in pair):
                    self.stretches.setdefault((band, *pair), Stretch())
                else:
                    self.stretches.pop((band, *pair), None)

    @rule(
        tenant=st.sampled_from(TENANTS),
        band=st.sampled_from(BANDS),
        cost=st.sampled_from([1, 20, 150, DEAREST]),
        number=st.integers(1, 4),
        at=st.integers(0, 1),
    )
    def enter(self, tenant: str, band: int, cost: int, number: int, at: int) -> None:
        for _ in range(number):
            self.ask(tenant, band, cost, at)

    @rule(tenant=st.sampled_from(TENANTS), band=st.sampled_from(BANDS), at=st.integers(0, 1))
    def have_a_spell(self, tenant: str, band: int, at: int) -> None:
        """Of work for one tenant, while others may ask for nothing."""
        for _ in range(8):
            self.ask(tenant, band, DEAREST, at)
            self.end(1)

    def ask(self, tenant: str, band: int, cost: int, at: int) -> None:
        name = f"{next(self.numbers):06d}"
        self.asks[name] = tenant, band, cost, self.workers[at]
        terms = [name, self.workers[at], tenant, band, cost, 10, HOUR_MS, 0]
        reply = self.run("enter", *terms, -1, MAX_WAITING, 10**6, "", 1, 0, -1)
        status = reply[0].decode()
        if status == "granted":
            self.served.add(name)  # nobody waited
        elif status == "waiting":
            self.line.add(name)
        else:
            assert status == "full"
        self.look()

    @precondition(lambda self: self.served)
    @rule(number=st.integers(1, 8))
    def end(self, number: int) -> None:
        """Those that came first."""
        for name in sorted(self.served)[:number]:
            self.served.discard(name)
            self.give_back(name, 100)

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.line)))
        self.line.discard(name)
        self.give_back(name, -1)

    def give_back(self, name: str, held_ms: int) -> None:
        tenant, band, _, _ = self.asks[name]
        self.run("release", f'[["{name}",{held_ms},"{tenant}",{band},0]]')
        self.look()

    @rule(at=st.integers(0, 1))
    def die(self, at: int) -> None:
        dead, living = self.workers[at], self.workers[1 - at]
        for silent_ms in (1500, 600):
            self.now += silent_ms
            if silent_ms == 600:
                gone = {name for name in self.line | self.served if self.asks[name][3] == dead}
                self.line -= gone
                self.served -= gone
                self.see_who_waits()
                self.workers.remove(dead)
            self.run("beat", living, "00", self.limit)
            self.look()
        self.start()
        self.look()

    @rule(limit=st.integers(1, 4))
    def resize(self, limit: int) -> None:
        self.limit = limit
        self.now += 100
        for worker in self.workers:  # they all know
            self.redis.hset("q:state", "l" + worker, limit)
        for worker in self.workers:
            self.run("beat", worker, "00", self.limit)
            self.look()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert {name.decode() for name in self.redis.hkeys("q:held")} == self.served
        assert {name.decode() for name in self.redis.zrange("q:line", 0, -1)} == self.line
        assert not self.line or len(self.served) >= self.limit, "a slot is free while somebody waits"


def test_no_tenant_that_waits_falls_behind_another(redis_process: RedisProcess) -> None:
    with Redis.from_url(redis_process.url, protocol=3) as redis:
        parts = {"redis": redis, "script": redis.register_script(SCRIPT)}
        run_state_machine_as_test(
            type("Shares", (FairShares,), parts),
            settings=settings(
                max_examples=80,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
