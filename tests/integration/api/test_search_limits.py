"""Searches without an answer: limits, what they are billed, and that a flood of them holds up nobody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from gateway.admission.bounded import BoundedRetriever
from gateway.admission.slots import SlotQueue
from gateway.errors import InvalidRequest, TidegateError, UpstreamUnavailable
from gateway.ports import Retrieved
from gateway.proto import chat_pb2 as pb
from gateway.proto.chat_pb2_grpc import ChatServiceStub
from gateway.storage import limits
from gateway.types import Scope
from tests.fakes.engines import ScriptedRetriever
from tests.integration.api.conftest import Gateway
from tests.integration.api.test_files_and_stores import store

QUERY = "how high is the tide"  # five words, which is what the test's tokenizer counts
FLOOD, SLOTS = 30, 2


async def limit(gateway: Gateway, tenant: str = "acme", **values: int) -> None:
    with gateway.services.database.write() as conn:
        assert limits.set_tenant_limits(conn, tenant, values)
    gateway.services.auth.forget_all()


async def search(gateway: Gateway, store_id: str, tenant: str = "acme") -> Any:
    return await gateway.client.post(
        f"/v1/vector_stores/{store_id}/search", json={"query": QUERY}, headers=gateway.auth(tenant)
    )


def retrieve(gateway: Gateway, channel: grpc.aio.Channel, tenant: str = "acme") -> Any:
    request = pb.RetrieveRequest(query=QUERY)
    return ChatServiceStub(channel).Retrieve(request, metadata=tuple(gateway.auth(tenant).items()))


async def usage(gateway: Gateway) -> Any:
    await gateway.services.recorder.flush()
    return (await gateway.client.get("/v1/usage", headers=gateway.auth())).json()


async def eventually(is_true: Callable[[], Any]) -> None:
    for _ in range(500):
        if is_true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to pass")


async def test_a_search_is_limited_told_and_billed(gateway: Gateway) -> None:
    store_id = await store(gateway)
    await limit(gateway, requests_per_minute=2, tokens_per_minute=1000)
    first = await search(gateway, store_id)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-tokens"] == "995"
    assert (await search(gateway, store_id)).status_code == 200
    refused = await search(gateway, store_id)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert gateway.retriever.started == 2
    assert (await usage(gateway))["data"] == [
        {"tier": "search", "num_requests": 2, "prompt_tokens": 10, "completion_tokens": 0}
    ]


async def test_retrieve_is_limited_told_and_billed_alike(gateway: Gateway) -> None:
    await limit(gateway, requests_per_minute=1, tokens_per_minute=1000)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        first = retrieve(gateway, channel)
        assert len((await first).passages) > 0
        head = dict(await first.initial_metadata())
        assert head["x-ratelimit-remaining-requests"] == "0"
        assert head["x-ratelimit-remaining-tokens"] == "995"
        refused = retrieve(gateway, channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await refused
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        tail = dict(await refused.trailing_metadata())
        assert tail["x-ratelimit-remaining-requests"] == "0"
        assert tail["x-request-id"]
    assert (await usage(gateway))["data"] == [
        {"tier": "search", "num_requests": 1, "prompt_tokens": 5, "completion_tokens": 0}
    ]


async def test_a_spent_budget_refuses_a_search(gateway: Gateway) -> None:
    store_id = await store(gateway)
    await limit(gateway, monthly_tokens=5)
    assert (await search(gateway, store_id)).status_code == 200
    refused = await search(gateway, store_id)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"


async def test_a_search_that_failed_costs_no_tokens(gateway: Gateway) -> None:
    store_id = await store(gateway)
    await limit(gateway, requests_per_minute=10, tokens_per_minute=1000)
    gateway.retriever.fail_with = UpstreamUnavailable("The models are away.")
    refused = await search(gateway, store_id)
    assert refused.status_code == 503
    assert refused.headers["x-ratelimit-remaining-requests"] == "9"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "1000"
    found = await usage(gateway)
    assert found["data"] == []
    assert found["limits"]["tokens_per_minute"]["remaining"] == 1000
    assert found["limits"]["requests_per_minute"]["remaining"] == 9


@pytest.mark.parametrize("error", [UpstreamUnavailable("Away."), InvalidRequest("Not so.")], ids=repr)
async def test_a_retrieve_that_failed_tells_the_limits_too(gateway: Gateway, error: TidegateError) -> None:
    await limit(gateway, requests_per_minute=10)
    gateway.retriever.fail_with = error
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        refused = retrieve(gateway, channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await refused
        tail = dict(await refused.trailing_metadata())
    assert tail["x-ratelimit-remaining-requests"] == "9"
    assert tail["x-request-id"]


async def test_without_limits_a_search_has_no_headers_of_them(gateway: Gateway) -> None:
    reply = await search(gateway, await store(gateway))
    assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


# Who waits for whom.


class OneByOne(ScriptedRetriever):
    """`turns`: the tenants whose searches began. Each search ends when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[str] = []
        self.ends = asyncio.Semaphore(0)

    async def retrieve(self, text: str, scope: Scope, **how: Any) -> Retrieved:  # type: ignore[override]
        self.turns.append(scope.tenant_id)
        await self.ends.acquire()
        return await super().retrieve(text, scope, timeout_s=5)


class Flooded:
    """A gateway whose retrieval has SLOTS, all of them in use by one tenant, with a line of the same behind them."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.inner = gateway, OneByOne()
        self.line = SlotQueue(SLOTS, max_waiting=100, ttl_s=60, clock=time.monotonic)
        bounded = BoundedRetriever(self.inner, self.line)
        gateway.services.retriever = gateway.services.pipeline._gatherer._retriever = bounded

    async def begin(self) -> list[asyncio.Task[Any]]:
        store_id = await store(self.gateway, "rival")
        tasks = [asyncio.create_task(search(self.gateway, store_id, "rival")) for _ in range(FLOOD)]
        await eventually(lambda: self.line.num_waiting == FLOOD - SLOTS)
        return tasks

    async def served(self, asked: asyncio.Task[Any]) -> int:
        """How many of the flood's searches began between the light one's coming and its turn."""
        await eventually(lambda: self.line.num_waiting == FLOOD - SLOTS + 1)
        before = len(self.inner.turns)
        flood, turns = self.inner.turns[0], self.inner.turns
        while set(turns) == {flood}:
            begun = len(turns)
            self.inner.ends.release()
            await eventually(lambda begun=begun: len(turns) > begun)
        for _ in range(FLOOD + 1):
            self.inner.ends.release()
        await asked
        return next(at for at, whose in enumerate(turns) if whose != flood) - before


async def test_a_question_has_its_turn_at_once_beside_a_flood_of_searches(gateway: Gateway) -> None:
    flooded = Flooded(gateway)
    tasks = await flooded.begin()
    asked = asyncio.create_task(gateway.ask(stream=True))
    assert await flooded.served(asked) <= 1
    assert asked.result().status_code == 200
    assert "data: [DONE]" in asked.result().text
    assert {(await task).status_code for task in tasks} == {200}


async def test_a_search_has_its_turn_at_once_beside_a_flood_of_searches(gateway: Gateway) -> None:
    flooded, store_id = Flooded(gateway), await store(gateway)
    tasks = await flooded.begin()
    asked = asyncio.create_task(search(gateway, store_id))
    assert await flooded.served(asked) <= 1
    assert asked.result().status_code == 200
    await asyncio.gather(*tasks)


async def test_a_retrieve_has_its_turn_at_once_beside_a_flood_of_searches(gateway: Gateway) -> None:
    flooded = Flooded(gateway)
    tasks = await flooded.begin()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        asked = asyncio.ensure_future(_answer(retrieve(gateway, channel)))
        assert await flooded.served(asked) <= 1
        assert len(asked.result().passages) > 0
    await asyncio.gather(*tasks)


async def _answer(call: Any) -> Any:
    return await call


async def test_a_question_searches_in_its_own_band(gateway: Gateway) -> None:
    for priority in ("interactive", "batch"):
        assert (await gateway.ask(tidegate={"priority": priority})).status_code == 200
    assert gateway.retriever.bands == ["interactive", "batch"]
