"""A tier that fails: another one answers, before the first token and never after, and the receipt says so."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.errors import (
    CircuitOpen,
    DeadlineExceeded,
    PromptTooLong,
    Rejected,
    TidegateError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.tiering.tiers import Tier, builtin_tiers
from gateway.types import Receipt, Tenant
from tests.fakes.pipelines import TiersBench

CHAIN = ("small", "deep", "fast")


class Gate:
    def __init__(self) -> None:
        self.error: TidegateError | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error


class Bench(TiersBench):
    """Tiers `large` → `small` → `deep` → `fast`; the gate is that of `large`."""

    def __init__(self, fallback: tuple[str, ...] = CHAIN) -> None:
        self.gate = Gate()
        tiers = [
            *builtin_tiers(2, 2),
            Tier("small", "", 8, 2, 4096, fallback=("deep",)),
            Tier("large", "", 8, 2, 4096, fallback=fallback, is_remote=True),
        ]
        super().__init__(tiers, gates={"large": self.gate})

    async def ask(self, **changes: Any) -> Receipt:
        return await self.run("large", **changes)

    def count(self, tier: str, cause: str, instead: str) -> float:
        labels = {"tier": tier, "cause": cause, "instead": instead}
        return self.metrics.registry.get_sample_value("tidegate_fallbacks_total", labels) or 0.0

    @property
    def inflight(self) -> int:
        return sum(queue.inflight for queue in self.queues.values())


FAILURES = [
    (UpstreamUnavailable("away"), "unavailable"),
    (UpstreamTimeout("slow"), "timeout"),
    (CircuitOpen("left alone"), "circuit_open"),
    (UpstreamOverloaded("full"), "overloaded"),
    (UpstreamProtocolError("garbage"), "malformed"),
]


@pytest.mark.parametrize(("error", "cause"), FAILURES, ids=[cause for _, cause in FAILURES])
async def test_another_tier_answers_and_the_receipt_says_why(error: TidegateError, cause: str) -> None:
    bench = Bench()
    bench.answerers["large"].fail_with = error
    receipt = await bench.ask()
    assert (bench.sink.text, receipt.tier, receipt.outcome) == ("by small", "small", "completed")
    assert receipt.tier_reason.startswith("asked for by name; large ")
    assert receipt.tier_reason.endswith(f"({cause}), so small answers")
    assert bench.sink.chosen_tiers == ["large", "small"]
    assert bench.count("large", cause, "small") == 1
    assert (bench.inflight, bench.retriever.started, len(bench.records)) == (0, 1, 1)


async def test_the_whole_chain_is_gone_down_each_tier_once_and_not_their_own_chains() -> None:
    bench = Bench()
    for name in ("large", "small", "deep"):
        bench.answerers[name].fail_with = UpstreamUnavailable("away")
    receipt = await bench.ask()
    assert (bench.sink.text, receipt.tier) == ("by fast", "fast")
    assert [each.started for each in bench.answerers.values()] == [1, 1, 1, 1]
    assert receipt.tier_reason.count("(unavailable)") == 3


async def test_where_all_fail_the_first_error_is_told() -> None:
    bench = Bench(("deep",))
    bench.answerers["large"].fail_with = UpstreamOverloaded("full", retry_after_s=7)
    bench.answerers["deep"].fail_with = UpstreamUnavailable("away")
    with pytest.raises(UpstreamOverloaded) as refused:
        await bench.ask()
    assert refused.value.delay_s() == 7
    assert [(each.outcome, each.cause) for each in bench.records] == [("failed", "upstream_overloaded")]
    assert bench.inflight == 0


async def test_after_the_first_token_nobody_takes_its_place() -> None:
    bench = Bench()
    bench.answerers["large"].texts = ["one ", "two"]
    bench.answerers["large"].fail_with, bench.answerers["large"].fail_at = UpstreamUnavailable("away"), 1
    with pytest.raises(UpstreamUnavailable):
        await bench.ask()
    assert (bench.sink.text, bench.answerers["small"].started) == ("one ", 0)


async def test_a_prompt_that_was_built_leaves_no_trace_when_another_tier_answers() -> None:
    bench = Bench(("deep",))
    bench.answerers["large"].fail_with, bench.answerers["large"].num_passages = UpstreamTimeout("slow"), 1
    receipt = await bench.ask()
    assert [each["in_prompt"] for each in receipt.passages] == [True, True]
    assert receipt.usage.prompt_tokens == 7


async def test_an_open_circuit_is_seen_before_anything_is_done() -> None:
    bench = Bench()
    bench.gate.error = CircuitOpen("left alone")
    receipt = await bench.ask()
    assert (receipt.tier, bench.answerers["large"].started) == ("small", 0)
    assert bench.retriever.scopes[0].k == 8
    assert bench.count("large", "circuit_open", "small") == 1


async def test_a_full_line_leads_to_the_next_tier_with_room() -> None:
    bench = Bench()
    held = [
        await bench.queues[name].acquire(band="batch", deadline=float("inf")) for name in ("large", "small")
    ]
    receipt = await bench.ask()
    assert receipt.tier == "deep"
    assert "large has no room (overloaded), so small answers; small has no room" in receipt.tier_reason
    for permit in held:
        permit.release()


async def test_without_a_chain_the_error_is_told() -> None:
    bench = Bench(())
    bench.answerers["large"].fail_with = UpstreamUnavailable("away")
    with pytest.raises(UpstreamUnavailable):
        await bench.ask()
    held = await bench.queues["large"].acquire(band="batch", deadline=float("inf"))
    with pytest.raises(Rejected):
        await bench.ask()
    held.release()


async def test_a_tenant_is_not_led_to_a_tier_that_it_has_no_right_to() -> None:
    bench = Bench()
    bench.answerers["large"].fail_with = UpstreamUnavailable("away")
    receipt = await bench.ask(tenant=Tenant("t", tiers=["large", "fast"]))
    assert receipt.tier == "fast"


async def test_a_callers_own_fault_and_the_end_of_its_time_go_nowhere_else() -> None:
    bench = Bench()
    bench.answerers["large"].fail_with = PromptTooLong("too long")
    with pytest.raises(PromptTooLong):
        await bench.ask()
    bench.answerers["large"].delay_s = 9
    with pytest.raises(DeadlineExceeded):
        await bench.ask(deadline=time.monotonic() + 0.05, has_own_deadline=True)
    assert bench.answerers["small"].started == 0


async def test_a_failed_search_is_no_tiers_fault() -> None:
    bench = Bench()
    bench.retriever.fail_with = UpstreamUnavailable("away")
    with pytest.raises(UpstreamUnavailable):
        await bench.ask()
    assert bench.sink.chosen_tiers == ["large"]
