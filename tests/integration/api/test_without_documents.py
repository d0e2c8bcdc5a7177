"""`tidegate.collections: []` over the wire: an answer without documents, where the tier writes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import GrpcDoor

NONE = {"collections": []}


@pytest.fixture
def writing(gateway: Gateway) -> Gateway:
    """As if `deep` wrote."""
    tiers = gateway.services.pipeline.tiers.tiers
    tiers["deep"] = replace(tiers["deep"], context_tokens=4096)
    gateway.deep.texts = ["Hello."]
    return gateway


async def test_an_empty_list_is_no_documents_and_none_is_all(writing: Gateway) -> None:
    reply = await writing.ask(model="deep", tidegate=NONE)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["choices"][0]["message"]["content"] == "Hello."
    assert body["tidegate"]["receipt"]["passages"] == []
    assert writing.deep.inquiries[0].without_documents
    assert writing.retriever.started == 0
    for extension in ({}, {"collections": None}):
        assert (await writing.ask(model="deep", tidegate=extension)).status_code == 200
    assert writing.retriever.started == 2
    assert not writing.deep.inquiries[-1].without_documents


async def test_a_tier_that_quotes_refuses_it(writing: Gateway) -> None:
    reply = await writing.ask(model="fast", tidegate=NONE)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (
        400,
        "unsupported_value",
        "tidegate.collections",
    )
    assert writing.fast.started == 0


async def test_over_grpc_an_empty_list_is_all_as_lists_there_cannot_be_absent(writing: Gateway) -> None:
    door = GrpcDoor(writing)
    try:
        reply = await door.ask(model="deep", messages=[{"role": "user", "content": "Hi?"}])
    finally:
        await door.close()
    assert reply.failure is None
    assert writing.retriever.started == 1
