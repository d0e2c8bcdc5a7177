"""The tiers and the choice between them. Pure: a question in, a tier and its reason out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import NotFound
from gateway.tier_config import GenerateTier


@dataclass(frozen=True)
class Tier:
    """One way to answer. num_passages: how wide it retrieves. slots: permits over all Triton replicas.

    context_tokens: prompt and answer together; 0 = quotes, so it has none. max_hops: searches beyond the first, for a
    question of two parts.
    """

    name: str
    description: str
    num_passages: int
    slots: int
    context_tokens: int = 0
    max_hops: int = 0

    @property
    def is_generative(self) -> bool:
        return self.context_tokens > 0


AUTO = "auto"
_COMPOUND = re.compile(
    r"\b(compare|difference|differ|versus|vs|why|explain|how does|how do|relationship|both"
    r"|and (?:how|why|what|who|when|where))\b",
    re.IGNORECASE,
)
_LONG_QUESTION_WORDS = 22


class TierBook:
    """The tiers on offer, cheapest first. `auto` chooses among those that quote; the others are asked for by name."""

    def __init__(self, tiers: Sequence[Tier]) -> None:
        self.tiers = {tier.name: tier for tier in tiers}

    def choose(self, model: str, question: str) -> tuple[Tier, str]:
        """The tier for a request and the reason, as it goes into the receipt.

        Raises: NotFound for a model that is not on offer.
        """
        if model in self.tiers:
            return self.tiers[model], "asked for by name"
        if model != AUTO:
            offered = ", ".join([AUTO, *self.tiers])
            raise NotFound(
                f"The model {model!r} does not exist; choose from: {offered}.",
                code="model_not_found",
                param="model",
            )
        cheapest, *_, best = [tier for tier in self.tiers.values() if not tier.is_generative]
        if len(question.split()) > _LONG_QUESTION_WORDS:
            return best, "auto: a long question"
        if match := _COMPOUND.search(question):
            return best, f"auto: the question asks for more than one fact ({match.group(0).lower()!r})"
        return cheapest, "auto: a short question for one fact"


def generative_tiers(configured: Sequence[GenerateTier], num_replicas: int) -> list[Tier]:
    """The operator's tiers. Each replica runs an engine of each."""
    return [
        Tier(tier.name, tier.description, tier.num_passages, tier.slots * num_replicas, tier.context_tokens)
        for tier in configured
    ]


def builtin_tiers(fast_slots: int, deep_slots: int) -> list[Tier]:
    """The two extractive tiers that need no LLM weights."""
    return [
        Tier("fast", "Quotes the best sentences of a few passages, in one pass.", 5, fast_slots),
        Tier(
            "deep",
            "Retrieves wider, looks again for what is missing, and weighs sentences by meaning.",
            12,
            deep_slots,
            max_hops=2,
        ),
    ]
