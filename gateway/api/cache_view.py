"""GET /admin/cache: what this worker's caches hold, how often they were met, and how often they were wrong."""

from __future__ import annotations

from typing import Any

from sanic import HTTPResponse, Request

from gateway.api.admin import as_json
from gateway.api.auth import http_caller
from gateway.api.services import Services
from gateway.caching.retrievals import Retrievals
from gateway.caching.threshold import NEVER, Learned, Tally, Thresholds
from gateway.caching.vectors import RememberedVectors
from gateway.pipeline.joint_work import JointWork
from gateway.pipeline.remember import HITS

MAX_TOPICS_SHOWN = 50


async def get_cache(request: Request, services: Services) -> HTTPResponse:
    """As this worker sees it; counts are since its start. Needs an admin key."""
    await services.auth.admin(http_caller(request))
    memory = services.pipeline.memory
    if memory is None:
        return as_json({"object": "cache", "is_on": False})
    verdicts = _counts(services, "tidegate_cache_verdicts_total", "verdict")
    return as_json(
        {
            "object": "cache",
            "is_on": True,
            "verdicts": verdicts,
            "hit_rate": _hit_rate(verdicts),
            "false_hits": _false_hits(memory.thresholds),
            "objections": _counts(services, "tidegate_cache_objections_total", "guard"),
            "answers": {"entries": len(memory.answers), "bytes": memory.answers.num_bytes},
            "searches": _searches(services, memory.retrievals),
            "vectors": _vectors(services, services.vectors),
            "flights": _flights(services, memory.joint),
        }
    )


def _counts(services: Services, name: str, label: str) -> dict[str, int]:
    """A counter's values by its one label."""
    return {
        sample.labels[label]: int(sample.value)
        for metric in services.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def _hit_rate(verdicts: dict[str, int]) -> float | None:
    """Of the requests that might have met an answer; None = there were none."""
    hits = sum(verdicts.get(name, 0) for name in HITS)
    asked = hits + verdicts.get("miss", 0)
    return round(hits / asked, 4) if asked else None


def _false_hits(thresholds: Thresholds) -> dict[str, Any]:
    """Of the hits by similarity, as far as they were checked, and of near answers that were not given."""
    return {
        "budget": thresholds.budget,
        **_tally(thresholds.checked, "checked"),
        "shadows": _tally(thresholds.shadows, "compared"),
        "threshold": {"start": _or_none(thresholds.start), "median": _or_none(thresholds.middle)},
        "topics": {"learned": thresholds.num_topics, "closed": thresholds.num_closed},
        "latest_topics": [_topic(each) for each in thresholds.topics(MAX_TOPICS_SHOWN)],
    }


def _tally(tally: Tally, name: str) -> dict[str, Any]:
    """rate: None = nothing was compared; bound: upper 95 %."""
    wrong, compared = tally.num_wrong, tally.num_compared
    rate = round(wrong / compared, 6) if compared else None
    return {name: compared, "wrong": wrong, "rate": rate, "bound": round(tally.bound, 6)}


def _topic(learned: Learned) -> dict[str, Any]:
    """compared, wrong: as much as they still count."""
    return {
        "tenant": learned.topic.tenant_id,
        "tier": learned.topic.tier,
        "collections": list(learned.topic.collections),
        "threshold": _or_none(learned.threshold),
        "compared": round(learned.num_compared, 1),
        "wrong": round(learned.num_wrong, 1),
        "bound": round(learned.bound, 6),
    }


def _or_none(threshold: float) -> float | None:
    """None = only the same question is met."""
    return None if threshold == NEVER else threshold


def _searches(services: Services, retrievals: Retrievals | None) -> dict[str, Any]:
    counted = _counts(services, "tidegate_cache_retrievals_total", "result")
    if retrievals is None:
        return counted
    return {"entries": len(retrievals), "bytes": retrievals.num_bytes, **counted}


def _vectors(services: Services, vectors: RememberedVectors) -> dict[str, Any]:
    counted = _counts(services, "tidegate_cache_vectors_total", "result")
    return {"entries": len(vectors), "bytes": vectors.num_bytes, **counted}


def _flights(services: Services, joint: JointWork | None) -> dict[str, Any]:
    followers = 0 if joint is None else joint.relay.num_followers
    return {"followers": followers, **_counts(services, "tidegate_cache_flights_total", "role")}
