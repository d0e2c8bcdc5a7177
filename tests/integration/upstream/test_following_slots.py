"""Slots that follow a slow engine (TIDEGATE_ADAPTIVE_TIERS), through a whole worker, over a real socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.app import build
from gateway.chat import ChatPipeline, ChatRequest
from gateway.settings import load_settings
from gateway.types import Tenant
from tests.fakes.openai_server import FakeOpenAi
from tests.fakes.pipelines import ListeningSink

NUM_SLOTS = 8
SLOW_S = 0.6  # to the first text; LATE_S is 0.25


@pytest_asyncio.fixture(params=["large", ""], ids=["adaptive", "fixed"])
async def pipeline(
    request: pytest.FixtureRequest, fake: FakeOpenAi, tmp_path: Path, models_dir: Path
) -> AsyncIterator[ChatPipeline]:
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(f'[large]\nbase_url = "{fake.url}"\nmodel = "m"\nslots = {NUM_SLOTS}\n')
    (tmp_path / "models").symlink_to(models_dir)
    settings = load_settings(
        {"TIDEGATE_ADAPTIVE_TIERS": request.param},
        var=tmp_path,
        tiers_file=str(tiers),
        gateway_workers=1,
        redis_url="redis://127.0.0.1:1/0",
    )
    services, triton = await build(settings)
    yield services.pipeline
    await services.upstreams["large"].close()
    await triton.close()


async def ask(pipeline: ChatPipeline, number: int) -> None:
    now = time.monotonic()
    request = ChatRequest(
        id=f"chatcmpl-{number}",
        tenant=Tenant("acme"),
        model="large",
        question="What does a tide gate do?",
        received=now,
        deadline=now + 30,
        created=1,
        without_documents=True,
    )
    await pipeline.run(request, ListeningSink())


async def rounds(pipeline: ChatPipeline, count: int) -> None:
    """All slots are taken so many times."""
    for _ in range(count):
        await asyncio.gather(*(ask(pipeline, number) for number in range(pipeline.queues["large"].limit)))


async def test_slow_first_texts_take_slots_away_and_timely_ones_give_them_back(
    pipeline: ChatPipeline, fake: FakeOpenAi, request: pytest.FixtureRequest
) -> None:
    is_adaptive = request.node.callspec.params["pipeline"] == "large"
    queue = pipeline.queues["large"]
    for number in range(2):  # one at a time: what reading the prompt takes is learned
        await ask(pipeline, number)
    assert queue.limit == NUM_SLOTS
    fake.first_delay_s = SLOW_S
    await rounds(pipeline, 4)
    assert queue.limit <= NUM_SLOTS - 2 if is_adaptive else queue.limit == NUM_SLOTS
    fake.first_delay_s = 0.0
    for _ in range(60):  # a dozen do, but where this machine was slow, too
        if queue.limit == NUM_SLOTS:
            break
        await rounds(pipeline, 1)
    assert queue.limit == NUM_SLOTS
