"""The chat route over a real socket: shapes, streaming, errors, receipts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.errors import UpstreamUnavailable
from tests.integration.api.conftest import Gateway


def events(text: str) -> list[Any]:
    """The JSON of every data line, [DONE] as the string."""
    found = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [part if part == "[DONE]" else json.loads(part) for part in found]


async def test_an_answer_comes_in_one_piece_with_annotations_usage_and_receipt(gateway: Gateway) -> None:
    reply = await gateway.ask()
    assert reply.status_code == 200
    body = reply.json()
    message = body["choices"][0]["message"]
    assert message["content"] == (
        "A tide gate lets water through one way. [1] Envoy balances gRPC over the replicas. [2]"
    )
    first = message["annotations"][0]["file_citation"]
    assert first["quote"] == "A tide gate lets water through one way."
    assert first["file_id"] == "file-1"
    assert message["content"][: first["index"]].endswith("[1]")
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
    receipt = body["tidegate"]["receipt"]
    assert receipt["outcome"] == "completed"
    assert receipt["tier"] == "fast"
    assert [passage["cited"] for passage in receipt["passages"]] == [True, True]
    for name in ("embed_ms", "search_ms", "queue_ms", "ttft_ms", "total_ms"):
        assert receipt[name] >= 0, name


async def test_a_stream_carries_ids_deltas_usage_receipt_and_done(gateway: Gateway) -> None:
    reply = await gateway.ask(stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    got = events(reply.text)
    assert got[-1] == "[DONE]"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got[:-1] if chunk["choices"])
    assert text.startswith("A tide gate lets water through one way. [1]")
    assert got[0]["choices"][0]["delta"]["role"] == "assistant"
    assert got[-3]["choices"][0]["finish_reason"] == "stop"
    assert got[-2]["choices"] == []
    assert got[-2]["usage"]["total_tokens"] == 17
    assert got[-2]["tidegate"]["receipt"]["outcome"] == "completed"
    ids = [line[4:] for line in reply.text.split("\n") if line.startswith("id: ")]
    assert ids == [f"{got[0]['id']}.{number}" for number in range(1, len(got))]


async def test_without_include_usage_every_chunk_has_a_choice_and_the_last_one_the_receipt(
    gateway: Gateway,
) -> None:
    got = events((await gateway.ask(stream=True, model="auto")).text)
    assert all(chunk["choices"] for chunk in got[:-1])
    assert {chunk["model"] for chunk in got[:-1]} == {"fast"}
    assert got[-2]["choices"][0]["finish_reason"] == "stop"
    assert got[-2]["usage"]["total_tokens"] == 17
    assert got[-2]["tidegate"]["receipt"]["outcome"] == "completed"


async def test_keep_alive_comments_come_within_a_second_and_go_on(gateway: Gateway) -> None:
    gateway.fast.delay_s = 2.0
    comments = await keep_alives(gateway)
    if comments[0] >= 1.0:  # once more: the machine may have been busy with something else
        comments = await keep_alives(gateway)
    assert comments[0] < 1.0
    assert len(comments) >= 3


async def keep_alives(gateway: Gateway) -> list[float]:
    """When comments came before the first text, in seconds after the question."""
    body = {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "slow?"}]}
    clock = asyncio.get_running_loop().time
    asked, comments = clock(), []
    async with gateway.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=gateway.auth()
    ) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data:"):
                break
            if line.startswith(":"):
                comments.append(clock() - asked)
    return comments


async def test_stage_events_are_told_only_when_asked_for(gateway: Gateway) -> None:
    silent = events((await gateway.ask(stream=True)).text)
    told = events((await gateway.ask(stream=True, tidegate={"events": True})).text)
    assert not [chunk for chunk in silent[:-1] if "stage" in chunk.get("tidegate", {})]
    stages = [chunk["tidegate"]["stage"] for chunk in told[:-1] if "stage" in chunk.get("tidegate", {})]
    assert stages == ["retrieving", "generating"]


async def test_the_receipt_can_be_fetched_as_soon_as_the_answer_is_there(gateway: Gateway) -> None:
    made = (await gateway.ask()).json()
    found = await gateway.client.get(f"/v1/receipts/{made['id']}", headers=gateway.auth())
    assert found.status_code == 200
    assert found.json() == made["tidegate"]["receipt"]


async def test_another_tenants_receipt_looks_like_an_unknown_one(gateway: Gateway) -> None:
    made = (await gateway.ask()).json()
    await gateway.services.recorder.flush()
    foreign = await gateway.client.get(f"/v1/receipts/{made['id']}", headers=gateway.auth("rival"))
    unknown = await gateway.client.get(f"/v1/receipts/chatcmpl-{'0' * 32}", headers=gateway.auth("rival"))
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["error"]["code"] == unknown.json()["error"]["code"]


async def test_an_error_before_the_first_byte_has_its_own_status(gateway: Gateway) -> None:
    gateway.retriever.fail_with = UpstreamUnavailable("The models are away.", retry_after_s=2)
    reply = await gateway.ask(stream=True)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "2"
    assert reply.json()["error"]["code"] == "upstream_unavailable"


async def test_an_error_after_the_first_byte_is_one_event_with_the_same_code(gateway: Gateway) -> None:
    gateway.fast.fail_with, gateway.fast.fail_at = UpstreamUnavailable("The models are away."), 1
    reply = await gateway.ask(stream=True)
    assert reply.status_code == 200
    got = events(reply.text)
    assert got[-1]["error"]["code"] == "upstream_unavailable"
    assert "[DONE]" not in got


async def test_an_unexpected_error_shows_no_trace(gateway: Gateway) -> None:
    gateway.retriever.fail_with = RuntimeError("secret detail /etc/passwd")
    reply = await gateway.ask()
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal_error"
    assert "secret" not in reply.text


async def test_auto_says_why_it_chose_a_tier(gateway: Gateway) -> None:
    short = (await gateway.ask("What is a tide gate?", model="auto")).json()["tidegate"]["receipt"]
    double = (await gateway.ask("Compare Envoy and Redis", model="auto")).json()["tidegate"]["receipt"]
    assert (short["tier"], double["tier"]) == ("fast", "deep")
    assert short["tier_reason"].startswith("auto: ")


async def test_the_search_sees_only_the_tenant_and_the_collections_asked_for(gateway: Gateway) -> None:
    store = (
        await gateway.client.post("/v1/vector_stores", json={"name": "docs"}, headers=gateway.auth())
    ).json()
    await gateway.ask(tidegate={"collections": ["docs"], "top_k": 3})
    scope = gateway.retriever.scopes[-1]
    assert scope.collections == [store["id"]]
    assert scope.k == 3
    assert scope.tenant_id.startswith("tenant") or scope.tenant_id
    refused = await gateway.client.post(
        "/v1/chat/completions",
        json={
            "model": "fast",
            "messages": [{"role": "user", "content": "x"}],
            "tidegate": {"collections": ["docs"]},
        },
        headers=gateway.auth("rival"),
    )
    assert refused.status_code == 404


async def test_a_full_line_is_refused_at_once_with_retry_after(gateway: Gateway) -> None:
    permits = [await gateway.queue.acquire(band="interactive", deadline=float("inf")) for _ in range(2)]
    gateway.queue.max_waiting = 0
    reply = await gateway.ask(stream=True)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "capacity"
    assert int(reply.headers["retry-after"]) >= 1
    for permit in permits:
        permit.release()


async def test_the_queue_position_is_told_while_waiting(gateway: Gateway) -> None:
    permits = [await gateway.queue.acquire(band="interactive", deadline=float("inf")) for _ in range(2)]
    body = {
        "model": "fast",
        "stream": True,
        "messages": [{"role": "user", "content": "x"}],
        "tidegate": {"events": True},
    }
    seen = []
    async with gateway.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=gateway.auth()
    ) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                seen.append(chunk.get("tidegate", {}))
                if "queue" in seen[-1]:
                    for permit in permits:
                        permit.release()
    queue = next(each["queue"] for each in seen if "queue" in each)
    assert queue["position"] == 1
    assert queue["eta_s"] > 0
    assert seen[-1]["receipt"]["outcome"] == "completed"


@pytest.mark.parametrize(
    ("outcome", "cause", "changes"),
    [
        ("rejected", "model_not_found", {"model": "gpt-9"}),
        ("rejected", "invalid_value", {"temperature": 9}),
        ("rejected", "collection_not_found", {"tidegate": {"collections": ["nope"]}}),
        ("rejected", "deadline_expired", {"tidegate": {"deadline_ms": -1}}),
    ],
    ids=["model", "value", "collection", "deadline"],
)
async def test_a_refusal_before_the_pipeline_is_one_outcome_too(
    gateway: Gateway, outcome: str, cause: str, changes: dict[str, Any]
) -> None:
    await gateway.ask(**changes)
    text = (await gateway.client.get("/metrics")).text
    counted = [line for line in text.splitlines() if line.startswith("tidegate_requests_total{")]
    assert counted == [f'tidegate_requests_total{{cause="{cause}",outcome="{outcome}",tier="none"}} 1.0']


async def test_a_failed_request_tells_the_id_of_its_receipt(gateway: Gateway) -> None:
    gateway.retriever.fail_with = UpstreamUnavailable("The models are away.")
    for stream in (False, True):
        refused = await gateway.ask(stream=stream)
        found = await gateway.client.get(
            f"/v1/receipts/{refused.headers['x-request-id']}", headers=gateway.auth()
        )
        assert found.json()["cause"] == "upstream_unavailable"
    usage = await gateway.client.get("/v1/usage", headers=gateway.auth())
    assert usage.json()["data"] == []


async def test_a_wait_that_outlasts_the_ttl_is_evicted(gateway: Gateway) -> None:
    permits = [await gateway.queue.acquire(band="interactive", deadline=float("inf")) for _ in range(2)]
    gateway.queue.ttl_s = 0.05
    refused = await gateway.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_ttl")
    found = await gateway.client.get(
        f"/v1/receipts/{refused.headers['x-request-id']}", headers=gateway.auth()
    )
    assert (found.json()["outcome"], found.json()["stage"]) == ("evicted", "queued")
    for permit in permits:
        permit.release()


async def test_metrics_are_for_this_machine_and_for_admins(gateway: Gateway) -> None:
    assert (await gateway.client.get("/metrics")).status_code == 200
    remote = {"x-tidegate-peer": "203.0.113.9"}
    assert (await gateway.client.get("/metrics", headers=remote)).status_code == 401
    assert (await gateway.client.get("/metrics", headers=remote | gateway.auth())).status_code == 403


async def test_a_draining_worker_refuses_new_questions(gateway: Gateway) -> None:
    await gateway.services.lifecycle.drain(1)
    reply = await gateway.ask()
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "draining"
    assert (await gateway.client.get("/health/ready")).status_code == 503
    assert (await gateway.client.get("/health/live")).status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_deadline_that_passes_is_told_as_such(gateway: Gateway, stream: bool) -> None:
    gateway.retriever.delay_s = 0.2
    reply = await gateway.ask(stream=stream, tidegate={"deadline_ms": 50})
    assert reply.status_code == 408
    assert reply.json()["error"]["code"] == "deadline_exceeded"
