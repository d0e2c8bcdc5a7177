"""`Retrieve`: passages without an answer, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from gateway.api import grpc_door
from gateway.errors import UpstreamTimeout, UpstreamUnavailable
from gateway.proto import chat_pb2 as pb
from gateway.proto import chat_pb2_grpc
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import RETRIEVE, GrpcDoor, grpc_failure


@pytest_asyncio.fixture
async def door(gateway: Gateway) -> AsyncIterator[GrpcDoor]:
    made = GrpcDoor(gateway)
    yield made
    await made.close()


async def retrieve(door: GrpcDoor, key: str = "acme", **fields: Any) -> Any:
    stub = chat_pb2_grpc.ChatServiceStub(door.channel)
    timeout = fields.pop("timeout", 5)
    return await stub.Retrieve(
        pb.RetrieveRequest(**fields), metadata=tuple(door.authorization(key).items()), timeout=timeout
    )


async def refusal(door: GrpcDoor, **fields: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await retrieve(door, **fields)
    return grpc_failure(caught.value)


async def test_passages_come_with_scores_offsets_and_times(gateway: Gateway, door: GrpcDoor) -> None:
    found = await retrieve(door, query="tide", top_k=2)
    first = found.passages[0]
    assert (first.chunk_id, first.file_id, first.filename, first.heading) == (
        1,
        "file-1",
        "doc1.md",
        "Guide",
    )
    assert (first.start, first.end, first.score) == (0, len(first.text), 0.8)
    assert (found.embed_ms, found.search_ms) == (1.5, 0.5)
    assert found.total_ms > 0
    assert gateway.retriever.scopes[0].k == 2


async def test_none_named_means_all_collections_and_ten_passages(gateway: Gateway, door: GrpcDoor) -> None:
    await retrieve(door, query="tide")
    assert (gateway.retriever.scopes[0].collections, gateway.retriever.scopes[0].k) == ([], 10)


async def test_low_scores_are_left_out_when_asked(door: GrpcDoor) -> None:
    assert len((await retrieve(door, query="tide", score_threshold=0.9)).passages) == 0


async def test_a_tenant_searches_its_own_collections(gateway: Gateway, door: GrpcDoor) -> None:
    made = await gateway.client.post("/v1/vector_stores", json={"name": "docs"}, headers=gateway.auth())
    await retrieve(door, query="tide", collections=["docs"])
    assert gateway.retriever.scopes[0].collections == [made.json()["id"]]
    foreign = await refusal(door, key="rival", query="tide", collections=["docs"])
    unknown = await refusal(door, key="rival", query="tide", collections=["nope"])
    assert foreign.code == unknown.code == "collection_not_found"
    assert foreign.message == unknown.message.replace("nope", "docs")


@pytest.mark.parametrize(
    ("fields", "code_expected", "param"),
    [
        ({"query": " "}, "invalid_request", "query"),
        ({"query": "x" * 40_000}, "text_too_long", "query"),
        ({"query": "a\x00"}, "invalid_value", "query"),
        ({"query": "a", "top_k": 51}, "invalid_value", "top_k"),
        ({"query": "a", "top_k": 0}, "invalid_value", "top_k"),
        ({"query": "a", "score_threshold": 1.5}, "invalid_value", "score_threshold"),
        ({"query": "a", "score_threshold": float("nan")}, "invalid_value", "score_threshold"),
        ({"query": "a", "collections": ["x"] * 65}, "invalid_value", "collections"),
        ({"query": "a", "key": "Bearer nope"}, "invalid_api_key", None),
    ],
    ids=["blank", "long", "nul", "many", "none", "threshold", "nan", "collections", "key"],
)
async def test_bad_values_are_refused_by_name(
    gateway: Gateway, door: GrpcDoor, fields: dict[str, Any], code_expected: str, param: str | None
) -> None:
    failure = await refusal(door, **fields)
    assert (failure.code, failure.param) == (code_expected, param)
    assert gateway.retriever.started == 0


async def test_upstream_errors_and_deadlines_have_their_codes(
    gateway: Gateway, door: GrpcDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long before the client ends the call itself: a busy machine takes the usual 20 ms.
    monkeypatch.setattr(grpc_door, "DEADLINE_MARGIN_S", 0.5)
    monkeypatch.setattr(grpc_door, "DEADLINE_MARGIN_SHARE", 1)
    gateway.retriever.fail_with = UpstreamUnavailable("The models are away.", retry_after_s=2)
    failure = await refusal(door, query="tide")
    assert (failure.code, failure.retry_s) == ("upstream_unavailable", 2)
    gateway.retriever.fail_with = UpstreamTimeout("The model server did not answer in time.")
    assert (await refusal(door, query="tide", timeout=60)).code == "upstream_timeout"
    gateway.retriever.fail_with, gateway.retriever.delay_s = None, 5
    failure = await refusal(door, query="tide", timeout=1.0)
    assert (failure.code, failure.param) == ("deadline_exceeded", "deadline")


async def test_a_draining_worker_refuses(gateway: Gateway, door: GrpcDoor) -> None:
    await gateway.services.lifecycle.drain(1)
    assert (await refusal(door, query="tide")).code == "draining"


async def test_what_is_no_message_is_refused(door: GrpcDoor) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.channel.unary_unary(RETRIEVE)(
            b"\x0a\x01\xff", metadata=tuple(door.authorization("acme").items())
        )
    assert grpc_failure(caught.value).code == "invalid_protobuf"
