"""Probes across tenants: is anything of one tenant's answers ever given to another? The number wanted is exactly 0.

classes  the answer memory of a worker over a real Redis (perf/cache/memory.py). Every tenant has remembered like
         questions, with passages of the same ids and vectors of the same numbers, so that nothing but the tenant keeps
         them apart; each question names its tenant, and a prober asks another's. Kinds:
           exact     another's question, word for word
           semantic  another's question by its very vector, in other words that no guard objects to
           shared    the same in a worker that has nothing yet: Redis alone could give it
           planted   another's bytes lie in Redis under the prober's own key
         After a failed read the shared level rests; its rests are shortened to milliseconds, or many a probe would not
         reach Redis. `redis_calls` tells how many did.
service  the whole service: each tenant's own document says the same things with its own name in them
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvloop
from redis.asyncio import Redis

from gateway.caching.names import entry_name
from gateway.caching.shared import SharedStore
from gateway.caching.threshold import upper_bound
from gateway.pipeline.request import Evidence
from gateway.storage.redis_client import connect_redis
from gateway.types import Citation, Passage
from perf.cache.client import Connection, question, request
from perf.cache.memory import Ours, ours, said
from perf.cache.redis_server import own_redis
from perf.ingest import attached, finished, uploaded
from perf.service import Service, running_service

KINDS = ("exact", "semantic", "shared", "planted")
SUBJECTS = (
    "lock",
    "sluice",
    "weir",
    "quay",
    "crane",
    "ferry",
    "buoy",
    "jetty",
    "basin",
    "canal",
    "gate",
    "pump",
)
FACTS = (
    ("Who keeps the {} of the harbour", "The {} of the harbour is kept by {}."),
    ("What colour has the {} of the harbour", "The {} of the harbour has the colour of {}."),
    ("When was the {} of the harbour built", "The {} of the harbour was built in the year of {}."),
)  # fmt: skip
DIM = 384
HASTE = 1000  # of the clock by which the shared level rests


@dataclass(frozen=True)
class Size:
    num_tenants: int = 20
    num_questions: int = 250  # of each, in the classes
    num_probes: int = 100_000
    num_service_tenants: int = 6
    num_service_probes: int = 20_000
    num_clients: int = 16


QUICK = Size(num_tenants=3, num_questions=10, num_probes=400, num_service_tenants=2, num_service_probes=100)


def run(size: Size) -> dict[str, Any]:
    with own_redis() as settings:
        classes = uvloop.run(probe_classes(connect_redis(settings), size))
    with running_service(cache=True, gateway_workers=1, cache_mb=64, log_level="warning") as service:
        whole = uvloop.run(probe_service(service, size))
    return {"classes": classes, "service": whole}


async def probe_classes(redis: Redis, size: Size) -> dict[str, Any]:
    tenants, asked = [f"tenant-{at:02}" for at in range(size.num_tenants)], questions(size.num_questions)
    evidence = dict(zip(asked, map(_evidence, range(len(asked))), strict=True))
    cites = [Citation(passage=1, start=0, end=4, text="text")]
    count: Counter[str] = Counter()

    def store() -> SharedStore:
        return SharedStore(
            redis,
            max_entries=100_000,
            count=lambda *call: count.update(["/".join(call)]),
            clock=lambda: HASTE * time.monotonic(),
        )

    async with AsyncExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3)]
        mine = await stack.enter_async_context(ours(folders[0], shared=store()))
        for tenant in tenants:
            for text in asked:
                await mine.remember(tenant, f"{text} of {tenant}", evidence[text], cites)
                await mine.memory.answers.settle()  # only so many writes may be under way
        empty = await stack.enter_async_context(ours(folders[1], shared=store()))
        planted = await stack.enter_async_context(ours(folders[2], shared=store()))
        leaks: Counter[str] = Counter()
        probes: Counter[str] = Counter()
        chance = random.Random(3)
        for number in range(size.num_probes):
            kind = KINDS[number % len(KINDS)]
            owner, prober = chance.sample(tenants, 2)
            text = chance.choice(asked)
            worker = {"shared": empty, "planted": planted}.get(kind, mine)
            if kind == "planted":
                await _plant(redis, worker, owner, prober, f"{text} of {owner}")
            wording = f"Please tell me: {text} of {owner}" if kind == "semantic" else f"{text} of {owner}"
            _, answer = await worker.ask(prober, wording, evidence[text])
            probes[kind] += 1
            leaks[kind] += said(f"{text} of {owner}") == answer or owner in answer
        own = await mine.ask(tenants[0], f"{asked[0]} of {tenants[0]}", evidence[asked[0]])
        near = await mine.ask(tenants[0], f"Please tell me: {asked[0]} of {tenants[0]}", evidence[asked[0]])
    await redis.aclose()
    if (own[0], near[0]) != ("exact", "semantic"):  # or the probes would prove nothing
        raise RuntimeError(f"the owner itself gets {own[0]} and {near[0]}")
    return {
        "probes": dict(probes),
        "leaks": sum(leaks.values()),
        "upper_95": upper_bound(sum(leaks.values()), size.num_probes),
        "remembered": size.num_tenants * size.num_questions,
        "redis_calls": dict(count),
    }


def questions(count: int) -> list[str]:
    made = [text.format(subject) for text, _ in FACTS for subject in SUBJECTS]
    return [f"{made[at % len(made)]} at pier {at // len(made)}" for at in range(count)]


def _evidence(number: int) -> Evidence:
    """The same numbers for every tenant: ids, text and vector tell nothing of whose they are."""
    vector = np.random.default_rng(number).normal(size=DIM).astype(np.float32)
    passage = Passage(
        chunk_id=number + 1, collection_id="vs_1", file_id=f"file-{number}", filename="a.md", ordinal=0, heading="",
        start=0, end=4, text="text", score=0.9,
    )  # fmt: skip
    return Evidence([passage], [], vector / np.linalg.norm(vector), 0)


async def _plant(redis: Redis, worker: Ours, owner: str, prober: str, text: str) -> None:
    """The owner's bytes under the name that the prober's own question has."""
    theirs, own = await worker.key(owner, text), await worker.key(prober, text)
    data: Any = await redis.get(entry_name(owner, theirs.digest))
    if data is None:
        raise RuntimeError("the owner's answer is not in Redis")
    await redis.set(entry_name(prober, own.digest), data)


async def probe_service(service: Service, size: Size) -> dict[str, Any]:
    """Every tenant asks what the others have asked; its answers may hold its own name and nobody else's."""
    names = [f"Keeper{chr(65 + at)}{chr(65 + at)}" for at in range(size.num_service_tenants)]
    keys = {name: service.new_key(name.lower()) for name in names}
    for name, key in keys.items():
        await _ingest(service, name, key)
    texts = [text.format(subject) + "?" for text, _ in FACTS for subject in SUBJECTS]
    verdicts: Counter[str] = Counter()
    leaks = answered = 0
    chance = random.Random(5)
    probes = [(chance.choice(names), chance.choice(texts)) for _ in range(size.num_service_probes)]

    async def client(part: Sequence[tuple[str, str]]) -> None:
        nonlocal leaks, answered
        connection = Connection(service.settings.port)
        for name, text in part:
            reply = await connection.ask(request(keys[name], question(text)))
            verdicts[reply.verdict] += 1
            body = reply.body.decode()
            answered += name in body
            leaks += any(other in body for other in names if other != name)
        connection.close()

    await asyncio.gather(*(client(probes[at :: size.num_clients]) for at in range(size.num_clients)))
    return {
        "probes": len(probes),
        "leaks": leaks,
        "answered_with_own_name": answered,
        "verdicts": dict(verdicts),
    }


async def _ingest(service: Service, name: str, key: str) -> None:
    lines = [fact.format(subject, name) for _, fact in FACTS for subject in SUBJECTS]
    text = f"# The harbour\n\n{' '.join(lines)}\n"
    async with httpx.AsyncClient(
        base_url=service.base_url, headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as client:
        collection, ids = await uploaded(client, {"harbour.md": text.encode()})
        await finished(client, collection, await attached(client, collection, ids))


def show(summary: dict[str, Any]) -> None:
    classes, service = summary["classes"], summary["service"]
    print(
        f"\nacross tenants: {classes['leaks']} of {sum(classes['probes'].values())} probes of the classes over Redis "
        f"leaked, {service['leaks']} of {service['probes']} of the service ({service['verdicts']}); target 0"
    )
