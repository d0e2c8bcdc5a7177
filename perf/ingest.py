"""What ingest costs: its own rate beside the embedding model's, and what it does to those who ask meanwhile.

ingest_rate     chunks/s over the same texts, round by round:
                  batch     the embedding runtime's own loop over batches of 32 of like length, in process (the floor)
                  ingest    files attached in one call until all of them can be searched: read, cut, embedded, stored
ingest_latency  a question at a modest open-loop rate, in phases:
                  idle      nothing is ingested
                  ingesting files enough for the whole phase are being ingested
ingest_memory   resident memory of the ingest worker over 100k chunks. Here the vectors are made up, or it would take
                an hour: the figure is about memory only.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import uvloop

from gateway.embedding.export import prepare_embedder
from gateway.embedding.runtime import SentenceEmbedder
from gateway.ingest.embedded_text import embedded_text
from gateway.ingest.reading import Limits, read_document
from gateway.settings import Settings
from perf import rows as rows_module
from perf.ingest_memory import Memory, measure_memory
from perf.ingest_texts import documents
from perf.overhead import QUESTIONS, PlainHttp
from perf.rows import Row
from perf.service import Service, running_service

BATCH = 32
POLL_S = 0.05
SETTLE_S = 2.0  # after a phase of ingest: what was in flight ends
MAX_CONNECTIONS = 64


@dataclass(frozen=True)
class Size:
    """num_files: of each round of ingest_rate. rate: questions per second."""

    num_rounds: int = 5
    num_files: int = 60
    num_phases: int = 6  # of each kind
    phase_s: float = 20.0
    rate: float = 5.0
    num_memory_chunks: int = 100_000


QUICK = Size(num_rounds=1, num_files=6, num_phases=1, phase_s=4.0, num_memory_chunks=5_000)


def run(size: Size) -> tuple[list[Row], list[Row], Memory]:
    with running_service() as service:
        rate = uvloop.run(ingest_rate(service, size))
        latency = uvloop.run(ingest_latency(service, size))
    return rate, latency, measure_memory(size.num_memory_chunks)


async def ingest_rate(service: Service, size: Size) -> list[Row]:
    """Rounds of each arm in turn, each round over new texts. The batch loop runs while the servers idle."""
    settings = service.settings
    embedder = SentenceEmbedder(
        prepare_embedder(settings.models_dir, lambda _: None),
        precision=settings.embed_precision,
        threads=settings.embed_threads,
    )
    embedder.embed(["warm"])
    out: list[Row] = []
    async with client_of(service) as client:
        for number in range(size.num_rounds):
            files = documents(size.num_files, seed=number)
            texts = embedded_texts(files, settings)
            out += batch_round(embedder, texts, number)
            collection, ids = await uploaded(client, files)
            sent = time.perf_counter()
            batch = await attached(client, collection, ids)
            num_chunks = await finished(client, collection, batch)
            out.append(Row("ingest", number, sent, sent, time.perf_counter(), num_chunks))
            if num_chunks != len(texts):
                raise RuntimeError(f"the floor has {len(texts)} texts, the service {num_chunks} chunks")
            await removed(client, collection, ids)
    return out


def embedded_texts(files: dict[str, bytes], settings: Settings) -> list[str]:
    """What the service will embed of these files."""
    limits = Limits(settings.chunk_chars, settings.chunk_overlap_chars)
    out = []
    for name, data in files.items():
        found = read_document(data, name, limits)
        out += [embedded_text(cut.heading, found.text[cut.start : cut.end]) for cut in found.cuts]
    return out


def batch_round(embedder: SentenceEmbedder, texts: list[str], number: int) -> list[Row]:
    ordered, out = sorted(texts, key=len), []
    for start in range(0, len(ordered), BATCH):
        batch, sent = ordered[start : start + BATCH], time.perf_counter()
        embedder.embed(batch)
        out.append(Row("batch", number, sent, sent, time.perf_counter(), len(batch)))
    return out


async def ingest_latency(service: Service, size: Size) -> list[Row]:
    """Phases of both kinds in turn. Latency counts from the moment that the schedule wanted the question sent."""
    pool, out = Pool(service), []
    for _ in range(30):
        await pool.ask()  # warm
    async with client_of(service) as client:
        for number in range(size.num_phases):
            out += await asked(pool, "idle", number, size)
            # more than a phase can take; what is left then goes with its collection
            files = documents(max(4, int(size.phase_s * 3)), seed=1000 + number)
            collection, ids = await uploaded(client, files)
            batch = await attached(client, collection, ids)
            await busy(client, collection, batch)
            out += await asked(pool, "ingesting", number, size)
            left = await client.get(f"/v1/vector_stores/{collection}/file_batches/{batch}")
            if left.json()["status"] != "in_progress":
                raise RuntimeError(
                    "the files did not last for the phase: their latency is not that of ingest"
                )
            await removed(client, collection, ids)
            await asyncio.sleep(SETTLE_S)
    pool.close()
    return out


async def asked(pool: Pool, arm: str, number: int, size: Size) -> list[Row]:
    start, tasks = time.perf_counter(), []
    rng = random.Random(number)
    for slot in range(int(size.phase_s * size.rate)):
        intended = start + (slot + rng.random()) / size.rate
        tasks.append(asyncio.create_task(_ask_at(pool, arm, number, intended)))
    return list(await asyncio.gather(*tasks))


async def _ask_at(pool: Pool, arm: str, number: int, intended: float) -> Row:
    await asyncio.sleep(max(0.0, intended - time.perf_counter()))
    sent = time.perf_counter()
    await pool.ask()
    return Row(arm, number, intended, sent, time.perf_counter())


class Pool:
    """As many connections as questions are open at once, each with a question of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._idle: list[PlainHttp] = []
        self._made: list[PlainHttp] = []

    async def ask(self) -> None:
        if self._idle:
            connection = self._idle.pop()
        else:
            question = QUESTIONS[len(self._made) % len(QUESTIONS)]
            body = {"model": "fast", "messages": [{"role": "user", "content": question}]}
            connection = await PlainHttp.connect(
                self._service, "/v1/chat/completions", msgspec.json.encode(body)
            )
            self._made.append(connection)
            if len(self._made) > MAX_CONNECTIONS:
                raise RuntimeError("the service does not keep up with the questions")
        await connection.post()
        self._idle.append(connection)

    def close(self) -> None:
        for connection in self._made:
            connection.close()


def client_of(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=service.base_url, headers=service.headers, timeout=60)


async def uploaded(client: httpx.AsyncClient, files: dict[str, bytes]) -> tuple[str, list[str]]:
    """A new collection, and the ids of the files, which are in none yet."""
    store = (await client.post("/v1/vector_stores", json={"name": "bench"})).raise_for_status().json()
    ids = []
    for name, data in files.items():
        form = {"purpose": "assistants"}
        reply = await client.post("/v1/files", files={"file": (name, data)}, data=form)
        ids.append(str(reply.raise_for_status().json()["id"]))
    return str(store["id"]), ids


async def attached(client: httpx.AsyncClient, collection: str, ids: list[str]) -> str:
    reply = await client.post(f"/v1/vector_stores/{collection}/file_batches", json={"file_ids": ids})
    return str(reply.raise_for_status().json()["id"])


async def busy(client: httpx.AsyncClient, collection: str, batch: str) -> None:
    """Until the first chunks are embedded."""
    while not (await look(client, collection, batch))["tidegate"]["num_chunks"]:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)


async def finished(client: httpx.AsyncClient, collection: str, batch: str) -> int:
    """Until all files of the batch can be searched; how many chunks they have."""
    while (found := await look(client, collection, batch))["status"] == "in_progress":  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    if found["status"] != "completed" or found["file_counts"]["failed"]:
        raise RuntimeError(f"not all files were ingested: {found}")
    return int(found["tidegate"]["num_chunks"])


async def look(client: httpx.AsyncClient, collection: str, batch: str) -> dict[str, Any]:
    reply = await client.get(f"/v1/vector_stores/{collection}/file_batches/{batch}")
    return dict(reply.raise_for_status().json())


async def removed(client: httpx.AsyncClient, collection: str, ids: list[str]) -> None:
    (await client.delete(f"/v1/vector_stores/{collection}")).raise_for_status()
    for file_id in ids:
        (await client.delete(f"/v1/files/{file_id}")).raise_for_status()


def summarise(rate: list[Row], latency: list[Row], memory: Memory) -> dict[str, Any]:
    rates = rows_module.rates(rate)
    told = {
        arm: {q: rows_module.percentile(values, float(q[1:])) for q in ("p50", "p95", "p99")}
        | {"n": len(values)}
        for arm in ("idle", "ingesting")
        if (values := [row.latency_ms for row in latency if row.arm == arm])
    }
    return {
        "ingest_rate": {
            "chunks_per_s": rows_module.medians(rates),
            "share_of_batch_loop": rows_module.ratio(rates["ingest"], rates["batch"]),
        },
        "ingest_latency": {
            "latency_ms": told,
            "ratio": {q: told["ingesting"][q] / told["idle"][q] for q in ("p50", "p95")},
        },
        "ingest_memory": msgspec.to_builtins(memory),
    }


def show(summary: dict[str, Any]) -> None:
    rate, latency, memory = (summary[f"ingest_{name}"] for name in ("rate", "latency", "memory"))
    per_s, share = rate["chunks_per_s"], rate["share_of_batch_loop"]
    print(
        f"\ningest {per_s['ingest']:.0f} chunks/s, the model's own batch loop {per_s['batch']:.0f}: "
        f"{share['median']:.2f} of it (quartiles {share['q1']:.2f} to {share['q3']:.2f}; target >= 0.85)"
    )
    print("\na question while files are ingested (ms)")
    for arm, row in latency["latency_ms"].items():
        print(f"  {arm:10} p50 {row['p50']:6.1f}  p95 {row['p95']:6.1f}  p99 {row['p99']:6.1f}  n {row['n']}")
    ratio = latency["ratio"]
    print(f"  p50 {ratio['p50']:.2f} x idle, p95 {ratio['p95']:.2f} x idle (target <= 1.5)")
    print(
        f"\nmemory of the worker over {memory['num_chunks']} chunks (made-up vectors): "
        + ", ".join(f"{at // 1000}k {mib:.0f} MiB" for at, mib in memory["resident_mib"])
        + f"; peak {memory['peak_mib']:.0f} MiB"
    )
