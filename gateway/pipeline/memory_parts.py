"""The answer memory put together from the settings, and what keeps it in step with the other workers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway import __version__
from gateway.caching.answers import Answers
from gateway.caching.corpus_watch import CorpusWatch
from gateway.caching.shared import PURGES, Purge, SharedStore
from gateway.caching.threshold import Thresholds
from gateway.checkpoint.prepare import prepared_folder
from gateway.metrics import Metrics
from gateway.pipeline.remember import AnswerMemory, Edition
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.storage.redis_channel import follow_channel
from gateway.tier_config import ConfiguredTier, GenerateTier

log = logging.getLogger("tidegate.cache")

MIB = 2**20
CALL_S = 1.0
QUOTING_TIERS = ("fast", "deep")

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
    shared = None
    if settings.cache_shared_answers:
        shared = SharedStore(
            redis,
            max_entries=settings.cache_shared_answers,
            count=lambda operation, result: metrics.cache_shared_calls.labels(operation, result).inc(),
        )
    answers = Answers(
        max_bytes=settings.cache_mb * MIB, tenant_share=settings.cache_tenant_percent / 100, shared=shared
    )
    thresholds = Thresholds(settings.cache_false_hits)
    metrics.cache_entries.set_function(lambda: len(answers))
    metrics.cache_bytes.set_function(lambda: answers.num_bytes)
    metrics.cache_false_hit_bound.set_function(lambda: thresholds.bound)
    return AnswerMemory(
        answers,
        CorpusWatch(database),
        thresholds,
        metrics,
        editions=editions(settings, configured),
        ttl_s=settings.cache_ttl_s,
        weight=settings.cache_weight,
        opted_out=frozenset(name.strip() for name in settings.cache_opt_out.split(",") if name.strip()),
    )


def editions(settings: Settings, configured: Sequence[ConfiguredTier]) -> dict[str, Edition]:
    """Of every tier whose answers one name can stand for. One that tries its next version on a part of the
    conversations has two models at once, so it is left out."""
    on_trial = {pair.partition("=")[0].strip() for pair in settings.canary_hosts.split(",")}
    found = {name: Edition(__version__) for name in QUOTING_TIERS}
    for tier in configured:
        told = [__version__, msgspec.json.encode(tier).decode()]
        if isinstance(tier, GenerateTier):
            told.append(prepared_folder(tier, settings.models_dir).name)
        digest = hashlib.blake2b(msgspec.json.encode(told), digest_size=8).hexdigest()
        found[tier.name] = Edition(f"{__version__}-{digest}", tier.temperature)
    return {name: edition for name, edition in found.items() if name not in on_trial}


async def follow_purges(redis: Redis, answers: Answers) -> None:
    """Forget what operators have purged, for ever; after a gap, what was ordered meanwhile."""

    def hear(data: Any) -> None:
        try:
            purge = _decode_purge(data)
        except msgspec.DecodeError as error:
            log.warning("%s holds what is no order of ours: %s", PURGES, error)
            return
        log.info("forgot %d answers of tenant %s", answers.forget(purge), purge.tenant_id)

    async def catch_up() -> None:
        async with asyncio.timeout(CALL_S):
            orders: Any = await redis.lrange(PURGES, 0, -1)
        for order in orders:
            hear(order)

    await follow_channel(redis, PURGES, hear, catch_up)
