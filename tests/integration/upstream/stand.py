"""A tier on another server, over a real socket to a server with knobs (tests/fakes/openai_server.py)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gateway.generation.circuit import Circuit, Rule
from gateway.generation.upstream_client import UpstreamClient
from gateway.generation.upstream_generator import UpstreamGenerator
from gateway.tier_config import UpstreamTier
from gateway.types import Delta, Inquiry, Passage, Sampling, Turn
from tests.fakes.engines import PASSAGES
from tests.fakes.openai_server import FakeOpenAi

KEY = "sk-very-secret-0123456789"
WAIT_S = 0.4


class Stand:
    """A tier over a fake server, and what was counted."""

    def __init__(self, fake: FakeOpenAi, **fields: Any) -> None:
        self.fake = fake
        self.results: list[str] = []
        self.now = 0.0
        self.tier = UpstreamTier(
            name="large",
            model="m-70b",
            **{"base_url": fake.url, "slots": 32, "max_tokens": 256}
            | {"connect_s": 2, "first_token_s": 5, "between_tokens_s": 5}
            | fields,
        )
        self.client = UpstreamClient(self.tier, KEY)
        self.generator = UpstreamGenerator(
            self.client,
            self.tier,
            circuit=Circuit(Rule(min_failures=3, cool_down_s=5)),
            clock=lambda: self.now,
            count=self.results.append,
        )

    async def write(
        self,
        *,
        sampling: Sampling | None = None,
        history: list[Turn] | None = None,
        passages: list[Passage] | None = None,
        said: str = "",
        num_said: int = 0,
        timeout_s: float = 20,
    ) -> list[Delta]:
        inquiry = Inquiry(
            question="What does a tide gate do?",
            history=history or [],
            sampling=sampling or Sampling(),
            said=said,
            num_said=num_said,
        )
        answer = self.generator.answer(inquiry, passages or PASSAGES, timeout_s=timeout_s)
        return [delta async for delta in answer]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def until(holds: Any, limit_s: float = 5) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)
