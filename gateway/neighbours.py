"""What stands beside a worker: do Triton, Redis and the stores answer, how many replicas and versions are there."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import tensors
from gateway.admission.replicas import Guards, Line, ReplicaWatch, count_addresses
from gateway.api.auth import Authenticator
from gateway.api.part_gauges import show_parts
from gateway.api.services import Services
from gateway.lifecycle import State
from gateway.settings import Settings
from gateway.storage.redis_channel import follow_channel
from gateway.tier_config import generate_tiers
from gateway.tiering.versions import Sides, Versions
from gateway.triton import TritonClient

log = logging.getLogger("tidegate.app")

WATCH_EVERY_S = 1.0


async def watch_parts(services: Services, triton: TritonClient) -> None:
    """Look after the neighbours; the worker becomes ready when Triton has answered once."""
    names = [model.name for model in tensors.MODELS]
    # A tier with replicas of its own may have none at this hour; its fallback answers.
    own_replicas = services.settings.hosts_of_triton
    names += [tier.name for tier in generate_tiers(services.settings) if tier.name not in own_replicas]
    while True:
        services.parts["triton"] = "ok" if await triton.ready(names) else "away"
        try:
            async with asyncio.timeout(WATCH_EVERY_S):
                await services.redis.ping()
            services.parts["redis"] = "ok"
        except (RedisError, OSError, TimeoutError):
            services.parts["redis"] = "away"
        for name, upstream in services.upstreams.items():
            services.parts[f"tier {name}"] = "ok" if upstream.state() == "closed" else "away"
        if services.settings.milvus_uri:
            services.parts["milvus"] = await _milvus(services.settings.milvus_uri)
        show_parts(services)
        if services.lifecycle.state is State.STARTING and services.parts["triton"] == "ok":
            services.lifecycle.state = State.READY
            log.info("ready")
        starting = services.lifecycle.state is State.STARTING
        await asyncio.sleep(0.1 if starting else WATCH_EVERY_S)


async def _milvus(uri: str) -> str:
    """Whether anybody listens there; what it answers is the business of the model `search`."""
    address = urlsplit(uri)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        async with asyncio.timeout(WATCH_EVERY_S):
            _, writer = await asyncio.open_connection(address.hostname, port)
    except (OSError, TimeoutError):
        return "away"
    writer.close()
    return "ok"


async def follow_key_changes(redis: Redis, auth: Authenticator) -> None:
    """Forget cached keys when one was made or revoked anywhere, and whenever such a message may have been missed."""

    async def forget() -> None:
        auth.forget_all()

    await follow_channel(redis, "tidegate:keys", lambda _: auth.forget_all(), forget)


def versions_watch(settings: Settings) -> Versions:
    canaries = settings.hosts_of_canaries
    return Versions(
        {
            tier: Sides(host, canaries.get(tier, ""))
            for tier, host in settings.hosts_of_triton.items()
            if tier  # what searches and quotes has no versions but ours
        },
        percent=settings.canary_percent,
        port=settings.triton_ports(0)[3],
    )


def replica_watch(services: Services) -> ReplicaWatch:
    """What keeps the slots in step with Triton's replicas."""
    settings = services.settings
    hosts = settings.hosts_of_triton if settings.triton_hosts else {"": "guards"}
    canaries = settings.hosts_of_canaries
    guards = Guards([settings.triton_ports(replica)[3] for replica in range(settings.triton_replicas)])
    lines = {
        name: Line(
            services.pipeline.adaptive.get(name, services.pipeline.queues[name]),
            max(1, tier.slots // settings.triton_replicas),
            (hosts.get(name, hosts[""]), *filter(None, [canaries.get(name)])),
        )
        for name, tier in services.pipeline.tiers.tiers.items()
        if not tier.is_remote
    }
    return ReplicaWatch(lines, count=count_addresses if settings.triton_hosts else guards.count)
