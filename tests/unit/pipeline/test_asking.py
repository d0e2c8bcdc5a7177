"""What a request is charged in its tier's queue."""

from __future__ import annotations

from gateway.pipeline.asking import Asking
from gateway.pipeline.request import ChatRequest
from gateway.pipeline.route import Route
from gateway.tiering.ladder import Step
from gateway.tiering.tiers import Tier
from gateway.types import Sampling, Tenant

TIER = Tier("small", "Writes.", 8, 12, context_tokens=4096)
REQUEST = ChatRequest(
    id="1",
    tenant=Tenant(tenant_id="acme"),
    model="small",
    question="What does the gate do?",
    sampling=Sampling(max_tokens=64),
    received=0.0,
    deadline=60.0,
    created=0,
)


def test_a_step_of_the_ladder_makes_newcomers_no_lighter_than_those_in_line() -> None:
    asking = Asking(chunk_chars=900)
    calm, pressed = Route(TIER), Route(TIER, steps=[Step.FEWER_PASSAGES])
    assert (
        asking.estimate(REQUEST, pressed).weighed < asking.estimate(REQUEST, calm).weighed
    )  # of its limits it takes less
    assert asking.claim(REQUEST, pressed).cost == asking.claim(REQUEST, calm).cost
