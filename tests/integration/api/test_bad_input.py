"""Bad input on a real socket: a precise 4xx that says what and where, in bounded time and memory."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.integration.api.conftest import Gateway

MESSAGES = [{"role": "user", "content": "What is a tide gate?"}]


async def post(gateway: Gateway, content: bytes, content_type: str = "application/json") -> httpx.Response:
    headers = {**gateway.auth(), "content-type": content_type}
    return await gateway.client.post("/v1/chat/completions", content=content, headers=headers)


def body(**changes: Any) -> bytes:
    return json.dumps({"model": "fast", "messages": MESSAGES, **changes}).encode()


def schema_format(**changes: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "gate", "schema": {"type": "object"}} | changes}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


CASES: dict[str, tuple[bytes, int, str, str | None]] = {
    "empty": (b"", 400, "invalid_json", None),
    "not json": (b"{nope", 400, "invalid_json", None),
    "not an object": (b"[]", 400, "invalid_value", None),
    "not utf-8": (b'{"model": "\xff\xfe"}', 400, "invalid_json", None),
    "no model": (json.dumps({"messages": MESSAGES}).encode(), 400, "invalid_value", None),
    "wrong type": (body(model=7), 400, "invalid_value", "model"),
    "wrong nested type": (
        body(messages=[{"role": "user", "content": 7}]),
        400,
        "invalid_value",
        "messages[0].content",
    ),
    "unknown role": (
        body(messages=[{"role": "god", "content": "x"}]),
        400,
        "invalid_value",
        "messages[0].role",
    ),
    "no messages": (body(messages=[]), 400, "invalid_value", "messages"),
    "no user message": (body(messages=[{"role": "system", "content": "x"}]), 400, "no_question", "messages"),
    "blank question": (body(messages=[{"role": "user", "content": "  "}]), 400, "no_question", "messages"),
    "unknown field": (body(api_base="http://127.0.0.1"), 400, "invalid_value", None),
    "unknown extension field": (body(tidegate={"url": "x"}), 400, "invalid_value", "tidegate"),
    "unknown model": (body(model="gpt-9"), 404, "model_not_found", "model"),
    "unknown collection": (body(tidegate={"collections": ["nope"]}), 404, "collection_not_found", None),
    "lone surrogate": (
        b'{"model":"fast","messages":[{"role":"user","content":"\\ud800"}]}',
        400,
        "invalid_json",
        None,
    ),
    "nul": (
        body(messages=[{"role": "user", "content": "a\x00b"}]),
        400,
        "invalid_value",
        "messages[0].content",
    ),
    "too many messages": (body(messages=MESSAGES * 1001), 400, "too_many_messages", "messages"),
    "a million messages": (
        b'{"model":"fast","messages":[' + b"{}," * 999_999 + b"{}]}",
        400,
        "invalid_value",
        None,
    ),
    "long question": (
        body(messages=[{"role": "user", "content": "x" * 40_000}]),
        400,
        "text_too_long",
        "messages[0].content",
    ),
    "n above one": (body(n=1000), 400, "invalid_value", "n"),
    "endless max_tokens": (body(max_tokens=10**9), 400, "invalid_value", "max_tokens"),
    "huge number": (body(max_tokens=10**400), 400, "invalid_value", "max_tokens"),
    "tools": (body(tools=[{"type": "function"}]), 400, "unsupported_value", "tools"),
    "json mode": (body(response_format={"type": "json_object"}), 400, "unsupported_value", "response_format"),
    "a schema for a tier that quotes": (
        body(response_format=schema_format()),
        400,
        "unsupported_value",
        "response_format",
    ),
    "a schema without a name": (
        body(response_format={"type": "json_schema", "json_schema": {"schema": {}}}),
        400,
        "",
        "response_format.json_schema",
    ),
    "a schema's name with a space": (
        body(response_format=schema_format(name="a b")),
        400,
        "invalid_value",
        "response_format.json_schema.name",
    ),
    "a schema that is none": (
        body(response_format=schema_format(schema=True)),
        400,
        "invalid_value",
        "response_format.json_schema.schema",
    ),
    "a format that is none": (
        body(response_format={"type": "yaml"}),
        400,
        "invalid_value",
        "response_format.type",
    ),
    "a schema of many levels": (
        body(response_format=schema_format(schema=nested(40))),
        400,
        "invalid_value",
        "response_format.json_schema.schema",
    ),
    "a schema of many bytes": (
        body(response_format=schema_format(schema={"description": "x" * 70_000})),
        400,
        "invalid_value",
        "response_format.json_schema.schema",
    ),
    "expired deadline": (body(tidegate={"deadline_ms": 0}), 400, "deadline_expired", "tidegate.deadline_ms"),
    "negative deadline": (
        body(tidegate={"deadline_ms": -5}),
        400,
        "deadline_expired",
        "tidegate.deadline_ms",
    ),
    "filter of an unknown type": (
        body(tidegate={"filters": {"type": "like", "key": "a", "value": "b"}}),
        400,
        "invalid_value",
        "tidegate.filters.type",
    ),
    "filter without a value": (
        body(tidegate={"filters": {"type": "and", "filters": [{"type": "eq", "key": "a"}]}}),
        400,
        "",
        "tidegate.filters.filters[0].value",
    ),
    "nul in metadata": (body(metadata={"a": "b\x00"}), 400, "invalid_value", "metadata"),
    "nul in an id": (body(conversation="conv_\x00"), 400, "invalid_value", "conversation"),
    "unknown priority": (body(tidegate={"priority": "vip"}), 400, "invalid_value", "tidegate.priority"),
    "top_k of zero": (body(tidegate={"top_k": 0}), 400, "invalid_value", "tidegate.top_k"),
    "an image part": (
        body(
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]
        ),
        400,
        "invalid_value",
        None,
    ),
    "deep nesting": (b'{"model":"fast","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "", None),
}


@pytest.mark.parametrize("case", CASES, ids=[name.replace(" ", "-") for name in CASES])
async def test_a_bad_question_gets_a_precise_refusal(gateway: Gateway, case: str) -> None:
    content, status, code, param = CASES[case]
    reply = await post(gateway, content)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["message"].endswith(".")
    assert len(error["message"]) < 500
    if code:
        assert error["code"] == code, error
    if param:
        assert error["param"].startswith(param), error
    assert gateway.retriever.started == 0


async def test_a_nul_in_a_field_is_called_by_its_name(gateway: Gateway) -> None:
    reply = await post(gateway, body(tidegate={"collections": ["a", "b\x00"]}))
    assert reply.json()["error"]["message"] == "A text contains a NUL character (at tidegate.collections[1])."


async def test_a_ten_megabyte_body_is_refused(gateway: Gateway) -> None:
    reply = await post(gateway, b"x" * 10_000_000)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""], ids=str)
async def test_a_wrong_content_type_is_415(gateway: Gateway, content_type: str) -> None:
    reply = await post(gateway, body(), content_type)
    assert reply.status_code == 415
    assert reply.json()["error"]["code"] == "unsupported_media_type"


async def test_an_unknown_path_and_a_wrong_method_have_our_shape(gateway: Gateway) -> None:
    unknown = await gateway.client.get("/v1/nothing")
    wrong = await gateway.client.put("/v1/chat/completions")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_path")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_a_body_in_many_tiny_chunks_is_read_like_any_other(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gateway.keys['acme']}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    writer.write(head.encode() + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 400")
    writer.close()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": []}),
        ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": [1, 2]}),
        ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": ["a", ""]}),
        ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": "a", "dimensions": 8}),
        ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": ["a"] * 2049}),
        ("/v1/vector_stores", {"name": "a\x00"}),
        ("/v1/vector_stores", {"name": "x" * 300}),
        ("/v1/vector_stores", {"name": "a", "file_ids": ["file-none"]}),
        ("/v1/vector_stores", {"metadata": {"a": 5}}),
        ("/v1/vector_stores", {"metadata": {"a": "b\x00"}}),
        ("/v1/vector_stores", {"metadata": {str(n): "x" for n in range(17)}}),
        ("/v1/vector_stores", {"chunking_strategy": {"type": "static"}}),
        ("/v1/vector_stores/vs_x/search", {"query": ""}),
        (
            "/v1/vector_stores/vs_x/search",
            {"query": "a", "filters": {"type": "eq", "key": "a", "value": []}},
        ),
        ("/v1/vector_stores/vs_x/search", {"query": "a", "filters": {"type": "and", "filters": []}}),
        ("/v1/vector_stores/vs_x/search", {"query": "a", "ranking_options": {"ranker": "best"}}),
        ("/v1/vector_stores/vs_x/search", {"query": "a", "ranking_options": {"score_threshold": "abc"}}),
        ("/v1/vector_stores/vs_x/search", {"query": "a", "max_num_results": 51}),
        ("/v1/vector_stores/vs_x/search", {"query": "a\x00b"}),
        ("/v1/vector_stores/vs_x/files", {"file_id": 5}),
        ("/v1/vector_stores/vs_x/files", {"file_id": "x", "attributes": {"a": {}}}),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_other_routes_refuse_bad_values_too(gateway: Gateway, path: str, value: object) -> None:
    reply = await gateway.client.post(path, json=value, headers=gateway.auth())
    assert reply.status_code in {400, 404}
    assert reply.json()["error"]["message"].endswith(".")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=" + "9" * 5000, "limit=99999", "order=up", "after=nope"],
    ids=lambda query: query[:20],
)
async def test_listings_refuse_bad_paging(gateway: Gateway, query: str) -> None:
    reply = await gateway.client.get(f"/v1/vector_stores?{query}", headers=gateway.auth())
    assert reply.status_code == 400


async def test_what_the_sdk_may_send_without_meaning_is_accepted(gateway: Gateway) -> None:
    accepted = {
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "prompt_cache_retention": "24h",
        "store": False,
    }
    assert (await post(gateway, body(**accepted))).status_code == 200
    store = {"name": "a", "chunking_strategy": {"type": "auto"}}
    assert (
        await gateway.client.post("/v1/vector_stores", json=store, headers=gateway.auth())
    ).status_code == 200


@pytest.mark.parametrize(
    "name", ["%ED%A0%80", "%FF", "%00", "x" * 5000, "..%2f..%2fetc"], ids=lambda name: name[:12]
)
@pytest.mark.parametrize("path", ["/v1/files/", "/v1/vector_stores/", "/v1/receipts/", "/v1/models/"])
async def test_a_strange_id_in_the_path_is_just_unknown(gateway: Gateway, path: str, name: str) -> None:
    reply = await gateway.client.get(path + name, headers=gateway.auth())
    assert reply.status_code in {400, 404}
    assert reply.json()["error"]["message"]
