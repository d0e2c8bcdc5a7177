"""What the service adds to the bare parts: time to a trivial question, and the share of the encoder's own rate.

added_latency   a trivial question, one at a time, back to back and (`paced`) on an open-loop schedule:
                  reader    the `reader` model called directly on Triton (the floor)
                  parts     `retrieve` then `reader`, called directly on Triton
                  service   the same question through Envoy and the gateway
retrieve_rate   texts/s at 32 clients, for texts of about 12, 32 and 128 tokens:
                  batch     the embedding runtime's own loop over batches of 32, in process (the floor)
                  triton    the ensemble `retrieve` over gRPC, directly
                  envoy     the same through Envoy's balancer
                and where the processor's time goes in the `envoy` arm, by process (the profile)
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import uvloop

from gateway.embedding.export import prepare_embedder
from gateway.embedding.runtime import SentenceEmbedder
from gateway.generation.triton_reader import TritonReader
from gateway.retrieval.triton_models import TritonRetriever
from gateway.triton import TritonClient
from gateway.types import Inquiry, Passage, Scope
from perf import rows as rows_module
from perf.profile import Profile, processor_seconds, spent
from perf.rows import Row
from perf.service import Service, running_service

QUESTION = "What does Envoy do?"
QUESTIONS = [
    "What happens when a Triton replica dies?",
    "How are documents split into chunks?",
    "Which port does the edge listen on?",
    "Who may call without an API key?",
    "What does a receipt tell about a request?",
    "How is a dead stub noticed by the guard?",
    "Where are uploaded files kept on disk?",
    "Why is numpy held below version two?",
]
NUM_CLIENTS = 32
LENGTHS = {12: 1, 32: 3, 128: 12}  # tokens: questions joined to make a text of about that length


@dataclass(frozen=True)
class Size:
    """num_requests: of each arm of added_latency. rate: per second of its paced half, all arms together."""

    num_requests: int = 400
    rate: float = 60.0
    num_rounds: int = 5
    round_s: float = 2.5


QUICK = Size(num_requests=20, num_rounds=1, round_s=0.5)


def texts_of(num_tokens: int) -> list[str]:
    """32 different texts, the same in every arm."""
    joined = LENGTHS[num_tokens]
    return [
        " ".join(QUESTIONS[(start + step * 3) % 8] for step in range(joined)) for start in range(NUM_CLIENTS)
    ]


async def added_latency(service: Service, num_requests: int, rate: float) -> list[Row]:
    """Three arms in random order, one request at a time: back to back, then `paced/…` on an open-loop schedule."""
    direct = TritonClient(f"127.0.0.1:{service.settings.triton_ports(0)[0]}")
    retriever, reader = TritonRetriever(direct), TritonReader(direct, "fast")
    scope = Scope(tenant_id="default", k=5)
    passages = (await retriever.retrieve(QUESTION, scope, timeout_s=10)).passages
    body = {"model": "fast", "messages": [{"role": "user", "content": QUESTION}]}
    client = await PlainHttp.connect(service, "/v1/chat/completions", msgspec.json.encode(body))

    async def read(found: list[Passage]) -> None:
        async for _ in reader.answer(Inquiry(question=QUESTION), found, timeout_s=10):
            pass

    async def parts() -> None:
        await read((await retriever.retrieve(QUESTION, scope, timeout_s=10)).passages)

    arms = {"reader": lambda: read(passages), "parts": parts, "service": client.post}
    for arm in arms.values():  # warm every path before anything counts
        for _ in range(30):
            await arm()
    rng = random.Random(0)
    out: list[Row] = []
    for slot in range(num_requests):
        for name in rng.sample(sorted(arms), len(arms)):
            sent = time.perf_counter()
            await arms[name]()
            out.append(Row(name, slot, sent, sent, time.perf_counter()))
    start = time.perf_counter()
    for slot in range(num_requests):
        for position, name in enumerate(rng.sample(sorted(arms), len(arms))):
            intended = start + (slot * len(arms) + position) / rate
            await asyncio.sleep(max(0.0, intended - time.perf_counter()))
            sent = time.perf_counter()
            await arms[name]()
            out.append(Row(f"paced/{name}", slot, intended, sent, time.perf_counter()))
    await direct.close()
    client.close()
    return out


class PlainHttp:
    """One kept-alive connection and one prepared request: a client that costs next to nothing itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self._reader, self._writer, self._request = reader, writer, request

    @classmethod
    async def connect(cls, service: Service, path: str, body: bytes) -> PlainHttp:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.settings.port)
        headers = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body))}
        lines = [f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in (headers | service.headers).items())]
        return cls(reader, writer, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def post(self) -> None:
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(head.decode())
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


async def retrieve_rate(service: Service, num_rounds: int, round_s: float) -> tuple[list[Row], Profile]:
    """Rounds of each arm in turn. The batch loop runs while the servers idle: it has the same two cores."""
    model_dir = prepare_embedder(service.settings.models_dir, lambda _: None)
    embedder = SentenceEmbedder(
        model_dir, precision=service.settings.embed_precision, threads=service.settings.embed_threads
    )
    direct = TritonClient(f"127.0.0.1:{service.settings.triton_ports(0)[0]}")
    balanced = TritonClient(service.settings.triton_target)
    out: list[Row] = []
    profile: Profile = {}
    for num_tokens in LENGTHS:
        texts = texts_of(num_tokens)
        embedder.embed(texts)
        for number in range(num_rounds):
            out += _batch_round(embedder, texts, f"batch/{num_tokens}", number, round_s)
            for name, client in (("triton", direct), ("envoy", balanced)):
                before = processor_seconds(service)
                rows = await _client_round(
                    TritonRetriever(client), texts, f"{name}/{num_tokens}", number, round_s
                )
                if name == "envoy":
                    profile[str(num_tokens)] = spent(before, processor_seconds(service), len(rows))
                out += rows
    await direct.close()
    await balanced.close()
    return out, profile


def _batch_round(
    embedder: SentenceEmbedder, texts: list[str], arm: str, number: int, round_s: float
) -> list[Row]:
    out = []
    end = time.perf_counter() + round_s
    while (sent := time.perf_counter()) < end:
        embedder.embed(texts)
        out.append(Row(arm, number, sent, sent, time.perf_counter(), len(texts)))
    return out


async def _client_round(
    retriever: TritonRetriever, texts: list[str], arm: str, number: int, round_s: float
) -> list[Row]:
    out: list[Row] = []
    end = time.perf_counter() + round_s
    scope = Scope(tenant_id="default", k=5)

    async def client(index: int) -> None:
        while (sent := time.perf_counter()) < end:
            await retriever.retrieve(texts[index], scope, timeout_s=10)
            out.append(Row(arm, number, sent, sent, time.perf_counter()))

    await asyncio.gather(*(client(index) for index in range(NUM_CLIENTS)))
    return out


def summarise(added: list[Row], rate: list[Row], profile: Profile) -> dict[str, Any]:
    latency = rows_module.latencies(added)
    rates = rows_module.rates(rate)
    shares = {
        f"{arm}/{num_tokens}": rows_module.ratio(rates[f"{arm}/{num_tokens}"], rates[f"batch/{num_tokens}"])
        for num_tokens in LENGTHS
        for arm in ("triton", "envoy")
    }
    return {
        "added_latency": {
            "latency_ms": latency,
            "added_p50_ms": {
                f"{pace}service - {floor}": latency[f"{pace}service"]["p50"]
                - latency[f"{pace}{floor}"]["p50"]
                for pace in ("", "paced/")
                for floor in ("reader", "parts")
            },
        },
        "retrieve_rate": {
            "texts_per_s": rows_module.medians(rates),
            "share_of_batch_loop": shares,
            "processor_us_per_text": profile,
        },
    }


def show(summary: dict[str, Any]) -> None:
    added, rate = summary["added_latency"], summary["retrieve_rate"]
    print("\nadded latency, one request at a time (ms)")
    for arm, row in added["latency_ms"].items():
        print(f"  {arm:14} p50 {row['p50']:6.2f}  p90 {row['p90']:6.2f}  p99 {row['p99']:6.2f}  n {row['n']}")
    for name, value in added["added_p50_ms"].items():
        print(f"  {name:24} p50 {value:5.2f} ms   (target <= 3)")
    print(
        f"\nretrieve at {NUM_CLIENTS} clients (texts/s, median of rounds; share of the batch loop, target >= 0.80)"
    )
    for num_tokens in LENGTHS:
        per_s, share = rate["texts_per_s"], rate["share_of_batch_loop"]
        cells = [f"batch {per_s[f'batch/{num_tokens}']:6.0f}"]
        for arm in ("triton", "envoy"):
            key = f"{arm}/{num_tokens}"
            cells.append(f"{arm} {per_s[key]:6.0f} = {share[key]['median']:.2f}")
        print(f"  ~{num_tokens:3} tokens  " + "   ".join(cells))
        spent_us = rate["processor_us_per_text"][str(num_tokens)]
        print(
            "      processor us per text: "
            + ", ".join(f"{name} {value:.0f}" for name, value in spent_us.items())
        )


def run(size: Size) -> tuple[list[Row], list[Row], Profile]:
    with running_service() as service:
        added = uvloop.run(added_latency(service, size.num_requests, size.rate))
        rate, profile = uvloop.run(retrieve_rate(service, size.num_rounds, size.round_s))
    return added, rate, profile
