"""The answer memory put together from the settings, and what keeps it in step with the other workers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from redis.asyncio import Redis

from gateway import __version__
from gateway.caching.answers import Answers
from gateway.caching.claims import Claims
from gateway.caching.corpus_watch import CorpusWatch
from gateway.caching.refill import refill
from gateway.caching.retrievals import Retrievals
from gateway.caching.shared import PURGES, Purge, SharedStore
from gateway.caching.threshold import Thresholds
from gateway.caching.vectors import RememberedVectors
from gateway.checkpoint.prepare import prepared_folder
from gateway.errors import UpstreamUnavailable
from gateway.metrics import Metrics
from gateway.pipeline.hit_check import RIGHT, UNCLEAR, WRONG
from gateway.pipeline.joint_work import JointWork
from gateway.pipeline.relay import Relay
from gateway.pipeline.remember import AnswerMemory, Edition
from gateway.ports import QueuedEmbedder
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.storage.limits import list_tenants
from gateway.storage.redis_channel import follow_channel
from gateway.storage.redis_client import connect_redis
from gateway.storage.redis_trips import RedisTrips
from gateway.tier_config import ConfiguredTier, GenerateTier
from gateway.tiering.tiers import BUILTIN_TIERS

log = logging.getLogger("tidegate.cache")

MIB = 2**20
CALL_S = 1.0
RETRIEVALS_PART, VECTORS_PART = 4, 8  # of TIDEGATE_CACHE_MB, on top of it: a fourth, an eighth

_decode_purge = msgspec.json.Decoder(Purge).decode


def answer_memory(
    settings: Settings,
    database: Database,
    redis: Redis,
    metrics: Metrics,
    configured: Sequence[ConfiguredTier] = (),
) -> AnswerMemory | None:
    """None where TIDEGATE_CACHE is off. Raises: CheckpointError for a tier that is not prepared."""
    if not settings.cache:
        return None
    shared, trips = None, RedisTrips(connect_redis(settings))  # a connection that is never lent to others
    if settings.cache_shared_answers:
        shared = SharedStore(
            redis,
            max_entries=settings.cache_shared_answers,
            max_bytes=settings.cache_shared_mb * MIB,
            trips=trips,
            count=lambda operation, result: metrics.cache_shared_calls.labels(operation, result).inc(),
        )
    answers = Answers(
        max_bytes=settings.cache_mb * MIB, tenant_share=settings.cache_tenant_percent / 100, shared=shared
    )
    thresholds, watch = Thresholds(settings.cache_false_hits), CorpusWatch(database)
    opted_out = settings.cache_opt_outs
    retrievals = Retrievals(
        watch,
        max_bytes=settings.cache_mb * MIB // RETRIEVALS_PART,
        tenant_share=settings.cache_tenant_percent / 100,
        opted_out=opted_out,
        count=lambda result: metrics.cache_retrievals.labels(result).inc(),
        count_vector=lambda result: metrics.cache_vectors.labels(result).inc(),
    )
    metrics.cache_entries.set_function(lambda: len(answers))
    metrics.cache_bytes.set_function(lambda: answers.num_bytes)
    tell_thresholds(thresholds, metrics)
    return AnswerMemory(
        answers,
        watch,
        thresholds,
        metrics,
        editions=editions(settings, configured),
        ttl_s=settings.cache_ttl_s,
        ttl_s_of=settings.ttl_s_of_collections,
        weight=settings.cache_weight,
        opted_out=opted_out,
        joint=joint_work(redis, trips, metrics),
        retrievals=retrievals,
    )


def tell_thresholds(thresholds: Thresholds, metrics: Metrics) -> None:
    # Told as 0 from the start: rules count what has risen, and a series that begins at 1 has not.
    for result in (RIGHT, WRONG, UNCLEAR):
        metrics.cache_checked.labels(result)
    metrics.cache_false_hit_budget.set(thresholds.budget)
    metrics.cache_false_hit_bound.set_function(lambda: thresholds.checked.bound)
    metrics.cache_shadow_bound.set_function(lambda: thresholds.shadows.bound)
    metrics.cache_threshold.set_function(lambda: thresholds.middle)
    metrics.cache_topics.labels("closed").set_function(lambda: thresholds.num_closed)
    metrics.cache_topics.labels("open").set_function(lambda: thresholds.num_topics - thresholds.num_closed)


def remembered_vectors(settings: Settings, embedder: QueuedEmbedder, metrics: Metrics) -> RememberedVectors:
    """Without room where TIDEGATE_CACHE is off."""
    return RememberedVectors(
        embedder,
        max_bytes=settings.cache_mb * MIB // VECTORS_PART if settings.cache else 0,
        tenant_share=settings.cache_tenant_percent / 100,
        opted_out=settings.cache_opt_outs,
        count=lambda result, number: metrics.cache_vectors.labels(result).inc(number),
    )


def joint_work(redis: Redis, trips: RedisTrips, metrics: Metrics, worker: str = "") -> JointWork:
    """worker: this one's name among all; empty = a new one."""
    relay = Relay(redis, trips, worker)
    claims = Claims(trips, relay.worker, relay.greeting)
    metrics.cache_followers.set_function(lambda: relay.num_followers)
    return JointWork(claims, relay, count=lambda role: metrics.cache_flights.labels(role).inc())


def editions(settings: Settings, configured: Sequence[ConfiguredTier]) -> dict[str, Edition]:
    """Of every tier; the version of its model, where a rollout names one, is added for each request."""
    found = {name: Edition(__version__) for name in BUILTIN_TIERS}
    for tier in configured:
        told = [__version__, msgspec.json.encode(tier).decode()]
        if isinstance(tier, GenerateTier):
            told.append(prepared_folder(tier, settings.models_dir).name)
        digest = hashlib.blake2b(msgspec.json.encode(told), digest_size=8).hexdigest()
        found[tier.name] = Edition(f"{__version__}-{digest}", tier.temperature)
    return found


async def take_up(answers: Answers, settings: Settings, database: Database, redis: Redis) -> None:
    """What the shared level holds, into a new worker's own level, up to half of that."""
    if not settings.cache_shared_answers:
        return
    try:
        tenant_ids = await asyncio.to_thread(_tenant_ids, database)
    except UpstreamUnavailable as error:
        log.warning("the worker begins without what is remembered: %s", error)
        return
    known = [each for each in tenant_ids if each not in settings.cache_opt_outs]
    await refill(answers, redis, known, max_bytes=settings.cache_mb * MIB // 2)


def _tenant_ids(database: Database) -> list[str]:
    with database.read() as conn:
        return [row.id for row in list_tenants(conn)]


class Forgetful(Protocol):
    """What an operator may purge."""

    def forget(self, purge: Purge) -> int: ...


async def follow_purges(redis: Redis, *stores: Forgetful) -> None:
    """Forget what operators have purged, for ever; after a gap, what was ordered meanwhile."""

    def hear(data: Any) -> None:
        try:
            purge = _decode_purge(data)
        except msgspec.DecodeError as error:
            log.warning("%s holds what is no order of ours: %s", PURGES, error)
            return
        num_gone = sum(store.forget(purge) for store in stores)
        log.info("forgot %d answers, searches and vectors of tenant %s", num_gone, purge.tenant_id)

    async def catch_up() -> None:
        async with asyncio.timeout(CALL_S):
            orders: Any = await redis.lrange(PURGES, 0, -1)
        for order in orders:
            hear(order)

    await follow_channel(redis, PURGES, hear, catch_up)
