"""Many who ask the same at once get one answer, whichever worker they meet: two workers behind Envoy, a real engine."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from tests.e2e.conftest import Launch, Service

NUM_CLIENTS = 500
QUESTIONS = ("How does a tide gate hold back the surge of a storm?", "When does a tide gate open again?")


@pytest.fixture(scope="module")
def pair(launch: Launch) -> Service:
    return launch(gateway_workers=2)


def flights(service: Service) -> dict[str, float]:
    """Of both workers, by role."""
    found: dict[str, float] = {}
    for index in range(service.settings.num_workers):
        text = httpx.get(f"http://127.0.0.1:{service.settings.worker_port(index)}/metrics", timeout=10).text
        for role, count in re.findall(r'tidegate_cache_flights_total\{role="(\w+)"\} ([0-9.]+)', text):
            found[role] = found.get(role, 0) + float(count)
    return found


async def ask(client: httpx.AsyncClient, question: str, *, stream: bool) -> tuple[str, str]:
    """The verdict in the header, and the reply."""
    body = {"model": "fast", "stream": stream, "messages": [{"role": "user", "content": question}]}
    reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-tidegate-cache"], reply.text


async def test_five_hundred_cold_questions_over_two_workers_are_made_once(
    pair: Service,
) -> None:
    limits = httpx.Limits(max_connections=NUM_CLIENTS)
    headers = {"authorization": f"Bearer {pair.api_key}"}
    for question in QUESTIONS:
        before = flights(pair)
        async with httpx.AsyncClient(
            base_url=pair.base_url, headers=headers, timeout=60, limits=limits
        ) as client:
            replies = await asyncio.gather(
                *(ask(client, question, stream=bool(at % 2)) for at in range(NUM_CLIENTS))
            )
        roles = {role: count - before.get(role, 0) for role, count in flights(pair).items()}
        if not roles.get("alone"):  # else, on a machine this busy, Redis was not there in time: once more
            break
    told = [verdict for verdict, _ in replies]
    assert told.count("miss") == 1
    assert set(told) <= {"miss", "joined", "exact"}
    texts = {"".join(re.findall(r'"content":"((?:[^"\\]|\\.)*)"', text)) for _, text in replies}
    assert len(texts) == 1
    assert all(len(text) > 50 for text in texts)
    assert (roles.get("led"), roles.get("alone", 0)) == (1, 0)
