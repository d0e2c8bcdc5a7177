"""Answers that break off are billed to the last token sent, whatever breaks them off, through both doors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from gateway.shutdown import cut_off, drain
from gateway.storage import limits
from gateway.types import Delta
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import Door, Reply
from tests.integration.api.test_both_doors import QUESTION, door, doors
from tests.integration.api.test_leaving import the_receipt
from tests.waiting import until

__all__ = ["door", "doors"]
WORDS = [f"word{number} " for number in range(40)]
PROMPT = 7  # tokens, as the scripted engine counts
BUDGET = 100_000
FAILS_AT = 12


async def scripted(gateway: Gateway) -> None:
    """A budget, and an engine that takes its time: each delta is one token."""
    with gateway.services.database.write() as conn:
        assert limits.set_tenant_limits(conn, "acme", {"monthly_tokens": BUDGET})
    gateway.services.auth.forget_all()
    gateway.fast.texts, gateway.fast.gap_s = WORDS, 0.03


async def is_billed(gateway: Gateway, num_tokens: int) -> None:
    """In the ledger, and of the budget: prompt and so many tokens of the answer."""
    await gateway.services.recorder.flush()
    usage = (await gateway.client.get("/v1/usage", headers=gateway.auth())).json()
    prompt = PROMPT if num_tokens else 0
    found = [(each["prompt_tokens"], each["completion_tokens"]) for each in usage["data"]]
    assert found == ([(prompt, num_tokens)] if num_tokens else [])
    assert usage["limits"]["monthly_tokens"]["remaining"] == BUDGET - prompt - num_tokens


def num_words(text: str) -> int:
    assert text == "".join(WORDS)[: len(text)]
    return text.count(" ")


async def test_a_client_that_leaves(gateway: Gateway, door: Door) -> None:
    await scripted(gateway)
    question = await door.open(model="fast", messages=QUESTION)
    await question.read_until("word8")
    await question.leave()
    await until(lambda: gateway.fast.cancelled and gateway.services.lifecycle.inflight == 0)
    sent = (await the_receipt(gateway))["usage"]["completion_tokens"]
    assert 8 <= sent <= 15, "what was sent until the gateway heard of it"
    await is_billed(gateway, sent)


async def a_failing_tier(gateway: Gateway, ask: Callable[[], Awaitable[Reply]]) -> Reply:
    gateway.fast.fail_with = UpstreamProtocolError("The model server gave a malformed answer.")
    gateway.fast.fail_at = FAILS_AT
    return await ask()


async def a_draining_worker(gateway: Gateway, ask: Callable[[], Awaitable[Reply]]) -> Reply:
    gateway.services.settings = replace(gateway.settings, drain_s=0.4)
    asked = asyncio.ensure_future(ask())
    await until(lambda: gateway.fast.started)
    assert not await drain(gateway.services, gateway.server, gateway.door)
    await cut_off(gateway.services, gateway.server, gateway.door)
    return await asked


@pytest.mark.parametrize(
    "breaks_off", [a_failing_tier, a_draining_worker], ids=["tier fails", "worker drains"]
)
async def test_what_broke_off_is_billed_as_far_as_it_was_read(
    gateway: Gateway, door: Door, breaks_off: Callable[[Gateway, Any], Awaitable[Reply]]
) -> None:
    await scripted(gateway)
    reply = await breaks_off(gateway, lambda: door.ask(model="fast", messages=QUESTION))
    assert reply.failure is not None
    read = num_words(reply.text)
    assert 3 <= read <= len(WORDS) - 3
    await until(lambda: gateway.services.lifecycle.inflight == 0)
    billed = (await the_receipt(gateway))["usage"]["completion_tokens"]
    # A write that is cut in its middle may still arrive: the caller is never billed for more than came.
    assert read - 1 <= billed <= read
    await is_billed(gateway, billed)


async def test_an_answer_that_fails_before_its_first_token(gateway: Gateway, door: Door) -> None:
    """Though the tier had counted the prompt already."""
    await scripted(gateway)
    gateway.fast._deltas = lambda _: [Delta(num_input_tokens=PROMPT), Delta(text="never")]  # type: ignore[method-assign]
    gateway.fast.fail_with, gateway.fast.fail_at = UpstreamUnavailable("The model server is away."), 1
    reply = await door.ask(model="fast", messages=QUESTION)
    assert reply.failure is not None
    await is_billed(gateway, 0)


async def test_a_reader_that_takes_nothing(gateway: Gateway, door: Door) -> None:
    await scripted(gateway)
    gateway.fast.texts, gateway.fast.gap_s = ["x" * 20_000] * 400, 0.0
    question = await door.open(model="fast", messages=QUESTION)
    await until(lambda: gateway.fast.cancelled and gateway.services.lifecycle.inflight == 0, within_s=10)
    sent = (await the_receipt(gateway))["usage"]["completion_tokens"]
    assert 0 < sent < 400
    await is_billed(gateway, sent)
    await question.leave()


async def test_an_answer_without_words_costs_its_prompt_everywhere(gateway: Gateway, door: Door) -> None:
    await scripted(gateway)
    gateway.fast.texts = []
    reply = await door.ask(model="fast", messages=QUESTION)
    assert reply.failure is None
    await the_receipt(gateway)
    await gateway.services.recorder.flush()
    usage = (await gateway.client.get("/v1/usage", headers=gateway.auth())).json()
    assert [(each["prompt_tokens"], each["completion_tokens"]) for each in usage["data"]] == [(PROMPT, 0)]
    assert usage["limits"]["monthly_tokens"]["remaining"] == BUDGET - PROMPT
