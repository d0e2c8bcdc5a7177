"""What a request's answer depends on: the setting it is remembered by, and whether it comes out the same again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.caching.key import Setting
from gateway.pipeline.request import ChatRequest
from gateway.pipeline.route import Route
from gateway.tiering.ladder import Step
from gateway.types import Sampling


@dataclass(frozen=True)
class Edition:
    """What a tier's answers depend on beyond the request. temperature: of a request that names none; None = unknown."""

    name: str
    temperature: float | None = 0.0


def of_version(edition: Edition | None, version: str | None) -> Edition | None:
    """That of one version of the tier's model. None where there is no telling which one would answer."""
    if edition is None or version is None:
        return None
    return replace(edition, name=f"{edition.name}@{version}") if version else edition


def is_deterministic(request: ChatRequest, route: Route, edition: Edition) -> bool:
    """Whether the same request gets the same answer: a tier that quotes, greedy sampling, or a seed."""
    if not route.tier.is_generative:
        return True
    asked = request.sampling
    temperature = edition.temperature if asked.temperature is None else asked.temperature
    return temperature == 0 or (temperature is not None and asked.seed is not None)


def may_be_remembered(request: ChatRequest, route: Route, edition: Edition) -> bool:
    """What comes out the same anyway; what is drawn by chance only for who asks for it, to be given what was drawn."""
    return request.cache in {"use", "refresh"} or is_deterministic(request, route, edition)


def setting_of(request: ChatRequest, route: Route, edition: Edition) -> Setting:
    """A tier that quotes reads neither the conversation nor how words would be chosen."""
    is_generative = route.tier.is_generative
    return Setting(
        tenant_id=request.tenant.tenant_id,
        tier=route.tier.name,
        edition=edition.name,
        collections=request.collections,
        filters=request.filters,
        num_passages=request.top_k or 0,
        max_hops=route.max_hops,
        steps=sorted(step for step in route.steps if step is not Step.CACHED_NEIGHBOUR),
        may_escalate=route.is_auto,
        sampling=request.sampling if is_generative else Sampling(max_tokens=request.sampling.max_tokens),
        history=request.history if is_generative else (),
    )
