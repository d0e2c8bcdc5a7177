"""A gateway's two doors, HTTP and gRPC, on real sockets, with real SQLite and Redis, over scripted engines."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sanic import Sanic

from gateway.admission.slots import SlotQueue
from gateway.api.auth import Authenticator
from gateway.api.grpc_door import GrpcDoor
from gateway.api.limits import shared_limits
from gateway.api.routes import create_app
from gateway.api.services import Services
from gateway.chat import ChatPipeline
from gateway.lifecycle import Lifecycle, State
from gateway.listener import BACKLOG, listening_socket
from gateway.metrics import Metrics
from gateway.pipeline.pressure import PressureWatch
from gateway.settings import Settings
from gateway.storage import keys
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.storage.recorder import Recorder
from gateway.storage.redis_client import connect_redis
from gateway.storage.shared_note import SharedNote
from gateway.tiering.tiers import TierBook, builtin_tiers
from gateway.tracing.spans import Tracer
from tests.fakes.engines import HashEmbedder, ScriptedAnswerer, ScriptedRetriever
from tests.fakes.redis_process import running_redis

MAX_STALL_S = 0.5  # both doors' patience with a reader that takes nothing


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class WordCounter:
    """Counts words; the real counter is held to its tokenizer by the embedding tests."""

    def count(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]


@dataclass
class Gateway:
    url: str
    settings: Settings
    services: Services
    retriever: ScriptedRetriever
    fast: ScriptedAnswerer
    deep: ScriptedAnswerer
    keys: dict[str, str]
    client: httpx.AsyncClient
    queue: SlotQueue
    grpc_port: int
    server: Any
    door: GrpcDoor

    def auth(self, tenant: str = "acme") -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[tenant]}"}

    async def ask(self, question: str = "What is a tide gate?", **extra: Any) -> httpx.Response:
        body = {"model": "fast", "messages": [{"role": "user", "content": question}], **extra}
        return await self.client.post("/v1/chat/completions", json=body, headers=self.auth())


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_redis(tmp_path_factory.mktemp("redis")) as process:
        yield process.port


@pytest.fixture
def tracer() -> Tracer | None:
    """Of the worker; a module that looks at traces has one of its own."""
    return None


def with_keys(database: Database) -> dict[str, str]:
    """Keys of two tenants and of an operator, by the tenant."""
    with database.write() as conn:
        keys.ensure_tenant(conn, keys.DEFAULT_TENANT)
        made = {tenant: keys.create_key(conn, tenant=tenant, name="test")[1] for tenant in ("acme", "rival")}
        made["operator"] = keys.create_key(conn, tenant="operator", name="test", is_admin=True)[1]
    return made


def services_of(
    settings: Settings,
    database: Database,
    retriever: ScriptedRetriever,
    answerers: dict[str, ScriptedAnswerer],
    tracer: Tracer | None,
) -> Services:
    """A worker's parts, as gateway.app puts them together."""
    metrics, redis, lifecycle = Metrics(), connect_redis(settings), Lifecycle()
    recorder, limits = Recorder(database, redis, metrics), shared_limits(settings, database, metrics)
    tiers = TierBook(builtin_tiers(2, 2))
    queues = {
        name: SlotQueue(2, max_waiting=2, ttl_s=settings.queue_ttl_s, clock=time.monotonic)
        for name in tiers.tiers
    }
    pipeline = ChatPipeline(
        retriever=retriever,
        answerers=answerers,
        tiers=tiers,
        queues=queues,
        record=recorder,
        metrics=metrics,
        is_stopping=lambda: lifecycle.state is State.STOPPED,
        limits=limits,
    )
    return Services(
        settings=settings,
        lifecycle=lifecycle,
        metrics=metrics,
        database=database,
        blobs=BlobStore(settings.files_dir),
        redis=redis,
        auth=Authenticator(settings, database),
        pipeline=pipeline,
        retriever=retriever,
        embedder=HashEmbedder(),
        tokens=WordCounter(),  # type: ignore[arg-type]
        recorder=recorder,
        tracer=tracer,
        limits=limits,
        pressure=PressureWatch(
            ladders=pipeline.ladders, queues=queues, metrics=metrics, clock=time.monotonic
        ),
        ladder_orders=SharedNote(redis, f"tidegate:ladder:{settings.var.name}", pipeline.ladders.obey),
    )


@asynccontextmanager
async def serving(services: Services) -> AsyncIterator[tuple[Any, GrpcDoor, int]]:
    """Both doors: the HTTP server, the gRPC one and its port. Everything is closed at the end."""
    settings, lifecycle = services.settings, services.lifecycle
    app = create_app(services, name=f"test-{settings.port}")
    app.config.TOUCHUP = False  # it rewrites Sanic's classes, which can be done once a process
    sock = listening_socket("127.0.0.1", settings.port)
    server: Any = await app.create_server(sock=sock, backlog=BACKLOG, access_log=False)
    await server.startup()
    await server.start_serving()
    lifecycle.state = State.READY
    lifecycle.spawn(services.recorder.run(), "recorder")
    lifecycle.spawn(services.limits.run(), "limits")
    lifecycle.spawn(services.ladder_orders.follow(), "ladder-orders")
    door = GrpcDoor(services)
    grpc_port = await door.start(0)
    yield server, door, grpc_port
    await door.stop()
    server.close()
    for connection in list(server.connections):
        connection.close()
    await lifecycle.drain(5)
    await lifecycle.stop_tasks()
    await services.recorder.flush()
    await services.limits.close()
    await services.redis.aclose()
    services.database.close()
    Sanic.unregister_app(app)


@pytest_asyncio.fixture
async def gateway(tmp_path: Path, redis_port: int, tracer: Tracer | None) -> AsyncIterator[Gateway]:
    settings = Settings(
        var=tmp_path,
        port=free_port(),
        redis_url=f"redis://127.0.0.1:{redis_port}/0",
        keepalive_s=0.3,
        queue_max=2,
        fast_slots=2,
        deep_slots=2,
        max_file_bytes=200_000,
        slow_reader_s=MAX_STALL_S,
    )
    database = Database(settings.sql_url)
    database.migrate()
    made = with_keys(database)
    retriever, fast, deep = ScriptedRetriever(), ScriptedAnswerer(), ScriptedAnswerer()
    services = services_of(settings, database, retriever, {"fast": fast, "deep": deep}, tracer)
    url, queue = f"http://127.0.0.1:{settings.port}", services.pipeline.queues["fast"]
    assert isinstance(queue, SlotQueue)
    async with (
        serving(services) as (server, door, grpc_port),
        httpx.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield Gateway(
            url, settings, services, retriever, fast, deep, made, client, queue, grpc_port, server, door
        )
