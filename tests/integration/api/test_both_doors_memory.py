"""Conversations and kept answers through both doors: what the one keeps, the other goes on with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import Door
from tests.integration.api.test_both_doors import QUESTION, ask_both, door, doors

__all__ = ["door", "doors"]
FOLLOW_UP = [{"role": "user", "content": "How does it work?"}]


async def make(gateway: Gateway, tenant: str = "acme") -> str:
    made = await gateway.client.post("/v1/conversations", json={}, headers=gateway.auth(tenant))
    return str(made.json()["id"])


async def items(gateway: Gateway, conversation: str) -> list[dict[str, Any]]:
    path = f"/v1/conversations/{conversation}/items?order=asc"
    found: list[dict[str, Any]] = (await gateway.client.get(path, headers=gateway.auth())).json()["data"]
    return found


async def test_a_follow_up_in_the_request_itself_is_the_same(gateway: Gateway, doors: list[Door]) -> None:
    talk = [*QUESTION, {"role": "assistant", "content": "It lets water through. [1]"}, *FOLLOW_UP]
    reply = await ask_both(doors, messages=talk)
    assert reply.receipt is not None
    assert reply.receipt["question"] == "How does a tide gate work?"
    assert reply.receipt["question_reason"] == "follow-up: “it” is a tide gate"
    assert gateway.retriever.texts == ["How does a tide gate work?"] * 2


async def test_a_conversation_goes_on_through_either_door(gateway: Gateway, doors: list[Door]) -> None:
    conversation = await make(gateway)
    for each in (*doors, *doors[::-1]):
        reply = await each.ask(model="fast", messages=QUESTION, conversation=conversation)
        assert reply.receipt is not None, reply.failure
        assert reply.receipt["conversation"] == conversation
    kept = await items(gateway, conversation)
    assert [item["role"] for item in kept] == ["user", "assistant"] * 4
    answers = [item["content"][0] for item in kept[1::2]]
    assert answers == [answers[0]] * 4
    assert [len(inquiry.history) for inquiry in gateway.fast.inquiries] == [0, 2, 4, 6]


@pytest.mark.parametrize("key", ["acme", "rival"])
async def test_an_unknown_and_a_foreign_conversation_are_refused_alike(
    gateway: Gateway, doors: list[Door], key: str
) -> None:
    conversation = "conv_none" if key == "acme" else await make(gateway)
    failure = (await ask_both(doors, conversation=conversation, key=key)).failure
    assert failure is not None
    assert (failure.code, failure.param, failure.status) == ("conversation_not_found", "conversation", 404)
    assert failure.message == f"No such conversation: {conversation}."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation": "a\x00"}, "conversation"),
        ({"conversation": "x" * 257}, "conversation"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata[...]"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
    ],
    ids=["nul", "long id", "many entries", "long value", "long key"],
)
async def test_bad_values_are_refused_alike(doors: list[Door], fields: dict[str, Any], param: str) -> None:
    failure = (await ask_both(doors, **fields)).failure
    assert failure is not None
    assert failure.code == "invalid_value"
    assert failure.param is not None
    assert failure.param.startswith(param)


async def test_an_answer_is_kept_the_same(gateway: Gateway, door: Door) -> None:
    reply = await door.ask(model="fast", messages=QUESTION, store=True, metadata={"door": door.name})
    found = await gateway.client.get(f"/v1/chat/completions/{reply.request_id}", headers=gateway.auth())
    kept = found.json()
    assert kept["choices"][0]["message"]["content"] == reply.text
    assert kept["metadata"] == {"door": door.name}
    assert kept["usage"] == reply.usage


async def test_an_answer_is_not_kept_unasked(gateway: Gateway, door: Door) -> None:
    reply = await door.ask(model="fast", messages=QUESTION)
    found = await gateway.client.get(f"/v1/chat/completions/{reply.request_id}", headers=gateway.auth())
    assert found.json()["error"]["code"] == "completion_not_found"
