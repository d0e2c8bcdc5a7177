"""How fast whole answers are, over HTTP through Envoy: one client for each tier, interleaved, then 32 of `fast`.

The questions are the labelled ones over the project's own pages (perf/eval/documentation.json), which the sample
collection of a new service holds. No answer is kept by any cache of answers; passages and words that came before are
known to the reader, as they are in service. The client shares the cores and costs next to nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from perf.overhead import PlainHttp
from perf.rows import Row, latencies, percentile
from perf.service import Service, running_service

QUESTIONS = Path(__file__).parent / "eval" / "documentation.json"
TIERS = ("fast", "deep")
NUM_CLIENTS = 32


@dataclass(frozen=True)
class Size:
    num_questions: int = 150
    num_rounds: int = 2
    flood_s: float = 20.0


QUICK = Size(num_questions=30, num_rounds=1, flood_s=5.0)


def bodies(num_questions: int, tier: str) -> list[bytes]:
    questions = json.loads(QUESTIONS.read_text())["questions"][:num_questions]
    return [
        json.dumps({"model": tier, "messages": [{"role": "user", "content": each["question"]}]}).encode()
        for each in questions
    ]


async def one_by_one(service: Service, size: Size) -> list[Row]:
    """Each question to each tier in turn. The first round meets every passage for the first time."""
    found = []
    asked = list(zip(*(bodies(size.num_questions, tier) for tier in TIERS), strict=True))
    for number in range(size.num_rounds):
        for each in asked:
            for tier, body in zip(TIERS, each, strict=True):
                client = await PlainHttp.connect(service, "/v1/chat/completions", body)
                started = time.perf_counter()
                await client.post()
                found.append(Row(f"{tier}@1", number, started, started, time.perf_counter()))
                client.close()
    return found


async def flood(service: Service, size: Size) -> list[Row]:
    """NUM_CLIENTS clients that ask `fast` again as soon as they are answered, each from another question on."""
    found: list[Row] = []
    asked = bodies(size.num_questions, "fast")
    until = time.perf_counter() + size.flood_s

    async def client(first: int) -> None:
        for number in itertools.count(first * 7):
            connection = await PlainHttp.connect(service, "/v1/chat/completions", asked[number % len(asked)])
            started = time.perf_counter()
            await connection.post()
            done = time.perf_counter()
            connection.close()
            if done > until:
                return
            found.append(Row(f"fast@{NUM_CLIENTS}", 0, started, started, done))

    await asyncio.gather(*(client(index) for index in range(NUM_CLIENTS)))
    return found


def summarise(found: list[Row], flood_s: float) -> dict[str, Any]:
    """Milliseconds by arm, and answers a second of the flood."""
    many = [row for row in found if row.arm == f"fast@{NUM_CLIENTS}"]
    times = [row.latency_ms for row in many]
    return {
        "answers": {
            "one_client_ms": latencies(row for row in found if row not in many),
            "flood_per_s": round(len(many) / flood_s, 1),
            "flood_p50_ms": round(percentile(times, 50), 1),
            "flood_p99_ms": round(percentile(times, 99), 1),
        }
    }


def show(summary: dict[str, Any]) -> None:
    answers = summary["answers"]
    for arm, values in answers["one_client_ms"].items():
        print(f"  {arm}: p50 {values['p50']:.1f} ms, p99 {values['p99']:.1f} ms")
    print(
        f"  fast, {NUM_CLIENTS} clients: {answers['flood_per_s']} answers/s,"
        f" p50 {answers['flood_p50_ms']} ms, p99 {answers['flood_p99_ms']} ms"
    )


def run(size: Size) -> list[Row]:
    with running_service() as service:
        alone = uvloop.run(one_by_one(service, size))
        return alone + uvloop.run(flood(service, size))
