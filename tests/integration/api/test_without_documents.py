"""`tidegate.retrieval: off` at both doors: an answer without documents, where the tier writes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import GrpcDoor

NONE = {"retrieval": "off"}


@pytest.fixture
def writing(gateway: Gateway) -> Gateway:
    """As if `deep` wrote."""
    tiers = gateway.services.pipeline.tiers.tiers
    tiers["deep"] = replace(tiers["deep"], context_tokens=4096)
    gateway.deep.texts = ["Hello."]
    return gateway


async def test_only_off_searches_for_nothing(writing: Gateway) -> None:
    reply = await writing.ask(model="deep", tidegate=NONE)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["choices"][0]["message"]["content"] == "Hello."
    assert body["tidegate"]["receipt"]["passages"] == []
    assert writing.deep.inquiries[0].without_documents
    assert writing.retriever.started == 0
    for extension in ({}, {"collections": None}, {"collections": []}, {"retrieval": "on"}):
        assert (await writing.ask(model="deep", tidegate=extension)).status_code == 200
    assert writing.retriever.started == 4
    assert not writing.deep.inquiries[-1].without_documents


async def test_a_tier_that_quotes_refuses_it(writing: Gateway) -> None:
    reply = await writing.ask(model="fast", tidegate=NONE)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (
        400,
        "unsupported_value",
        "tidegate.retrieval",
    )
    assert writing.fast.started == 0


@pytest.mark.parametrize("asked", [True, False])
async def test_over_grpc_it_is_a_field_of_its_own(writing: Gateway, asked: bool) -> None:
    door = GrpcDoor(writing)
    try:
        reply = await door.ask(
            model="deep", messages=[{"role": "user", "content": "Hi?"}], without_documents=asked
        )
    finally:
        await door.close()
    assert reply.failure is None
    assert writing.deep.inquiries[0].without_documents is asked
    assert writing.retriever.started == (0 if asked else 1)
