"""Search without an answer, and filters, through both doors."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from gateway.api.grpc_errors import field_name
from gateway.filters import Filter
from gateway.proto import chat_pb2 as pb
from gateway.proto.chat_pb2_grpc import ChatServiceStub
from tests.fakes.engines import passage
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import GrpcDoor, HttpDoor
from tests.integration.api.test_files_and_stores import store, upload

ENGLISH = {"type": "eq", "key": "lang", "value": "en"}
NEW_ENGLISH = {"type": "and", "filters": [ENGLISH, {"type": "gte", "key": "year", "value": 2020}]}
BAD = [
    ({"type": "like", "key": "a", "value": "b"}, "filters.type"),
    ({"type": "eq", "key": "a", "value": ["b"]}, "filters.value"),
    (
        {"type": "or", "filters": [ENGLISH, {"type": "in", "key": "a", "value": []}]},
        "filters.filters[1].value",
    ),
    ({"type": "eq", "key": "", "value": 1}, "filters.key"),
    ({"type": "eq", "key": "a", "value": 1, "extra": 1}, "filters"),
]
bad_filters = pytest.mark.parametrize(("given", "place"), BAD, ids=[place for _, place in BAD])


async def search(gateway: Gateway, store_id: str, **body: Any) -> Any:
    return await gateway.client.post(
        f"/v1/vector_stores/{store_id}/search", json={"query": "tide", **body}, headers=gateway.auth()
    )


async def test_a_hit_tells_where_it_stands_and_why(gateway: Gateway) -> None:
    store_id, made = await store(gateway), await upload(gateway, b"x")
    await gateway.client.post(
        f"/v1/vector_stores/{store_id}/files",
        json={"file_id": made["id"], "attributes": {"lang": "en"}},
        headers=gateway.auth(),
    )
    found = passage(7, "A tide gate.", collection_id=store_id, score=0.25)
    fields = {"file_id": made["id"], "page": 3, "chunk_ids": [7, 8], "lexical": 2.5, "rank_score": 0.75}
    gateway.retriever.passages = [
        type(found)(**{name: getattr(found, name) for name in found.__struct_fields__} | fields)
    ]
    (hit,) = (await search(gateway, store_id)).json()["data"]
    assert (hit["score"], hit["attributes"]) == (0.75, {"lang": "en"})
    assert hit["tidegate"] == {
        "chunk_id": 7, "chunk_ids": [7, 8], "collection_id": store_id, "heading": "Guide", "page": 3,
        "start": 0, "end": 12, "cosine": 0.25, "lexical": 2.5,
    }  # fmt: skip


async def test_what_a_search_asks_for_reaches_the_index(gateway: Gateway) -> None:
    store_id, other = await store(gateway), await store(gateway)
    await search(
        gateway,
        store_id,
        filters=NEW_ENGLISH,
        max_num_results=3,
        ranking_options={"ranker": "lexical"},
        tidegate={"collections": [other, store_id]},
    )
    (scope,) = gateway.retriever.scopes
    assert (scope.collections, scope.k, scope.ranking) == ([store_id, other], 3, "lexical")
    assert scope.filters == Filter(
        type="and",
        filters=[
            Filter(type="eq", key="lang", value="en"),
            Filter(type="gte", key="year", value=2020),
        ],
    )


async def test_openais_own_rankers_mean_the_usual_order(gateway: Gateway) -> None:
    store_id = await store(gateway)
    for ranker in ("auto", "default-2024-11-15"):
        assert (await search(gateway, store_id, ranking_options={"ranker": ranker})).status_code == 200
    assert {scope.ranking for scope in gateway.retriever.scopes} == {"hybrid"}


async def test_a_threshold_leaves_out_what_ranks_below_it(gateway: Gateway) -> None:
    gateway.retriever.passages = [passage(1, "High.", score=0.9), passage(2, "Low.", score=0.3)]
    reply = await search(gateway, await store(gateway), ranking_options={"score_threshold": 0.5})
    assert [hit["filename"] for hit in reply.json()["data"]] == ["doc1.md"]


async def test_a_foreign_store_beside_ones_own_is_unknown(gateway: Gateway) -> None:
    foreign = await store(gateway, "rival")
    reply = await search(gateway, await store(gateway), tidegate={"collections": [foreign]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "collection_not_found")
    assert gateway.retriever.started == 0


@bad_filters
async def test_a_bad_filter_is_refused_by_its_place(
    gateway: Gateway, given: dict[str, Any], place: str
) -> None:
    reply = await search(gateway, await store(gateway), filters=given)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == place
    assert gateway.retriever.started == 0


# Chat, and gRPC


async def test_filters_mean_the_same_through_both_doors(gateway: Gateway) -> None:
    http, direct = HttpDoor(gateway), GrpcDoor(gateway)
    messages = [{"role": "user", "content": "What is a tide gate?"}]
    body = {"model": "fast", "messages": messages, "tidegate": {"filters": NEW_ENGLISH}}
    assert (
        await gateway.client.post("/v1/chat/completions", json=body, headers=gateway.auth())
    ).status_code == 200
    reply = await direct.ask(
        model="fast",
        messages=[{"role": "user", "content": "What is a tide gate?"}],
        filters=json.dumps(NEW_ENGLISH),
    )
    assert reply.failure is None
    one, two = gateway.retriever.scopes
    assert one == two
    assert one.filters is not None
    await http.close()
    await direct.close()


@bad_filters
async def test_both_doors_refuse_a_bad_filter_by_its_place(
    gateway: Gateway, given: dict[str, Any], place: str
) -> None:
    direct = GrpcDoor(gateway)
    messages = [{"role": "user", "content": "x"}]
    body = {"model": "fast", "messages": messages, "tidegate": {"filters": given}}
    error = (await gateway.client.post("/v1/chat/completions", json=body, headers=gateway.auth())).json()[
        "error"
    ]
    assert error["param"] == f"tidegate.{place}"
    reply = await direct.ask(model="fast", messages=messages, filters=json.dumps(given))
    assert reply.failure is not None
    assert (reply.failure.code, field_name(str(reply.failure.param))) == (error["code"], place)
    assert gateway.retriever.started == 0
    await direct.close()


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "[" * 10_000], ids=["cut", "list", "text", "deep"])
async def test_grpc_filters_that_are_no_filter_are_refused(gateway: Gateway, text: str) -> None:
    direct = GrpcDoor(gateway)
    reply = await direct.ask(model="fast", messages=[{"role": "user", "content": "x"}], filters=text)
    assert reply.failure is not None
    assert reply.failure.param == "filters"
    await direct.close()


async def test_retrieve_takes_filters_and_tells_what_a_hit_is(gateway: Gateway) -> None:
    gateway.retriever.passages = [passage(1, "High.", score=0.9), passage(2, "Low.", score=0.3)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        reply = await ChatServiceStub(channel).Retrieve(
            pb.RetrieveRequest(query="tide", score_threshold=0.5, filters=json.dumps(ENGLISH)),
            metadata=tuple(gateway.auth().items()),
        )
    assert [(each.filename, each.score, each.cosine) for each in reply.passages] == [("doc1.md", 0.9, 0.9)]
    assert gateway.retriever.scopes[-1].filters == Filter(**ENGLISH)
