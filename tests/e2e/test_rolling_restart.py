"""Both gateway workers are restarted, one after the other, under steady load: no answer is cut, lost or doubled.

Streams of a slow upstream tier last longer than the drain, so they must be handed over; short answers must not notice.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from perf.load.arms import engine, tiers_file
from perf.load.scenario import Model
from perf.relay_text import chunk
from tests.e2e.conftest import Launch, Service, wait_for

CHAT = "/v1/chat/completions"
RESTART_LIMIT_S = 60.0
DRAIN_S = 3
NUM_TOKENS, GAP_MS = 160, 50  # 8 s
NUM_STREAMS = 6
EXPECTED = "".join(chunk(number) for number in range(NUM_TOKENS))
MODEL = Model(slots=NUM_STREAMS, gap_ms=GAP_MS, prefill_ms=50)


@dataclass
class Tally:
    """What the clients saw. problems: whatever a client would complain about."""

    whole: int = 0
    handed_over: int = 0
    sent_elsewhere: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Answer:
    text: str = ""
    last_id: str = ""
    error: dict[str, Any] | None = None
    is_done: bool = False
    numbers: list[int] = field(default_factory=list)

    def take(self, line: str) -> None:
        if line.startswith("id: "):
            self.last_id = line[4:]
            self.numbers.append(int(line.rpartition(".")[2]))
        elif line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            self.error = event.get("error", self.error)
            self.text += "".join(each["delta"].get("content", "") for each in event.get("choices", []))


@pytest.fixture(scope="module")
def duo(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers, and a tier on another server that makes 20 tokens a second."""
    tiers = tmp_path_factory.mktemp("tiers") / "tiers.toml"
    with engine(MODEL) as port:
        tiers.write_text(tiers_file(port, 2 * MODEL.slots, 60.0))
        service = launch(gateway_workers=2, drain_s=DRAIN_S, tiers_file=str(tiers), cache=False)
        yield service
        assert service.stop() == 0


async def ask(client: httpx.AsyncClient, model: str, tally: Tally, expected: str | None) -> None:
    """One question to its end, on as many connections as it takes, as a client does that knows the service."""
    body = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "What does a tide gate do?"}],
    }
    answer, headers = Answer(), dict[str, str]()
    while not answer.is_done:
        answer.error, answer.numbers = None, []
        try:
            async with client.stream(
                "POST", CHAT, json=body | {"max_tokens": NUM_TOKENS}, headers=headers
            ) as reply:
                if reply.status_code != 200:
                    refusal = json.loads(await reply.aread())["error"]
                    if refusal["code"] != "draining" or "retry-after" not in reply.headers:
                        tally.problems.append(f"{model}: {reply.status_code} {refusal}")
                        return
                    tally.sent_elsewhere += 1
                    continue
                async for line in reply.aiter_lines():
                    answer.take(line)
        except httpx.HTTPError as error:
            tally.problems.append(f"{model}: {error!r} after {answer.last_id}")
            return
        if answer.numbers != list(range(1, len(answer.numbers) + 1)):
            tally.problems.append(f"{model}: events {answer.numbers}")
        if answer.error is not None:
            if "last_event_id" not in answer.error:
                tally.problems.append(f"{model}: cut for good: {answer.error}")
                return
            headers["last-event-id"] = answer.error["last_event_id"]
            tally.handed_over += 1
        elif not answer.is_done:
            tally.problems.append(f"{model}: cut without a word after {answer.last_id}")
            return
    if expected is not None and answer.text != expected:
        tally.problems.append(f"{model}: another text, of {len(answer.text)} characters")
    tally.whole += 1


@asynccontextmanager
async def steady_load(service: Service, tally: dict[str, Tally]) -> AsyncIterator[None]:
    over = asyncio.Event()

    async def again_and_again(model: str, expected: str | None) -> None:
        headers = {"authorization": f"Bearer {service.api_key}"}
        async with httpx.AsyncClient(base_url=service.base_url, headers=headers, timeout=60) as client:
            while not over.is_set():
                await ask(client, model, tally[model], expected)
                await asyncio.sleep(0.01)  # a service that refuses is not asked without end

    async with asyncio.TaskGroup() as tasks:
        for number in range(NUM_STREAMS):
            tasks.create_task(again_and_again("engine", EXPECTED))
            await asyncio.sleep(0.4)
            if number % 3 == 0:
                tasks.create_task(again_and_again("fast", None))
        try:
            yield
        finally:
            over.set()


def worker_is_ready(service: Service, index: int) -> bool:
    port = service.settings.worker_port(index)
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def restart(service: Service, index: int) -> None:
    """As a rollout does it: SIGTERM, and the next one only when this one is back."""
    name = f"gateway-{index}"
    before = service.part_pid(name)
    os.kill(before, signal.SIGTERM)
    wait_for(lambda: service.part_pid(name) not in {0, before}, RESTART_LIMIT_S, f"{name} started again")
    wait_for(lambda: worker_is_ready(service, index), RESTART_LIMIT_S, f"{name} ready")


@pytest.mark.timeout(300)
def test_a_rolling_restart_cuts_loses_and_doubles_nothing(duo: Service) -> None:
    tally = {"engine": Tally(), "fast": Tally()}

    async def roll() -> None:
        async with steady_load(duo, tally):
            for index in (0, 1):
                await asyncio.to_thread(restart, duo, index)

    asyncio.run(roll())
    for model, seen in tally.items():
        assert seen.problems == [], model
    assert tally["engine"].handed_over >= 2, "the streams outlast the drain"
    assert tally["engine"].whole >= NUM_STREAMS
    assert tally["fast"].whole > 20
    assert tally["fast"].handed_over == 0, "what is short ends within the drain"
