"""What a request is charged in its tier's queue."""

from __future__ import annotations

import msgspec
import pytest

from gateway.admission.waiting import Slot
from gateway.filters import Filter
from gateway.pipeline.asking import Asking
from gateway.pipeline.request import ChatRequest
from gateway.pipeline.route import Route
from gateway.tier_config import GenerateTier, UpstreamTier
from gateway.tiering.ladder import Step
from gateway.tiering.tiers import Tier, generative_tiers
from gateway.types import Outcome, Receipt, Sampling, Tenant, Turn, Usage

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


def with_max_tokens(number: int | None) -> ChatRequest:
    return msgspec.structs.replace(REQUEST, sampling=Sampling(max_tokens=number))


@pytest.mark.parametrize(
    "configured",
    [
        GenerateTier(checkpoint="/model", max_tokens=4096, context_tokens=32_768),
        UpstreamTier(base_url="http://vllm", model="m", max_tokens=4096, context_tokens=32_768),
    ],
    ids=["ours", "another's"],
)
@pytest.mark.parametrize(
    ("asked", "reserved"), [(None, 4096), (64, 64), (8000, 8000)], ids=["unsaid", "less", "more"]
)
def test_limits_reserve_the_longest_answer_that_may_come(
    configured: GenerateTier | UpstreamTier, asked: int | None, reserved: int
) -> None:
    (tier,) = generative_tiers([configured], num_replicas=1)
    assert Asking(chunk_chars=900).estimate(with_max_tokens(asked), Route(tier)).answer == reserved


def test_a_tier_that_quotes_reserves_its_quotes_whatever_is_asked() -> None:
    asking, quotes = Asking(chunk_chars=900), Route(Tier("fast", "Quotes.", 5, 4, max_tokens=4096))
    assert [asking.estimate(with_max_tokens(asked), quotes).answer for asked in (None, 64, 8000)] == [
        200,
        64,
        200,
    ]


def test_the_queue_learns_what_such_answers_really_cost_and_limits_do_not() -> None:
    asking, route = Asking(chunk_chars=900), Route(TIER)
    request = with_max_tokens(None)
    before, reserved = asking.claim(request, route).cost, asking.estimate(request, route)
    receipt = Receipt(id="1", created=0, outcome=Outcome.COMPLETED, usage=Usage(400, 100))
    asking.settle(Slot(), request, route, receipt)
    assert asking.claim(request, route).cost < before / 2
    assert asking.estimate(request, route) == reserved


@pytest.mark.parametrize(
    ("changes", "num_bytes"),
    [
        ({"question": "why?"}, 4),
        ({"question": "wäre"}, 5),
        ({"question": "水はどこ"}, 12),
        (
            {"question": "\U0001f30a", "history": [Turn(role="user", text="é"), Turn(role="user", text="e")]},
            7,
        ),
        ({"question": "", "written": "größer"}, 8),
        ({"question": "", "sampling": Sampling(json_schema='{"type":"object"}', stop=["ß"])}, 19),
        ({"question": "", "filters": Filter(type="eq", key="ä", value="ö")}, 37),
    ],
    ids=["ascii", "latin", "kana", "conversation", "follow-up", "schema", "filters"],
)
def test_the_line_is_told_the_bytes_that_a_request_holds(changes: dict[str, object], num_bytes: int) -> None:
    request = msgspec.structs.replace(REQUEST, **changes)
    assert Asking(chunk_chars=900).claim(request, Route(TIER)).size == num_bytes
