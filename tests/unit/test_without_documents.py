"""Requests that want no documents: which tiers take them, and that nothing is searched for, cited or remembered."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import InvalidRequest, UpstreamUnavailable
from gateway.pipeline.handover import digest
from gateway.tiering.ladder import Orders, Step
from gateway.tiering.tiers import Tier, builtin_tiers
from gateway.types import Receipt, Tenant
from tests.fakes.pipelines import TiersBench, request_of


class Bench(TiersBench):
    """`small` and `large` write; the chain of `large` names a tier that quotes before the one that writes."""

    def __init__(self) -> None:
        super().__init__(
            [
                *builtin_tiers(2, 2),
                Tier("small", "", 8, 2, 4096),
                Tier("large", "", 8, 2, 4096, fallback=("deep", "small")),
            ]
        )

    async def run(self, model: str, tenant: Tenant | None = None, **changes: Any) -> Receipt:
        return await super().run(model, tenant, **{"without_documents": True} | changes)


async def test_nothing_is_searched_for_and_the_tier_knows() -> None:
    bench = Bench()
    receipt = await bench.run("large")
    assert (receipt.tier, receipt.passages, receipt.hops, receipt.search_ms) == ("large", [], 0, -1.0)
    assert bench.retriever.scopes == []
    (inquiry,) = bench.answerers["large"].inquiries
    assert inquiry.without_documents


@pytest.mark.parametrize("model", ["fast", "deep"])
async def test_a_tier_that_quotes_says_which_write(model: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await Bench().run(model)
    assert refused.value.message == (
        f"The model '{model}' quotes documents, so it has no answer without any; these write: small, large."
    )
    assert (refused.value.code, refused.value.param) == ("unsupported_value", "tidegate.retrieval")


async def test_auto_takes_one_that_writes_and_that_the_tenant_may_use() -> None:
    assert (await Bench().run("auto")).tier == "small"
    assert (await Bench().run("auto", Tenant("t", tiers=frozenset({"fast", "large"})))).tier == "large"
    with pytest.raises(InvalidRequest, match="no tier here writes"):
        await Bench().run("auto", Tenant("t", tiers=frozenset({"fast"})))


async def test_the_chain_passes_over_tiers_that_quote() -> None:
    bench = Bench()
    bench.answerers["large"].fail_with = UpstreamUnavailable("down")
    receipt = await bench.run("large")
    assert receipt.tier == "small"
    assert bench.answerers["deep"].inquiries == []


async def test_the_ladder_sends_nobody_to_a_tier_that_quotes() -> None:
    bench = Bench()
    bench.pipeline.ladders.orders = Orders([Step.SMALLER_TIER, Step.EXTRACTIVE_ONLY], [])
    assert (await bench.run("large")).tier == "large"


def test_a_stream_is_not_gone_on_with_by_the_same_question_to_the_documents() -> None:
    assert digest(request_of("large", without_documents=True)) != digest(request_of("large"))
