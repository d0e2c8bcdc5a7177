"""Which tiers there are, and for whom."""

from __future__ import annotations

import pytest

from gateway.errors import NotFound
from gateway.settings import SettingsError
from gateway.tier_config import GenerateTier
from gateway.tiering.tiers import TierBook, builtin_tiers, generative_tiers, names_in
from gateway.types import Tenant

ANY = Tenant("t")
CONFIGURED = [GenerateTier(name="small", checkpoint="/m", slots=3, context_tokens=2048)]
NAMES = ["fast", "deep", "small"]
ALL = [*builtin_tiers(8, 4), *generative_tiers(CONFIGURED, 2)]


@pytest.mark.parametrize("model", ["auto", "fast", "deep", "small"])
def test_what_is_on_offer_may_be_asked_for(model: str) -> None:
    TierBook(ALL).check(model, ANY)


def test_an_unknown_model_is_refused_with_the_choices() -> None:
    with pytest.raises(NotFound, match="auto, fast, deep, small") as refused:
        TierBook(ALL).check("gpt-9", ANY)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_tier_that_the_tenant_may_not_use_looks_like_one_that_is_not_there() -> None:
    book, tenant = TierBook(ALL), Tenant("t", tiers=("fast",))
    with pytest.raises(NotFound) as foreign:
        book.check("deep", tenant)
    with pytest.raises(NotFound) as unknown:
        book.check("nope", tenant)
    assert foreign.value.message == unknown.value.message.replace("nope", "deep")
    assert [tier.name for tier in book.offered(tenant)] == ["fast"]


def test_auto_takes_a_tier_that_writes_only_where_it_is_named_for_that() -> None:
    assert [tier.name for tier in TierBook(ALL).choices(ANY)] == ["fast", "deep"]
    named = TierBook(ALL, auto=["fast", "small"])
    assert [tier.name for tier in named.choices(ANY)] == ["fast", "small"]
    assert [tier.name for tier in named.choices(Tenant("t", tiers=("fast", "deep")))] == ["fast"]


def test_a_tenant_with_none_of_the_tiers_of_auto_still_has_auto() -> None:
    tenant = Tenant("t", tiers=("small",))
    assert [tier.name for tier in TierBook(ALL).choices(tenant)] == ["small"]
    TierBook(ALL).check("auto", tenant)
    assert TierBook(ALL).cheapest_quoting(tenant) is None


def test_a_tier_that_writes_has_slots_on_every_replica() -> None:
    tier = ALL[-1]
    assert (tier.slots, tier.context_tokens, tier.is_generative) == (6, 2048, True)


def test_the_setting_may_name_only_tiers_that_are_there() -> None:
    assert names_in("TIDEGATE_AUTO_TIERS", " fast, small ,", NAMES) == ["fast", "small"]
    assert names_in("TIDEGATE_AUTO_TIERS", "", NAMES) == []
    with pytest.raises(SettingsError, match=r"TIDEGATE_AUTO_TIERS names 'large'.* fast, deep, small"):
        names_in("TIDEGATE_AUTO_TIERS", "fast,large", NAMES)
