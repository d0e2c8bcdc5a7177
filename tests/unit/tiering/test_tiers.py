from __future__ import annotations

import pytest

from gateway.errors import NotFound
from gateway.tier_config import GenerateTier
from gateway.tiering.tiers import TierBook, builtin_tiers, generative_tiers

BOOK = TierBook(builtin_tiers(8, 4))


@pytest.mark.parametrize(
    ("question", "tier"),
    [
        ("What is a tide gate?", "fast"),
        ("When was it built?", "fast"),
        ("Why does Triton not notice a dead stub?", "deep"),
        ("Compare Envoy and Redis", "deep"),
        ("Who wrote it and when was it published?", "deep"),
        ("word " * 30, "deep"),
    ],
    ids=lambda value: value[:24],
)
def test_auto_takes_the_cheap_tier_for_one_fact_and_the_deep_one_otherwise(question: str, tier: str) -> None:
    chosen, reason = BOOK.choose("auto", question)
    assert chosen.name == tier
    assert reason.startswith("auto: ")


def test_a_tier_asked_for_by_name_is_obeyed() -> None:
    assert BOOK.choose("deep", "hi") == (BOOK.tiers["deep"], "asked for by name")


def test_an_unknown_model_is_refused_with_the_choices() -> None:
    with pytest.raises(NotFound, match="auto, fast, deep") as refused:
        BOOK.choose("gpt-9", "hi")
    assert refused.value.code == "model_not_found"


def test_a_generative_tier_is_there_by_name_and_auto_leaves_it_alone() -> None:
    configured = [GenerateTier(name="small", checkpoint="/m", slots=3, context_tokens=2048)]
    book = TierBook([*builtin_tiers(8, 4), *generative_tiers(configured, 2)])
    tier, reason = book.choose("small", "hi")
    assert (tier.slots, tier.context_tokens, tier.is_generative) == (6, 2048, True)
    assert reason == "asked for by name"
    assert book.choose("auto", "Compare Envoy and Redis")[0].name == "deep"
