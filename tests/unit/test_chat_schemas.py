"""Answers that must hold to a JSON Schema: by tiers that can, by their chains' members that can, and by nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import InvalidRequest, UpstreamUnavailable
from gateway.tier_config import GenerateTier, UpstreamTier
from gateway.tiering.ladder import Orders, Step
from gateway.tiering.tiers import Tier, builtin_tiers, generative_tiers
from gateway.types import Receipt, Sampling, Tenant
from tests.fakes.pipelines import TiersBench

SCHEMA = '{"type":"object"}'


class Bench(TiersBench):
    """`cpu` writes and cannot; `small` and `large` can."""

    def __init__(self, *, able: bool = True) -> None:
        tiers = [*builtin_tiers(2, 2), Tier("cpu", "", 8, 2, 4096)]
        if able:
            tiers += [
                Tier("small", "", 8, 2, 4096, keeps_schemas=True),
                Tier("large", "", 8, 2, 4096, fallback=("deep", "cpu", "small"), keeps_schemas=True),
            ]
        super().__init__(tiers)

    async def run(self, model: str, tenant: Tenant | None = None, **changes: Any) -> Receipt:
        return await super().run(model, tenant, **{"sampling": Sampling(json_schema=SCHEMA)} | changes)


async def test_a_tier_that_can_is_given_the_schema() -> None:
    bench = Bench()
    assert (await bench.run("large")).tier == "large"
    assert bench.answerers["large"].inquiries[0].sampling.json_schema == SCHEMA


@pytest.mark.parametrize("model", ["fast", "deep", "cpu"])
async def test_a_tier_that_cannot_says_which_can(model: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await Bench().run(model)
    assert refused.value.message == (
        f"The model '{model}' cannot hold an answer to a JSON Schema; these can: small, large."
    )
    assert (refused.value.code, refused.value.param) == ("unsupported_value", "response_format")


@pytest.mark.parametrize("model", ["auto", "cpu"])
async def test_where_none_can_it_is_said(model: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot hold an answer to a JSON Schema; no tier here can"):
        await Bench(able=False).run(model)


async def test_auto_takes_one_that_can_and_that_the_tenant_may_use() -> None:
    assert (await Bench().run("auto")).tier == "small"
    assert (await Bench().run("auto", Tenant("t", tiers=frozenset({"fast", "large"})))).tier == "large"
    with pytest.raises(InvalidRequest, match="no tier here can"):
        await Bench().run("auto", Tenant("t", tiers=frozenset({"fast", "cpu"})))


async def test_only_members_of_the_chain_that_can_take_its_place() -> None:
    bench = Bench()
    bench.answerers["large"].fail_with = UpstreamUnavailable("away")
    assert (await bench.run("large")).tier == "small"
    bench.answerers["small"].fail_with = UpstreamUnavailable("away too")
    with pytest.raises(UpstreamUnavailable):
        await bench.run("large")
    assert bench.answerers["deep"].started == bench.answerers["cpu"].started == 0


async def test_under_load_json_is_neither_quoted_nor_cut_short() -> None:
    bench = Bench()
    bench.pipeline.ladders.orders = Orders(
        [Step.SHORTER_ANSWERS, Step.SMALLER_TIER, Step.EXTRACTIVE_ONLY], []
    )
    receipt = await bench.run("auto")
    assert (receipt.tier, receipt.degraded) == ("small", [])
    assert bench.answerers["small"].inquiries[0].sampling.max_tokens is None


def test_the_tiers_that_can_have_an_engine_with_a_grammar_or_a_server_that_is_said_to() -> None:
    configured = [
        GenerateTier(name="a", checkpoint="x", engine="tensorrt_llm"),
        GenerateTier(name="b", checkpoint="x", engine="vllm"),
        GenerateTier(name="c", checkpoint="x"),
        UpstreamTier(name="d", base_url="http://x", model="m"),
        UpstreamTier(name="e", base_url="http://x", model="m", json_schema=True),
    ]
    able = [tier.name for tier in generative_tiers(configured, 1) if tier.keeps_schemas]
    assert able == ["a", "b", "e"]
