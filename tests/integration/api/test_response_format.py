"""`response_format` over HTTP: what reaches the tier, and what the caller is told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.api.conftest import Gateway

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
