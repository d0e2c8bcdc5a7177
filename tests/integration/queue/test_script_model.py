"""The script inside Redis and the pure maths say the same, whatever happens in whatever order."""

from __future__ import annotations

from typing import Any

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

from gateway.admission.line import Ask, Entered, FairLine
from gateway.admission.queue_store import SCRIPT
from tests.fakes.redis_process import RedisProcess

WORKER, MAX_WAITING, MAX_BYTES = "w", 5, 1000
KEYS = [f"q:{part}" for part in ("held", "line", "entries", "tenants", "state", "workers", "seen", "gives")]
TENANTS = st.sampled_from(["a", "b", "c"])


def machine(redis: Redis, headroom_share: float) -> type[RuleBasedStateMachine]:
    script = redis.register_script(SCRIPT)

    class Both(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            redis.flushall()
            self.now, self.limit, self.count = 1_000_000, 2, 0
            self.model = FairLine(self.limit, MAX_WAITING, MAX_BYTES, headroom_share)
            self.waiting: set[str] = set()
            self.recalled: set[str] = set()
            self.asks: dict[str, Ask] = {}
            self.run("beat", WORKER, "00")

        def run(self, operation: str, *args: Any) -> Any:
            return script(
                keys=KEYS, args=[operation, self.now, self.limit, "mail:", self.model.headroom, *args]
            )

        def settle(self) -> None:
            """Whose wait ended is the same in both, by kind; each is told once."""
            moves = self.model.moves()
            told = [letter.decode() for letter in redis.lpop("mail:" + WORKER, 1000) or []]
            kinds = {"g": moves.granted, "d": moves.displaced, "r": moves.recalled}
            assert sorted(told) == sorted(kind + name for kind, names in kinds.items() for name in names)
            assert {*moves.recalled} <= {*self.model.held} | {*moves.granted}
            self.recalled |= {*moves.recalled}
            ended = {*moves.granted, *moves.displaced}
            assert ended <= self.waiting
            self.waiting -= ended

        @rule(
            tenant=TENANTS,
            band=st.integers(0, 2),
            cost=st.integers(1, 500),
            size=st.sampled_from([0, 10, 400, 2000]),
            wait_ms=st.sampled_from([50, 1000, 100_000]),
            finish_ms=st.sampled_from([0, 0, 200, 100_000]),
            gives=st.booleans(),
        )
        def enter(
            self, tenant: str, band: int, cost: int, size: int, wait_ms: int, finish_ms: int, gives: bool
        ) -> None:
            self.count += 1
            name = f"{self.count:06d}"
            until, finish = self.now + wait_ms, self.now + finish_ms if finish_ms else 0
            ask = Ask(tenant, band, cost, size, until, finish, gives=gives)
            self.waiting.add(name)  # moved by its own arrival, at the earliest
            self.entered(name, ask, self.model.enter(name, ask, self.now))

        @precondition(lambda self: self.recalled & {*self.model.held})
        @rule(
            data=st.data(), wait_ms=st.sampled_from([1000, 100_000]), gives=st.booleans(), again=st.booleans()
        )
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
            entered = self.model.give_back(name, ask, self.now)
            self.entered(name, ask, entered)
            if is_wanted:  # it has the slot, and nobody who came before; but for slots that went meanwhile
                assert waiter in self.model.held or len(self.model.held) >= self.limit
            else:
                assert entered.status == "granted"
            if again and name in self.model.held:
                assert self.ask(name, ask)[0] == b"granted"

        def entered(self, name: str, ask: Ask, entered: Entered) -> None:
            reply = self.ask(name, ask)
            assert reply[0].decode() == entered.status
            assert int(reply[3]) == entered.tag
            if entered.status != "granted":
                assert int(reply[1]) == entered.position
                assert float(reply[2]) == pytest.approx(entered.eta_ms)
            if entered.status != "waiting":
                self.waiting.discard(name)
            self.asks[name] = ask
            self.settle()

        def ask(self, name: str, ask: Ask) -> Any:
            left = (ask.until_ms - self.now, ask.finish_ms - self.now if ask.finish_ms else 0)
            terms = [name, WORKER, ask.tenant, ask.band, ask.cost, ask.size, *left]
            bounds = [-1, MAX_WAITING, MAX_BYTES, "", 1]
            return self.run("enter", *terms, *bounds, int(ask.gives), ask.before_ms)

        @precondition(lambda self: self.model.held)
        @rule(data=st.data(), held_ms=st.integers(1, 5000), difference=st.integers(-200, 200))
        def release(self, data: st.DataObject, held_ms: int, difference: int) -> None:
            name = data.draw(st.sampled_from(sorted(self.model.held)))
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

        def beat(self) -> None:
            self.model.resize(self.limit, self.now)
            self.run("beat", WORKER, "00")
            self.model.recall(self.now)
            self.model.rest()
            self.settle()

        @rule(limit=st.integers(1, 8))
        def resize(self, limit: int) -> None:
            self.limit = limit
            self.beat()

        @invariant()
        def same_state(self) -> None:
            assert redis.hlen("q:held") == len(self.model.held)
            given = {name.decode(): value.decode() for name, value in redis.hgetall("q:gives").items()}
            kept = self.model.recalls.given.items()
            assert given == {name: f"{each.granted_ms}|{each.waiter}" for name, each in kept}
            assert given.keys() <= self.model.held.keys()
            names = list(self.model.waiting_names())
            assert [name.decode() for name in redis.zrange("q:line", 0, -1)] == names
            assert redis.hlen("q:entries") == len(names)
            assert int(redis.hget("q:state", "bytes") or 0) == self.model.num_bytes
            if names:
                held, waiting, places, etas = self.run("look", *names)
                left = self.model.left(self.now)
                for name, place, eta in zip(names, places, etas, strict=True):
                    assert (place, pytest.approx(float(eta))) == self.model.where(name, left, self.now)
                assert (held, waiting) == (len(self.model.held), len(names))
            for kind in {(self.asks[name].tenant, self.asks[name].band) for name in names}:
                own = [name for name in names if (self.asks[name].tenant, self.asks[name].band) == kind]
                assert own == sorted(own), "first come, first served"
            newcomers = [self.asks[name] for name in names if self.asks[name].before_ms < 0]
            assert len(newcomers) <= MAX_WAITING
            assert sum(ask.size for ask in newcomers) <= MAX_BYTES

    return Both


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
