"""Limits through both doors: headers, 429s and their twins, what is billed, GET /v1/usage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from gateway.api import sse
from gateway.errors import UpstreamUnavailable
from gateway.proto import chat_pb2 as pb
from gateway.storage import limits
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import CHAT

HEADERS = [
    f"x-ratelimit-{what}-{kind}"
    for kind in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
]
ERROR_FIELDS = {"message", "type", "param", "code"}


async def limit(gateway: Gateway, tenant: str = "acme", **values: int) -> None:
    with gateway.services.database.write() as conn:
        assert limits.set_tenant_limits(conn, tenant, values)
    gateway.services.auth.forget_all()


async def eventually(is_true: Callable[[], Any]) -> None:
    for _ in range(250):
        if is_true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to pass")


async def test_nothing_changes_for_who_has_no_limits(gateway: Gateway) -> None:
    reply = await gateway.ask()
    assert reply.status_code == 200
    assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_answers_carry_the_headers_of_openai(gateway: Gateway, stream: bool) -> None:
    await limit(gateway, requests_per_minute=10, tokens_per_minute=50_000)
    reply = await gateway.ask(stream=stream)
    assert reply.status_code == 200
    assert [name for name in HEADERS if name not in reply.headers] == []
    assert reply.headers["x-ratelimit-limit-requests"] == "10"
    assert reply.headers["x-ratelimit-remaining-requests"] == "9"
    assert reply.headers["x-ratelimit-reset-requests"] in {"1m0s", "1m1s"}
    assert 0 < int(reply.headers["x-ratelimit-remaining-tokens"]) < 50_000


async def test_a_stream_that_opens_while_it_waits_carries_them_too(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first write is a keep-alive comment, before any tier has had it."""
    monkeypatch.setattr(sse, "FIRST_KEEPALIVE_S", 0.05)
    await limit(gateway, requests_per_minute=10, tokens_per_minute=50_000)
    permits = [await gateway.queue.acquire(band="interactive", deadline=float("inf")) for _ in range(2)]
    body = {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "What?"}]}
    async with gateway.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=gateway.auth()
    ) as reply:
        assert gateway.fast.started == 0
        assert [name for name in HEADERS if name not in reply.headers] == []
        assert reply.headers["x-ratelimit-remaining-requests"] == "9"
        for permit in permits:
            permit.release()
        assert "data: [DONE]" in (await reply.aread()).decode()


async def test_the_request_over_the_limit_is_refused_as_openai_does_it(gateway: Gateway) -> None:
    await limit(gateway, requests_per_minute=2)
    assert [(await gateway.ask()).status_code for _ in range(2)] == [200, 200]
    refused = await gateway.ask()
    error = refused.json()["error"]
    assert refused.status_code == 429
    assert set(error) >= ERROR_FIELDS
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "2 requests per minute" in error["message"]
    assert 50 <= int(refused.headers["retry-after"]) <= 62
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await gateway.ask(stream=True)).status_code == 429
    rival = await gateway.client.post(
        "/v1/chat/completions",
        json={"model": "fast", "messages": [{"role": "user", "content": "What is a tide gate?"}]},
        headers=gateway.auth("rival"),
    )
    assert rival.status_code == 200


async def test_a_spent_budget_is_no_reason_to_try_again(gateway: Gateway) -> None:
    await limit(gateway, monthly_tokens=10)
    assert (
        await gateway.ask()
    ).status_code == 200  # an estimate larger than all of the budget takes all of it
    refused = await gateway.ask()
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert refused.json()["error"]["type"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"


async def test_answers_at_once_are_limited_and_their_end_makes_room(gateway: Gateway) -> None:
    await limit(gateway, concurrent_streams=1)
    gateway.fast.hold_s = 0.5
    first = asyncio.create_task(gateway.ask(stream=True))
    await eventually(lambda: gateway.fast.started)
    refused = await gateway.ask()
    assert refused.status_code == 429
    assert "1 answers running at once" in refused.json()["error"]["message"]
    assert (await first).status_code == 200
    gateway.fast.hold_s = 0.0
    await asyncio.sleep(0.3)  # how long a refusal stands
    assert (await gateway.ask()).status_code == 200


async def test_a_key_has_limits_of_its_own(gateway: Gateway) -> None:
    with gateway.services.database.write() as conn:
        key_id = next(
            row.id for row in gateway_keys(gateway, conn) if row.tenant == "acme" and row.revoked_at is None
        )
        assert limits.set_key_limits(conn, key_id, {"requests_per_minute": 1})
    gateway.services.auth.forget_all()
    assert [(await gateway.ask()).status_code for _ in range(2)] == [200, 429]
    assert "This key" in (await gateway.ask()).json()["error"]["message"]


def gateway_keys(gateway: Gateway, conn: Any) -> Any:
    from gateway.storage.keys import list_keys

    return list_keys(conn)


async def test_anonymous_callers_have_the_limits_of_the_default_tenant(gateway: Gateway) -> None:
    await limit(gateway, "default", requests_per_minute=1)
    body = {"model": "fast", "messages": [{"role": "user", "content": "What is a tide gate?"}]}
    statuses = [(await gateway.client.post("/v1/chat/completions", json=body)).status_code for _ in range(2)]
    assert statuses == [200, 429]


async def test_embeddings_are_limited_counted_and_billed(gateway: Gateway) -> None:
    await limit(gateway, tokens_per_minute=5, requests_per_minute=9)
    body = {"model": "all-MiniLM-L6-v2", "input": ["one two three four"]}
    got = await gateway.client.post("/v1/embeddings", json=body, headers=gateway.auth())
    assert got.status_code == 200
    assert got.headers["x-ratelimit-remaining-tokens"] == "1"
    refused = await gateway.client.post("/v1/embeddings", json=body, headers=gateway.auth())
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    await gateway.services.recorder.flush()
    usage = (await gateway.client.get("/v1/usage", headers=gateway.auth())).json()
    assert usage["data"] == [
        {"tier": "all-MiniLM-L6-v2", "num_requests": 1, "prompt_tokens": 4, "completion_tokens": 0}
    ]


@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("The models are away."), RuntimeError("boom")], ids=repr
)
async def test_embeddings_that_failed_tell_the_limits_too(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def embed(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(gateway.services.vectors, "embed", embed)
    await limit(gateway, requests_per_minute=9)
    body = {"model": "all-MiniLM-L6-v2", "input": ["one two three four"]}
    got = await gateway.client.post("/v1/embeddings", json=body, headers=gateway.auth())
    assert got.status_code == (503 if isinstance(error, UpstreamUnavailable) else 500)
    assert got.headers["x-ratelimit-remaining-requests"] == "8"


async def test_usage_tells_the_month_by_day_and_model_and_what_is_left(gateway: Gateway) -> None:
    await limit(gateway, requests_per_minute=10, monthly_tokens=100_000)
    receipts = [(await gateway.ask()).json()["tidegate"]["receipt"] for _ in range(2)]
    await gateway.services.recorder.flush()
    usage = (await gateway.client.get("/v1/usage", headers=gateway.auth())).json()
    used = sum(each["usage"]["prompt_tokens"] + each["usage"]["completion_tokens"] for each in receipts)
    assert usage["month"] == usage["days"][0]["date"][:7]
    assert [(day["model"], day["num_requests"]) for day in usage["days"]] == [("fast", 2)]
    assert sum(day["prompt_tokens"] + day["completion_tokens"] for day in usage["days"]) == used
    assert usage["limits"]["requests_per_minute"]["remaining"] == 8
    assert usage["limits"]["monthly_tokens"]["limit"] == 100_000
    assert usage["limits"]["monthly_tokens"]["remaining"] == 100_000 - used
    assert (await gateway.client.get("/v1/usage", headers=gateway.auth("rival"))).json()["limits"] == {}


async def test_a_stream_that_is_left_is_billed_to_the_last_token_sent(gateway: Gateway) -> None:
    await limit(gateway, monthly_tokens=100_000)
    gateway.fast.hold_s = 5.0
    body = {
        "model": "fast",
        "messages": [{"role": "user", "content": "What is a tide gate?"}],
        "stream": True,
    }
    async with gateway.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=gateway.auth()
    ) as reply:
        async for line in reply.aiter_lines():
            if '"content"' in line:
                break
    await eventually(lambda: gateway.fast.cancelled)
    await asyncio.sleep(0.1)
    await gateway.services.recorder.flush()
    usage = (await gateway.client.get("/v1/usage", headers=gateway.auth())).json()
    (billed,) = usage["data"]
    assert billed["completion_tokens"] > 0
    spent = billed["prompt_tokens"] + billed["completion_tokens"]
    assert usage["limits"]["monthly_tokens"]["remaining"] == 100_000 - spent


async def test_what_failed_before_its_first_token_costs_no_tokens(gateway: Gateway) -> None:
    await limit(gateway, tokens_per_minute=50_000)
    gateway.retriever.fail_with = ConnectionError("boom")
    assert (await gateway.ask()).status_code == 500
    standing = (await gateway.client.get("/v1/usage", headers=gateway.auth())).json()["limits"]
    assert standing["tokens_per_minute"]["remaining"] == 50_000


async def test_grpc_says_the_same_in_its_own_words(gateway: Gateway) -> None:
    await limit(gateway, requests_per_minute=1, tokens_per_minute=50_000)
    request = pb.ChatRequest(
        model="fast", messages=[pb.Message(role=pb.ROLE_USER, content="What is a tide gate?")]
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        ask = channel.unary_stream(CHAT, request_serializer=pb.ChatRequest.SerializeToString)
        metadata = tuple(gateway.auth().items())
        call = ask(request, metadata=metadata)
        head = dict(await call.initial_metadata())
        assert [event async for event in call]
        assert head["x-ratelimit-limit-requests"] == "1"
        refused = ask(request, metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            [event async for event in refused]
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        tail = dict(await refused.trailing_metadata())
        assert tail["x-ratelimit-remaining-requests"] == "0"
        assert tail["x-request-id"].startswith("chatcmpl-")
