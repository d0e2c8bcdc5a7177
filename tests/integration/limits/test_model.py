"""The limiter of three workers over a real Redis, beside a model that sees all: nothing over a limit, nothing lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
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

from gateway.admission.quota import Reservation
from gateway.types import Limits, Tenant
from tests.fakes.redis_process import RedisProcess
from tests.integration.limits.conftest import Clock, Workers

REQUESTS, TOKENS, STREAMS, BUDGET = 12, 200, 4, 600
LIMITS = Limits(
    requests_per_minute=REQUESTS, tokens_per_minute=TOKENS, concurrent_streams=STREAMS, monthly_tokens=BUDGET
)
OF_KEY = Limits(requests_per_minute=8, concurrent_streams=3)
WINDOW_S = 60.0
NUM_WORKERS = 3


@dataclass
class Admitted:
    at: float
    key: int
    tokens: int  # estimated, then real
    held: Reservation | None


class LimiterBesideModel(RuleBasedStateMachine):
    url = ""
    server: RedisProcess

    def __init__(self) -> None:
        super().__init__()
        self.server.command("FLUSHALL")
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.workers = self.run(self._start())
        self.log: list[Admitted] = []

    async def _start(self) -> Workers:
        return Workers(self.url, NUM_WORKERS, self.clock)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def tenant(self, key: int) -> Tenant:
        return Tenant("acme", f"key_{key}", limits=LIMITS, key_limits=OF_KEY)

    @rule(
        at=st.integers(0, NUM_WORKERS - 1),
        key=st.integers(1, 2),
        tokens=st.integers(1, 120),
        burst=st.integers(1, 6),
    )
    def ask(self, at: int, key: int, tokens: int, burst: int) -> None:
        for _ in range(burst):
            held = self.run(self.workers.admits(at, self.tenant(key), tokens))
            if held is not None:
                self.log.append(Admitted(self.clock.now, key, tokens, held))

    @precondition(lambda self: any(each.held for each in self.log))
    @rule(share=st.floats(0, 1), newest=st.booleans())
    def end(self, share: float, newest: bool) -> None:
        running = [each for each in self.log if each.held]
        ended = running[-1 if newest else 0]
        ended.tokens = int(ended.tokens * share)
        assert ended.held is not None
        ended.held.settle(ended.tokens)
        ended.held = None

    @rule(seconds=st.sampled_from([0.1, 0.7, 1.0, 5.0, 20.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.run(self.workers.advance(seconds))

    @rule(at=st.integers(0, NUM_WORKERS - 1))
    def tick_one(self, at: int) -> None:
        self.run(self.workers.limiters[at].tick())

    @invariant()
    def nothing_is_over_a_limit(self) -> None:
        recent = [each for each in self.log if each.at > self.clock.now - WINDOW_S]
        running = [each for each in self.log if each.held]
        assert len(recent) <= REQUESTS
        assert sum(each.tokens for each in recent) <= TOKENS
        assert len(running) <= STREAMS
        assert sum(each.tokens for each in self.log) <= BUDGET
        for key in (1, 2):
            assert sum(each.key == key for each in recent) <= 8
            assert sum(each.key == key for each in running) <= 3

    def teardown(self) -> None:
        try:
            self.nothing_is_lost()
        finally:
            self.run(self.workers.close())
            self.loop.close()

    def nothing_is_lost(self) -> None:
        """When all have ended and the minute has passed, all of every limit can be had again."""
        for each in self.log:
            if each.held:
                each.held.settle(each.tokens)
                each.held = None
        self.run(self.workers.advance(64.0))
        tenant = Tenant("acme", limits=LIMITS)
        left = min(TOKENS, BUDGET - sum(each.tokens for each in self.log))
        if left > 0:
            held = self.run(self.workers.admits(0, tenant, left))
            assert held is not None
            held.settle(0)
        self.run(self.workers.advance(1.0))
        without_budget = Tenant(
            "acme", limits=Limits(requests_per_minute=REQUESTS, concurrent_streams=STREAMS)
        )
        for _ in range(STREAMS):
            assert self.run(self.workers.admits(1, without_budget)) is not None


@pytest.fixture
def machine(redis_process: RedisProcess) -> type[LimiterBesideModel]:
    class Machine(LimiterBesideModel):
        url, server = redis_process.url, redis_process

    return Machine


@pytest.mark.timeout(300)
def test_three_workers_never_admit_more_than_the_model(machine: type[LimiterBesideModel]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
