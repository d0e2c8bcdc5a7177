"""`response_format` over both doors: what reaches the tier, and what the caller is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from gateway.proto import chat_pb2 as pb
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import GrpcDoor

SCHEMA = {"type": "object", "properties": {"gates": {"type": "array", "items": {"type": "integer"}}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "gates", "strict": True, "schema": SCHEMA}}
ANSWER = '{"gates":[1]}'


@pytest.fixture
def able(gateway: Gateway) -> Gateway:
    """As if `deep` had an engine with a grammar."""
    tiers = gateway.services.pipeline.tiers.tiers
    tiers["deep"] = replace(tiers["deep"], keeps_schemas=True)
    gateway.deep.texts = [ANSWER]
    return gateway


@pytest.mark.parametrize("model", ["deep", "auto"])
async def test_the_schema_reaches_the_tier_and_the_answer_is_json(able: Gateway, model: str) -> None:
    reply = await able.ask(model=model, response_format=FORMAT)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    assert (body["model"], json.loads(body["choices"][0]["message"]["content"])) == ("deep", {"gates": [1]})
    assert json.loads(able.deep.inquiries[0].sampling.json_schema) == SCHEMA


async def test_text_is_what_it_is_without(gateway: Gateway) -> None:
    assert (await gateway.ask(response_format={"type": "text"})).status_code == 200
    assert gateway.fast.inquiries[0].sampling.json_schema == ""


async def test_a_tier_that_cannot_names_those_that_can(able: Gateway) -> None:
    reply = await able.ask(response_format=FORMAT)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "unsupported_value", "response_format")
    assert error["message"] == "The model 'fast' cannot hold an answer to a JSON Schema; these can: deep."
    assert able.fast.started == 0


QUESTION = [{"role": "user", "content": "Which gates are there?"}]


@pytest_asyncio.fixture
async def door(able: Gateway) -> AsyncIterator[GrpcDoor]:
    door = GrpcDoor(able)
    yield door
    await door.close()


@pytest.mark.parametrize("model", ["deep", "auto"])
async def test_over_grpc_the_schema_reaches_the_tier_too(able: Gateway, door: GrpcDoor, model: str) -> None:
    reply = await door.ask(model=model, messages=QUESTION, response_format=FORMAT)
    assert (reply.failure, json.loads(reply.text)) == (None, {"gates": [1]})
    assert json.loads(able.deep.inquiries[0].sampling.json_schema) == SCHEMA


async def test_over_grpc_a_tier_that_cannot_is_refused_alike(able: Gateway, door: GrpcDoor) -> None:
    reply = await door.ask(model="fast", messages=QUESTION, response_format=FORMAT)
    told = (await able.ask(response_format=FORMAT)).json()["error"]
    assert reply.failure is not None
    assert (reply.failure.code, reply.failure.param, reply.failure.message) == (
        told["code"],
        told["param"],
        told["message"],
    )


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        ("{", "invalid_json", "response_format"),
        ('"json_schema"', "invalid_value", "response_format"),
        ('{"type": "yaml"}', "invalid_value", "response_format.type"),
        ('{"type": "json_object"}', "unsupported_value", "response_format"),
        (json.dumps(FORMAT | {"more": 1}), "invalid_value", "response_format"),
        (
            json.dumps({"type": "json_schema", "json_schema": {"name": "g", "schema": []}}),
            "invalid_value",
            "response_format.json_schema.schema",
        ),
    ],
    ids=["cut off", "a word", "unknown", "without a schema", "one field more", "no object"],
)
async def test_over_grpc_what_is_no_format_is_refused_with_its_place(
    able: Gateway, door: GrpcDoor, text: str, code: str, param: str
) -> None:
    request = pb.ChatRequest(
        model="deep", messages=[pb.Message(role=pb.ROLE_USER, content="x")], response_format=text
    )
    reply = await door.send(request.SerializeToString())
    assert reply.failure is not None
    assert (reply.failure.status, reply.failure.code, reply.failure.param) == (400, code, param)
    assert able.deep.started == 0
