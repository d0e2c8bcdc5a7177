"""The tiers on offer: what each is, who may ask for it, which of them `auto` may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import InvalidRequest, NotFound
from gateway.settings import SettingsError
from gateway.tier_config import ConfiguredTier, UpstreamTier
from gateway.types import Tenant


@dataclass(frozen=True)
class Tier:
    """One way to answer. num_passages: how wide it retrieves. slots: permits over all Triton replicas.

    context_tokens: prompt and answer together; 0 = quotes, so it has none. max_hops: searches beyond the first, for a
    question of two parts. fallback: names of the tiers that answer when this one cannot, in order. is_remote: it runs
    on a server of somebody else, and slots are its alone. keeps_schemas: it can hold an answer to a JSON Schema.
    max_tokens: of a written answer whose request names none.
    """

    name: str
    description: str
    num_passages: int
    slots: int
    context_tokens: int = 0
    max_hops: int = 0
    fallback: tuple[str, ...] = ()
    is_remote: bool = False
    keeps_schemas: bool = False
    max_tokens: int = 512

    @property
    def is_generative(self) -> bool:
        return self.context_tokens > 0


AUTO = "auto"
BUILTIN_TIERS = ("fast", "deep")


class TierBook:
    """The tiers on offer, cheapest first.

    auto: names of those that `auto` may take; empty = those that quote. Unknown ones must be refused before
    (`names_in`).
    """

    def __init__(self, tiers: Sequence[Tier], auto: Sequence[str] = ()) -> None:
        self.tiers = {tier.name: tier for tier in tiers}
        self.auto = [tier for tier in tiers if (tier.name in auto if auto else not tier.is_generative)]

    def check(self, model: str, tenant: Tenant) -> None:
        """Raises: NotFound for a model that is not on offer to this tenant, whether it exists or not."""
        offered = [tier.name for tier in self.offered(tenant)]
        if model in offered or (model == AUTO and self.choices(tenant)):
            return
        raise NotFound(
            f"The model {model!r} does not exist; choose from: {', '.join([AUTO, *offered])}.",
            code="model_not_found",
            param="model",
        )

    def check_schemas(self, model: str, tenant: Tenant) -> None:
        """Raises: InvalidRequest where that model cannot hold an answer to a JSON Schema."""
        _check_able(
            model,
            self.keeping_schemas(tenant),
            f"The model {model!r} cannot hold an answer to a JSON Schema",
            "these can: {}",
            "no tier here can",
            param="response_format",
        )

    def check_writes(self, model: str, tenant: Tenant) -> None:
        """Raises: InvalidRequest where that model can only quote documents."""
        _check_able(
            model,
            self.writing(tenant),
            f"The model {model!r} quotes documents, so it has no answer without any",
            "these write: {}",
            "no tier here writes",
            param="tidegate.retrieval",
        )

    def writing(self, tenant: Tenant) -> list[Tier]:
        """Those of a tenant that need no documents, cheapest first."""
        return [tier for tier in self.offered(tenant) if tier.is_generative]

    def keeping_schemas(self, tenant: Tenant) -> list[Tier]:
        """Those of a tenant that can, cheapest first."""
        return [tier for tier in self.offered(tenant) if tier.keeps_schemas]

    def offered(self, tenant: Tenant) -> list[Tier]:
        """What a tenant may ask for by name, cheapest first."""
        return [tier for tier in self.tiers.values() if not tenant.tiers or tier.name in tenant.tiers]

    def choices(self, tenant: Tenant) -> list[Tier]:
        """What `auto` may take for a tenant, cheapest first; all it may ask for, where none of those is among them."""
        offered = self.offered(tenant)
        return [tier for tier in self.auto if tier in offered] or offered

    def cheapest_quoting(self, tenant: Tenant) -> Tier | None:
        return next((tier for tier in self.offered(tenant) if not tier.is_generative), None)


def _check_able(
    model: str, able: Sequence[Tier], refusal: str, others: str, none: str, *, param: str
) -> None:
    """others: how those that are able are told, in the place of {}. Raises: InvalidRequest."""
    names = [tier.name for tier in able]
    if model in names or (model == AUTO and names):
        return
    told = others.format(", ".join(names)) if names else none
    raise InvalidRequest(f"{refusal}; {told}.", code="unsupported_value", param=param)


def names_in(setting: str, value: str, known: Sequence[str]) -> list[str]:
    """The tiers that a setting names; empty = not set. Raises: SettingsError for a tier that is not there."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SettingsError(f"{setting} names {name!r}, which is no tier; there are: {', '.join(known)}.")
    return names


def generative_tiers(configured: Sequence[ConfiguredTier], num_replicas: int) -> list[Tier]:
    """The operator's tiers. Each replica runs an engine of each, but of those on other servers."""
    return [_tier(tier, num_replicas) for tier in configured]


def _tier(tier: ConfiguredTier, num_replicas: int) -> Tier:
    is_remote = isinstance(tier, UpstreamTier)
    return Tier(
        tier.name,
        tier.description,
        tier.num_passages,
        tier.slots * (1 if is_remote else num_replicas),
        tier.context_tokens,
        fallback=tier.fallback,
        is_remote=is_remote,
        keeps_schemas=tier.json_schema if isinstance(tier, UpstreamTier) else tier.is_on_gpu,
        max_tokens=tier.max_tokens,
    )


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
