"""A gateway worker: puts the parts together and serves until told to stop. `python -m gateway.app INDEX`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import tensors
from gateway.admission.adaptive import AdaptiveSlots
from gateway.admission.bounded import BoundedEmbedder, BoundedRetriever
from gateway.admission.redis_queue import RedisQueue
from gateway.admission.replicas import Guards, Line, ReplicaWatch, count_addresses
from gateway.admission.slots import SlotQueue
from gateway.api.auth import Authenticator
from gateway.api.grpc_door import GrpcDoor
from gateway.api.limits import shared_limits
from gateway.api.part_gauges import show_parts, show_state, watch_backlog
from gateway.api.routes import create_app
from gateway.api.services import Services
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
from gateway.pipeline.memory_parts import answer_memory, follow_purges
from gateway.pipeline.pressure import PressureWatch
from gateway.ports import Answerer
from gateway.retrieval.triton_models import TritonEmbedder, TritonRetriever
from gateway.settings import Settings, load_settings
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.storage.recorder import Recorder
from gateway.storage.redis_channel import follow_channel
from gateway.storage.redis_client import connect_redis
from gateway.storage.shared_note import SharedNote
from gateway.supervise.credentials import secret
from gateway.supervise.part_orders import SupervisedParts
from gateway.supervise.pod_orders import pod_orders
from gateway.supervise.processes import raise_file_limit
from gateway.tier_config import GenerateTier, UpstreamTier, api_key, configured_tiers, generate_tiers
from gateway.tiering.ladders import Ladders
from gateway.tiering.pressure import Bearable
from gateway.tiering.tiers import TierBook, builtin_tiers, generative_tiers, names_in
from gateway.tiering.versions import Sides, Versions
from gateway.tracing.endpoint import make_tracer
from gateway.triton import TritonClient

log = logging.getLogger("tidegate.app")

WATCH_EVERY_S = 1.0
LEAD_S = 1.0  # from not ready to refusing: balancers ask every 0.5 s (envoy/bootstrap.yaml.j2)
GOODBYE_S = 2.0  # at most: to leave streams to others, and for clients to take the error that cuts them off
CUT_OFF_S = 2.0
LAST_SPANS_S = 2.0  # for the collector to take them
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
    )
    retriever = BoundedRetriever(TritonRetriever(triton), retrieval_slots)
    recorder = Recorder(database, redis, metrics)
    limits = shared_limits(settings, database, metrics)
    configured = configured_tiers(settings)
    upstreams = {
        tier.name: await _upstream(tier, metrics) for tier in configured if isinstance(tier, UpstreamTier)
    }
    offered = [
        *builtin_tiers(settings.slots("fast"), settings.slots("deep")),
        *generative_tiers(configured, settings.triton_replicas),
    ]
    tiers = TierBook(
        offered, names_in("TIDEGATE_AUTO_TIERS", settings.auto_tiers, [tier.name for tier in offered])
    )
    ladders = Ladders(tiers.tiers, bearable=Bearable(settings.ladder_eta_s, settings.ladder_lag_s))
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
        if memory.joint is not None:
            lifecycle.spawn(memory.joint.relay.run(), "flights")
    lifecycle.spawn(replica_watch(services).run(), "replicas")
    lifecycle.spawn(services.versions.run(), "versions")
    for name, queue in services.shared_queues.items():
        await queue.connect()
        lifecycle.spawn(queue.run(), f"queue-{name}")

    spare_the_start()
    await stop.wait()
    await _shut_down(services, triton, server, door)


async def drain(services: Services, server: Any, door: GrpcDoor) -> bool:
    """Not ready first, then no new work and no idle connections; what is open finishes. True when all of it did."""
    drain_s = services.settings.drain_s
    lead_s = min(LEAD_S, drain_s / 4)
    await services.lifecycle.retire(lead_s)
    door.retire(drain_s)
    for connection in list(server.connections):
        if not connection.close_if_idle():
            connection.http.keep_alive = False  # it ends with the answer that is under way
    return await services.lifecycle.drain(drain_s - lead_s)


async def cut_off(services: Services, server: Any, door: GrpcDoor) -> None:
    """End what the drain had no time for: each stream with an error event, each other request with a 503."""
    services.lifecycle.state = State.STOPPED  # whoever is cut off now is not to blame for it
    tasks = [connection._task for connection in server.connections if connection._task is not None]
    for task in tasks:
        task.cancel()
    goodbye = asyncio.create_task(door.cut_off())
    if tasks:
        await asyncio.wait(tasks, timeout=GOODBYE_S)
    await goodbye
    for connection in list(server.connections):
        connection.close()


async def _shut_down(services: Services, triton: TritonClient, server: Any, door: GrpcDoor) -> None:
    log.info("draining")
    await drain(services, server, door)
    server.close()
    await cut_off(services, server, door)
    await door.stop()
    await services.lifecycle.drain(CUT_OFF_S)  # what was cut off records its outcome before the last flush
    await services.lifecycle.stop_tasks()
    try:
        await services.recorder.flush()
    except Exception:
        log.exception("the last receipts were not written")
    for queue in services.shared_queues.values():
        await queue.close()
    await services.limits.close()
    if services.pipeline.memory is not None and services.pipeline.memory.joint is not None:
        await services.pipeline.memory.joint.close()
    for upstream in services.upstreams.values():
        await upstream.close()
    await triton.close()
    if services.tracer is not None:
        await asyncio.to_thread(services.tracer.close, LAST_SPANS_S)
    await services.redis.aclose()
    services.database.close()
    log.info("stopped")


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
