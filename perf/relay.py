"""Token relay: what a stream of 64 chunks costs on its way through the service, beside the bare parts and LiteLLM.

One gateway worker, the whole pipeline (retrieval, prompt, slots, ids, keep-alive, receipt); every stream is checked
chunk by chunk. Arms, interleaved in one run:

    bare      the model `relay` on Triton, read by a grpc.aio client that does nothing but check and count (the floor)
    parts     the same client, which calls `retrieve` first, as the service does
    service   the same streams as server-sent events: Envoy, gateway worker, Envoy, Triton; every chunk its own event
    upstream  an OpenAI-compatible server that plays prepared bytes (LiteLLM's floor)
    litellm   the same streams through the LiteLLM proxy in front of that upstream

relay_rate    chunks/s at 32 streams, rounds of each arm in turn
relay_first   time to the first chunk at concurrency 1
relay_paced   some hundred streams at 20 tokens/s each, tokens coalesced as in service: gateway processor time a token,
              over whole streams of 64 tokens (`paced`), and between the first and the last token (`steady`)
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import random
import re
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from tritonclient.grpc import service_pb2_grpc

from gateway.retrieval.triton_models import TritonRetriever
from gateway.tensors import generate_model
from gateway.triton import TritonClient, fill, make_plan
from gateway.types import Scope
from perf import litellm_proxy, rows
from perf.litellm_proxy import Proxy
from perf.profile import processor_seconds, spent
from perf.relay_report import GAP_MS, NUM_STREAMS, Measured, show, summarise
from perf.relay_service import TIER, relay_service
from perf.relay_text import CHUNKS, NUM_CHUNKS, chunk
from perf.rounds import Ask, Http, check_ours, check_plain, first_chunks, round_of, row
from perf.service import Service
from perf.stacks import stacks_of
from perf.streams import BrokenStream, StreamClient, Times, check_ids, check_joined

QUESTION = "What happens when a Triton replica dies?"
EACH = "coalesce_ms=0"  # what the model reads in a question: every token in a message of its own
PACED = f"gap_ms={GAP_MS}"  # 20 tokens/s; they share messages by the service's own rule
TEXT = re.compile(rb" w\d{3}")
_RAW_CHUNKS = [len(text).to_bytes(4, "little") + text.encode() for text in CHUNKS]


@dataclass(frozen=True)
class Size:
    """How much is measured. num_paced: streams at 20 tokens/s; each asks paced_turns times."""

    num_rounds: int = 5
    round_s: float = 4.0
    num_first: int = 150
    num_paced: int = 300
    paced_turns: int = 3
    steady_s: float = 6.0


QUICK = Size(num_rounds=1, round_s=0.5, num_first=5, num_paced=20, paced_turns=1, steady_s=0.5)


class Bare:
    """A grpc.aio consumer of the model over raw stubs."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        inputs = {"prompt": f"{QUESTION} {EACH}", "max_tokens": np.array([NUM_CHUNKS], np.int32)}
        self._request = fill(make_plan(generate_model(TIER), inputs, 1), inputs)

    async def ask(self) -> Times:
        """One stream. Raises: BrokenStream."""
        sent_s, first_s, number = time.perf_counter(), 0.0, 0
        call = self._stub.ModelStreamInfer(timeout=60)
        await call.write(self._request)
        await call.done_writing()
        while (message := await call.read()) is not grpc.aio.EOF:
            contents = message.infer_response.raw_output_contents
            if number >= NUM_CHUNKS or not contents or contents[0] != _RAW_CHUNKS[number]:
                raise BrokenStream(f"message {number} is {message.error_message or contents}")
            first_s = first_s or time.perf_counter()
            number += 1
        if number != NUM_CHUNKS:
            raise BrokenStream(f"{number} chunks for {NUM_CHUNKS}")
        return Times(sent_s, first_s, time.perf_counter())

    async def close(self) -> None:
        await self._channel.close()


def body_of(knobs: str, num_tokens: int = NUM_CHUNKS) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{QUESTION} {knobs}"}]
    return {"model": TIER, "stream": True, "max_tokens": num_tokens, "messages": messages}


def check_paced(body: bytes) -> None:
    check_joined(body, CHUNKS)
    check_ids(body)


async def measure(service: Service, proxy: Proxy | None, size: Size) -> Measured:
    triton = f"127.0.0.1:{service.settings.triton_ports(0)[0]}"
    bare = Bare(triton)
    port, headers = service.settings.port, service.headers
    https = {"service": await Http.connect(port, body_of(EACH), headers, check_ours, NUM_STREAMS)}
    if proxy is not None:
        for name, port in (("upstream", proxy.upstream_port), ("litellm", proxy.port)):
            https[name] = await Http.connect(port, body_of(EACH), proxy.headers, check_plain, NUM_STREAMS)
    client = TritonClient(triton)
    parts = _parts(TritonRetriever(client), bare)
    arms = {"bare": [bare.ask] * NUM_STREAMS, "parts": [parts] * NUM_STREAMS}
    arms |= {name: http.asks() for name, http in https.items()}
    out = Measured()
    try:
        for asks in arms.values():  # warm every path before anything counts
            await asyncio.gather(*(ask() for ask in asks))
        await _rates(service, arms, size, out)
        out.rows += await first_chunks("relay_first", arms, size.num_first)
        out.stacks = (
            await stacks_of(service, "perf.relay_worker", arms["service"]) if size is not QUICK else ""
        )
        await _paced(service, size, out)
        await _steady(service, size, out)
    finally:
        await bare.close()
        await client.close()
        for http in https.values():
            http.close()
    return out


def _parts(retriever: TritonRetriever, bare: Bare) -> Ask:
    """What the service calls on Triton for one question, called directly: `retrieve`, then the stream."""
    scope = Scope(tenant_id="default", k=8)

    async def ask() -> Times:
        sent_s = time.perf_counter()
        await retriever.retrieve(QUESTION, scope, timeout_s=10)
        return (await bare.ask())._replace(sent_s=sent_s)

    return ask


async def _rates(service: Service, arms: dict[str, list[Ask]], size: Size, out: Measured) -> None:
    used: dict[str, Counter[str]] = {name: Counter() for name in arms}
    for number in range(size.num_rounds):
        for name, asks in arms.items():
            before = processor_seconds(service)
            found = await round_of(f"relay_rate/{name}", number, asks, size.round_s)
            used[name].update(
                {part: value - before.get(part, 0) for part, value in processor_seconds(service).items()}
            )
            out.rows += found
    for name, seconds in used.items():
        num_chunks = sum(row.count for row in out.rows if row.arm == f"relay_rate/{name}")
        out.profile[name] = spent({}, seconds, num_chunks)


async def _paced(service: Service, size: Size, out: Measured) -> None:
    """Streams that begin at random moments of one stream's length, each several times over."""
    body = body_of(PACED)
    http = await Http.connect(service.settings.port, body, service.headers, check_paced, size.num_paced)
    rng = random.Random(0)
    stream_s = NUM_CHUNKS * GAP_MS / 1000

    async def client(ask: Ask) -> None:
        await asyncio.sleep(rng.uniform(0, stream_s))
        for turn in range(size.paced_turns):
            out.rows.append(row("relay_paced/service", turn, await ask()))

    before = processor_seconds(service)
    try:
        await asyncio.gather(*(client(ask) for ask in http.asks()))
    finally:
        http.close()
    num_tokens = size.num_paced * size.paced_turns * NUM_CHUNKS
    out.profile["paced"] = spent(before, processor_seconds(service), num_tokens)


async def _steady(service: Service, size: Size, out: Measured) -> None:
    """The middle of long streams: every one has its first chunk already, none has its last."""
    start_s = 3.0
    num_tokens = int((start_s + 2 * size.steady_s + 2.0) * 1000 / GAP_MS)
    expected = [chunk(number) for number in range(num_tokens)]
    calls = (
        StreamClient.connect(
            service.settings.port, litellm_proxy.PATH, body_of(PACED, num_tokens), service.headers
        )
        for _ in range(size.num_paced)
    )
    clients = [await call for call in calls]
    rng = random.Random(0)

    async def stream(client: StreamClient) -> None:
        await asyncio.sleep(rng.uniform(0, start_s))
        _, body = await client.ask()
        check_joined(body, expected)

    def num_received() -> int:
        return sum(len(TEXT.findall(client.received())) for client in clients)

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(stream(client))
        await asyncio.sleep(start_s + 2.0)
        if not all(TEXT.search(client.received()) for client in clients):
            raise BrokenStream("a stream has no first chunk yet, when the middle of all is to be measured")
        before, count = processor_seconds(service), num_received()
        await asyncio.sleep(size.steady_s)
        out.profile["steady"] = spent(before, processor_seconds(service), num_received() - count)
        if any(b"[DONE]" in client.received() for client in clients):
            raise BrokenStream("a stream ended while its middle was measured")
    for client in clients:
        client.close()


def run(size: Size) -> Measured:
    """The service and, where it is installed, the LiteLLM proxy, both measured in this process."""
    installed = litellm_proxy.is_installed()
    if not installed:
        print("LiteLLM is left out: its environment is not there (scripts/tools litellm)")
    with relay_service() as service, litellm_proxy.litellm_proxy() if installed else nullcontext() as proxy:
        return uvloop.run(measure(service, proxy, size))


def keep(folder: Path, measured: Measured) -> None:
    """Rows and stacks, compressed."""
    rows.write(folder / "relay.jsonl.gz", measured.rows)
    if measured.stacks:
        with gzip.open(folder / "relay-worker-stacks.txt.gz", "wt") as file:
            file.write(measured.stacks)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes: shows that it works")
    parser.add_argument("--out", type=Path, help="folder for rows and stacks; nothing is kept without it")
    args = parser.parse_args()
    measured = run(QUICK if args.quick else Size())
    if args.out:
        keep(args.out, measured)
    show(summarise(measured))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
