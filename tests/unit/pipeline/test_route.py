"""Whatever is ordered, whoever asks: a route keeps to the tenant's rights, its floor and the operator's orders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.slots import SlotQueue
from gateway.errors import NotFound, Rejected
from gateway.metrics import Metrics
from gateway.pipeline.request import ChatRequest
from gateway.pipeline.route import Router
from gateway.tiering.ladder import FLOORS, STEPS, Orders, Step, in_force
from gateway.tiering.ladders import BANDS, Ladders, Line
from gateway.tiering.policy import LITTLE_BUDGET
from gateway.tiering.pressure import Reading
from gateway.tiering.tiers import AUTO, Tier, TierBook, builtin_tiers
from gateway.types import Outcome, Receipt, Sampling, Scope, Tenant

ALL = [*builtin_tiers(2, 2), Tier("small", "Writes.", 8, 2, context_tokens=4096)]
NAMES = [tier.name for tier in ALL]
QUESTIONS = ["What is it?", "Compare it and that", "Summarise it"]


def router(
    ladders: Ladders,
    auto: tuple[str, ...] = (),
    budget: float = 1.0,
    queues: dict[str, SlotQueue] | None = None,
) -> Router:
    queue = SlotQueue(2, max_waiting=0, ttl_s=1, clock=lambda: 0.0)
    return Router(
        tiers=TierBook(ALL, auto),
        queues=queues or dict.fromkeys(NAMES, queue),
        ladders=ladders,
        metrics=Metrics(),
        clock=lambda: 0.0,
        budget_left=lambda _: budget,
    )


def request(model: str, question: str = QUESTIONS[0], band: str = BANDS[0], **rights: object) -> ChatRequest:
    return ChatRequest(
        id="r",
        tenant=Tenant("t", **rights),  # type: ignore[arg-type]
        model=model,
        question=question,
        priority=band,
        received=0.0,
        deadline=60.0,
        created=1,
    )


def blank() -> Receipt:
    return Receipt(id="r", created=1, outcome=Outcome.FAILED)


some_steps = st.sets(st.sampled_from(STEPS))


@given(
    model=st.sampled_from([AUTO, *NAMES]),
    question=st.sampled_from(QUESTIONS),
    band=st.sampled_from(BANDS),
    allowed=st.sets(st.sampled_from(NAMES)),
    floor=st.sampled_from(FLOORS),
    pinned=some_steps,
    forbidden=some_steps,
    eta_s=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 40), min_size=3),
    top_k=st.none() | st.integers(1, 64),
    max_tokens=st.none() | st.integers(1, 1000),
)
def test_rights_floor_and_orders_hold(
    model: str,
    question: str,
    band: str,
    allowed: set[str],
    floor: str,
    pinned: set[Step],
    forbidden: set[Step],
    eta_s: dict[str, float],
    top_k: int | None,
    max_tokens: int | None,
) -> None:
    ladders = Ladders(NAMES)
    for tick in range(16):
        ladders.observe({Line(name, band): Reading(eta) for name, eta in eta_s.items()}, tick / 4)
    ladders.orders = Orders(list(pinned - forbidden), list(forbidden)).checked()
    asked, receipt = request(model, question, band, tiers=tuple(sorted(allowed)), floor=floor), blank()
    may = [*allowed] or NAMES
    worst = in_force(len(STEPS), ladders.orders, floor)
    routing = router(ladders)
    try:
        route = routing.choose(asked, receipt)
        routing.check(asked, route, receipt)
    except NotFound:
        assert model not in {AUTO, *may}
        return
    except Rejected:
        assert Step.REFUSE in worst
        assert receipt.degraded == [Step.REFUSE]
        return
    assert route.tier.name in may
    assert receipt.tier == route.tier.name
    assert receipt.tier_reason
    if model != AUTO and route.tier.name != model:
        assert receipt.degraded == [Step.EXTRACTIVE_ONLY]
    scope = route.narrowed(Scope(tenant_id="t", k=top_k or route.tier.num_passages), receipt)
    sampling = route.sampling(Sampling(max_tokens=max_tokens), receipt)
    assert 1 <= scope.k <= (top_k or route.tier.num_passages)
    assert sampling.max_tokens is None or max_tokens is None or sampling.max_tokens <= max_tokens
    assert set(receipt.degraded) <= set(worst) - forbidden
    assert receipt.degraded == [step for step in STEPS if step in receipt.degraded]
    if not receipt.degraded:
        assert (scope.rerank, sampling, route.is_short) == (True, Sampling(max_tokens=max_tokens), False)


@pytest.mark.parametrize(
    ("auto", "question", "budget", "tier"),
    [
        ((), QUESTIONS[2], 1.0, "deep"),
        (("fast", "deep", "small"), QUESTIONS[2], 1.0, "small"),
        (("fast", "deep", "small"), QUESTIONS[1], 1.0, "deep"),
        (("fast", "deep", "small"), QUESTIONS[2], LITTLE_BUDGET / 2, "fast"),
    ],
    ids=["quoting-only", "may-write", "two-facts", "no-budget"],
)
def test_auto_takes_what_it_may(auto: tuple[str, ...], question: str, budget: float, tier: str) -> None:
    receipt = blank()
    route = router(Ladders(NAMES), auto, budget).choose(request(AUTO, question), receipt)
    assert route.tier.name == tier
    assert receipt.tier_reason.startswith("auto: ")


def test_thin_evidence_goes_to_a_tier_that_writes_where_it_may_and_deep_is_not_there() -> None:
    choosing, receipt = router(Ladders(NAMES), ("fast", "small")), blank()
    asked = request(AUTO)
    route = choosing.choose(asked, receipt)
    better = choosing.better(asked, route, [])
    assert better is not None
    assert (route.tier.name, better.tier.name) == ("fast", "small")
    barred = request(AUTO, tiers=("fast", "deep"))
    assert choosing.better(barred, choosing.choose(barred, blank()), []) is None


def test_a_pace_that_was_learned_counts_against_the_deadline() -> None:
    choosing, receipt = router(Ladders(NAMES)), blank()
    for tier, total_ms in (("fast", 20.0), ("deep", 90_000.0)):
        choosing.learn(Receipt(id="x", created=1, outcome=Outcome.COMPLETED, tier=tier, total_ms=total_ms))
    route = choosing.choose(request(AUTO, QUESTIONS[1]), receipt)
    assert route.tier.name == "fast"
    assert receipt.tier_reason.endswith("deep would take 90.0 s of the 60.0 s left")


@pytest.mark.parametrize(
    ("waits", "model", "band", "tier", "degraded"),
    [
        ({"deep": 25.0}, AUTO, "batch", "fast", ["smaller_tier"]),
        ({"small": 25.0}, "small", "batch", "fast", ["extractive_only"]),
        ({"deep": 25.0, "fast": 30.0}, AUTO, "batch", None, ["refuse"]),
        ({"deep": 25.0}, "deep", "batch", None, ["refuse"]),
        ({"deep": 5.5, "fast": 19.0}, AUTO, "standard", "deep", []),
        ({"deep": 5.5, "fast": 5.0}, AUTO, "standard", "fast", ["smaller_tier"]),
        ({"deep": 5.5, "fast": 0.0}, AUTO, "standard", "fast", ["smaller_tier"]),
    ],
    ids=[
        "idle-instead-of-refused",
        "quoted-instead-of-refused",
        "both-refuse",
        "by-name",
        "longer",
        "shorter",
        "idle",
    ],
)
async def test_pressure_sends_nobody_to_a_longer_line_and_refuses_nobody_for_whom_a_smaller_tier_is_free(
    waits: dict[str, float], model: str, band: str, tier: str | None, degraded: list[str]
) -> None:
    ladders, now = Ladders(NAMES), [0.0]
    queues = {name: SlotQueue(1, max_waiting=99, ttl_s=99, clock=lambda: now[0]) for name in NAMES}
    for name, wait_s in waits.items():  # one slot that is held for that long, and taken
        now[0], permit = 0.0, await queues[name].acquire(band="batch", deadline=999.0)
        now[0] = wait_s
        permit.release()
        if wait_s:
            await queues[name].acquire(band="batch", deadline=999.0)
    for tick in range(40):
        readings = {Line(name, band): Reading(wait_s) for name, wait_s in waits.items()}
        ladders.observe(readings, tick / 4)
    routing, receipt = router(ladders, queues=queues), blank()
    asked = request(model, QUESTIONS[1], band)
    route = routing.choose(asked, receipt)
    if tier is None:
        with pytest.raises(Rejected):
            routing.check(asked, route, receipt)
    else:
        routing.check(asked, route, receipt)
        assert route.tier.name == tier
    assert receipt.degraded == degraded
