"""A gateway worker: puts the parts together and serves until told to stop. `python -m gateway.app INDEX`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis

from gateway.admission.adaptive import AdaptiveSlots
from gateway.admission.bounded import BoundedEmbedder, BoundedRetriever
from gateway.admission.redis_queue import RedisQueue
from gateway.admission.slots import SlotQueue
from gateway.api.auth import Authenticator
from gateway.api.grpc_door import GrpcDoor
from gateway.api.limits import shared_limits
from gateway.api.part_gauges import show_state, watch_backlog
from gateway.api.routes import create_app
from gateway.api.services import Services
from gateway.caching.kept_topics import KeptTopics
from gateway.chat import ChatPipeline
from gateway.checkpoint.chat_format import ChatFormat
from gateway.checkpoint.prepare import prepared_folder
from gateway.embedding.export import TOKENIZER_FILE, prepare_embedder
from gateway.embedding.tokens import SentenceTokenizer
from gateway.generation.triton_generator import TritonGenerator
from gateway.generation.triton_reader import TritonReader
from gateway.generation.upstream_client import UpstreamClient
from gateway.generation.upstream_generator import UpstreamGenerator
from gateway.lag import LoopLag
from gateway.lifecycle import Lifecycle, State
from gateway.listener import BACKLOG, listening_socket
from gateway.logs import set_up_logging
from gateway.memory import MemoryGuard, memory_gauge, spare_the_start
from gateway.metrics import Metrics
from gateway.neighbours import follow_key_changes, replica_watch, versions_watch, watch_parts
from gateway.pipeline.memory_parts import answer_memory, follow_purges, take_up
from gateway.pipeline.pressure import PressureWatch
from gateway.ports import Answerer
from gateway.retrieval.triton_models import TritonEmbedder, TritonRetriever
from gateway.settings import Settings, load_settings
from gateway.shutdown import shut_down
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.storage.recorder import Recorder
from gateway.storage.redis_client import connect_redis
from gateway.storage.shared_note import SharedNote
from gateway.supervise.credentials import secret
from gateway.supervise.part_orders import SupervisedParts
from gateway.supervise.pod_orders import pod_orders
from gateway.supervise.processes import raise_file_limit
from gateway.tier_config import ConfiguredTier, GenerateTier, UpstreamTier, api_key, configured_tiers
from gateway.tiering.ladders import Ladders
from gateway.tiering.pressure import Bearable
from gateway.tiering.tiers import TierBook, builtin_tiers, generative_tiers, names_in
from gateway.tracing.endpoint import make_tracer
from gateway.triton import TritonClient

log = logging.getLogger("tidegate.app")

LADDER_ORDERS = "tidegate:ladder"  # the key and the channel of what operators order
NUM_THREADS = 32  # for SQL and files: they wait more than they compute

OPENNESS = {"closed": 0.0, "half_open": 0.5, "open": 1.0}  # of a circuit, as the metric has it

MakeGenerator = Callable[[TritonClient, GenerateTier, Settings], Awaitable[Answerer]]


async def build(
    settings: Settings, make_generator: MakeGenerator | None = None
) -> tuple[Services, TritonClient]:
    """Every part of a worker, connected lazily: none of them needs to be up yet.

    make_generator: the engine of each generative tier; by default TritonGenerator with its checkpoint's tokenizer.
    """
    make_generator = make_generator or _generator
    metrics, lifecycle = Metrics(), Lifecycle()
    lag, memory = LoopLag(), MemoryGuard(memory_gauge(settings.worker_memory_mb))
    metrics.loop_lag_s.set_function(lag.worst_s)
    metrics.memory_share.set_function(memory.share)
    database = Database(settings.sql_url)
    redis = connect_redis(settings)
    triton = TritonClient(settings.triton_target)
    retrieval_slots = SlotQueue(
        settings.retrieval_slots,
        max_waiting=settings.queue_max,
        ttl_s=settings.queue_ttl_s,
        clock=time.monotonic,
        headroom_share=settings.headroom,
    )
    retriever = BoundedRetriever(TritonRetriever(triton), retrieval_slots)
    recorder = Recorder(database, redis, metrics)
    limits = shared_limits(settings, database, metrics)
    configured = configured_tiers(settings)
    upstreams = {
        tier.name: await _upstream(tier, metrics) for tier in configured if isinstance(tier, UpstreamTier)
    }
    tiers = _tiers(settings, configured)
    ladders = Ladders(tiers.tiers, bearable=Bearable(settings.ladder_eta_s, settings.ladder_lag_s))
    queues = _queues(settings, redis, tiers, metrics)
    adaptive = {
        name: AdaptiveSlots(queues[name])
        for name in names_in("TIDEGATE_ADAPTIVE_TIERS", settings.adaptive_tiers, list(queues))
    }
    versions = versions_watch(settings)
    pipeline = ChatPipeline(
        adaptive=adaptive,
        retriever=retriever,
        answerers={
            "fast": TritonReader(triton, "fast"),
            "deep": TritonReader(triton, "deep"),
            **upstreams,
            **{
                tier.name: await make_generator(triton, tier, settings)
                for tier in configured
                if isinstance(tier, GenerateTier)
            },
        },
        tiers=tiers,
        queues=queues,
        record=recorder,
        metrics=metrics,
        is_stopping=lambda: lifecycle.state is State.STOPPED,
        ladders=ladders,
        limits=limits,
        chunk_chars=settings.chunk_chars,
        gates=upstreams,
        memory=answer_memory(settings, database, redis, metrics, configured),
        version_met=versions.met,
        preemptible={tier.name for tier in configured if tier.continues} if settings.preempt else (),
    )
    model_dir = await asyncio.to_thread(prepare_embedder, settings.models_dir, log.info)
    services = Services(
        settings=settings,
        lifecycle=lifecycle,
        metrics=metrics,
        database=database,
        blobs=BlobStore(settings.files_dir),
        redis=redis,
        auth=Authenticator(settings, database),
        pipeline=pipeline,
        retriever=retriever,
        embedder=BoundedEmbedder(TritonEmbedder(triton), retrieval_slots),
        tokens=await asyncio.to_thread(SentenceTokenizer, model_dir / TOKENIZER_FILE),
        recorder=recorder,
        upstreams=upstreams,
        versions=versions,
        tracer=make_tracer(settings, lambda result, number: metrics.trace_spans.labels(result).inc(number)),
        limits=limits,
        lag=lag,
        memory=memory,
        pressure=PressureWatch(
            ladders=ladders,
            queues=queues,
            metrics=metrics,
            clock=time.monotonic,
            shared=retrieval_slots,
            lag_s=lag.worst_s,
        ),
        shared_queues=queues,
        ladder_orders=SharedNote(redis, LADDER_ORDERS, ladders.obey),
    )
    return services, triton


def _tiers(settings: Settings, configured: Sequence[ConfiguredTier]) -> TierBook:
    """All that are offered, and those among them that `auto` takes."""
    offered = [
        *builtin_tiers(settings.slots("fast"), settings.slots("deep")),
        *generative_tiers(configured, settings.triton_replicas),
    ]
    names = [tier.name for tier in offered]
    return TierBook(offered, names_in("TIDEGATE_AUTO_TIERS", settings.auto_tiers, names))


def _queues(settings: Settings, redis: Redis, tiers: TierBook, metrics: Metrics) -> dict[str, RedisQueue]:
    """The one line of all workers in front of each tier."""
    queues = {
        tier.name: RedisQueue(
            tier.name,
            redis,
            limit=tier.slots,
            max_waiting=settings.queue_max,
            max_bytes=settings.queue_max_mb * 2**20,
            ttl_s=settings.queue_ttl_s,
            share=settings.num_workers,
            headroom_share=settings.headroom,
        )
        for tier in tiers.tiers.values()
    }
    for name, queue in queues.items():
        metrics.queue_shared.labels(name).set_function(partial(_as_gauge, queue))
        # A scaler takes a series that is not there for a failure: 0 is told from the start.
        for gauge in (metrics.inflight, metrics.waiting):
            gauge.labels(name)
    return queues


def _as_gauge(queue: RedisQueue) -> float:
    return float(queue.is_shared)


async def _generator(triton: TritonClient, tier: GenerateTier, settings: Settings) -> TritonGenerator:
    chat = await asyncio.to_thread(ChatFormat.load, prepared_folder(tier, settings.models_dir))
    return TritonGenerator(triton, tier, chat)


async def _upstream(tier: UpstreamTier, metrics: Metrics) -> UpstreamGenerator:
    """Raises: SettingsError for a key that is missing, CheckpointError for a tokenizer that cannot be read."""
    chat = await asyncio.to_thread(ChatFormat.load, Path(tier.tokenizer)) if tier.tokenizer else None
    generator = UpstreamGenerator(
        UpstreamClient(tier, api_key(tier, os.environ)),
        tier,
        chat,
        count=lambda result: metrics.upstream_calls.labels(tier.name, result).inc(),
    )
    metrics.circuit_open.labels(tier.name).set_function(lambda: OPENNESS[generator.state()])
    return generator


async def serve(settings: Settings, index: int, make_generator: MakeGenerator | None = None) -> None:
    """Start, serve, drain, stop."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(NUM_THREADS, "blocking"))
    services, triton = await build(settings, make_generator)
    lifecycle = services.lifecycle
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    show_state(services)
    if "SUPERVISOR_ENABLED" in os.environ:  # supervisord says so to its children
        services.part_orders = SupervisedParts(settings, secret(settings, "supervisor"))
    else:
        services.part_orders = pod_orders(os.environ)
    app = create_app(services, name=f"tidegate-{index}")
    server: Any = await app.create_server(
        sock=listening_socket(settings.part_host, settings.worker_port(index)),
        backlog=BACKLOG,
        access_log=False,
    )
    if server is None:
        raise RuntimeError("Sanic made no server")
    await server.startup()
    await server.start_serving()
    door = GrpcDoor(services)
    await door.start(settings.worker_grpc_port(index), settings.part_host)
    lifecycle.spawn(watch_parts(services, triton), "watch-parts")
    lifecycle.spawn(follow_key_changes(services.redis, services.auth), "follow-key-changes")
    lifecycle.spawn(services.recorder.run(), "recorder")
    lifecycle.spawn(services.limits.run(), "limits")
    lifecycle.spawn(services.lag.run(), "loop-lag")
    lifecycle.spawn(services.pressure.run(), "pressure")
    lifecycle.spawn(watch_backlog(services), "watch-backlog")
    lifecycle.spawn(services.ladder_orders.follow(), "ladder-orders")
    if (memory := services.pipeline.memory) is not None:
        lifecycle.spawn(memory.watch.run(), "corpus-watch")
        stores = [each for each in (memory.answers, memory.retrievals, services.vectors) if each is not None]
        lifecycle.spawn(follow_purges(services.redis, *stores), "cache-purges")
        memory.kept_topics = KeptTopics(services.database, memory.thresholds)
        lifecycle.spawn(memory.kept_topics.run(), "cache-topics")
        lifecycle.spawn(take_up(memory.answers, settings, services.database, services.redis), "cache-refill")
        if memory.joint is not None:
            lifecycle.spawn(memory.joint.relay.run(), "flights")
    lifecycle.spawn(replica_watch(services).run(), "replicas")
    lifecycle.spawn(services.versions.run(), "versions")
    for name, queue in services.shared_queues.items():
        await queue.connect()
        lifecycle.spawn(queue.run(), f"queue-{name}")

    spare_the_start()
    await stop.wait()
    await shut_down(services, triton, server, door)


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    settings = load_settings()
    index = int(args[0]) if args else 0
    set_up_logging(settings, f"gateway-{index}", sys.stderr)
    for name in ("httpx", "httpcore"):  # a line for each request, and of headers
        logging.getLogger(name).setLevel(logging.WARNING)
    raise_file_limit()  # for one that is not a child of `tidegate up`
    uvloop.run(serve(settings, index))
    return 0


if __name__ == "__main__":
    sys.exit(main())
