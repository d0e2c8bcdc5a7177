"""Conversations that the service keeps, driven by the official SDK over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import openai
import pytest
import pytest_asyncio

from gateway.errors import UpstreamUnavailable
from gateway.storage import conversations
from tests.integration.api.conftest import Gateway
from tests.integration.api.test_leaving import the_receipt
from tests.waiting import until

FIRST = "What is a tide gate?"


@pytest_asyncio.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.keys["acme"], max_retries=0
    ) as client:
        yield client


@pytest_asyncio.fixture
async def rival(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.keys["rival"], max_retries=0
    ) as client:
        yield client


async def ask(sdk: openai.AsyncOpenAI, conversation: str, question: str = FIRST, **extra: Any) -> Any:
    extension = {"conversation": conversation, **extra.pop("tidegate", {})}
    return await sdk.chat.completions.create(
        model=extra.pop("model", "fast"),
        messages=[{"role": "user", "content": question}],
        extra_body={"tidegate": extension},
        **extra,
    )


async def texts(sdk: openai.AsyncOpenAI, conversation: str) -> list[tuple[str, str]]:
    """Role and text of every item, oldest first."""
    found = [item async for item in sdk.conversations.items.list(conversation, order="asc", limit=3)]
    return [(item.role, item.content[0].text) for item in found]  # type: ignore[union-attr]


async def test_a_follow_up_is_searched_for_as_a_question_that_stands_alone(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    made = await sdk.conversations.create(metadata={"topic": "tides"})
    await ask(sdk, made.id)
    reply = await ask(sdk, made.id, "How does it work?")
    assert gateway.retriever.texts == [FIRST, "How does a tide gate work?"]
    assert gateway.fast.inquiries[-1].question == "How does a tide gate work?"
    receipt = reply.tidegate["receipt"]
    assert receipt["question"] == "How does a tide gate work?"
    assert receipt["question_reason"] == "follow-up: “it” is a tide gate"
    assert receipt["conversation"] == made.id


async def test_both_sides_of_each_turn_are_kept_in_order_with_sources_and_receipt(
    sdk: openai.AsyncOpenAI,
) -> None:
    made = await sdk.conversations.create()
    first = await ask(sdk, made.id)
    second = await ask(sdk, made.id, "How does it work?", stream=False)
    items = [item async for item in sdk.conversations.items.list(made.id, order="asc", limit=1)]
    assert [item.role for item in items] == ["user", "assistant", "user", "assistant"]  # type: ignore[union-attr]
    assert [item.tidegate["question"] for item in items] == [None, None, "How does a tide gate work?", None]  # type: ignore[union-attr]
    assert [item.tidegate["receipt_id"] for item in items[1::2]] == [first.id, second.id]  # type: ignore[union-attr]
    answer = items[1].content[0]  # type: ignore[union-attr]
    assert answer.text == first.choices[0].message.content  # type: ignore[union-attr]
    assert answer.annotations[0].file_id == "file-1"  # type: ignore[union-attr]
    assert answer.annotations[0].quote == "A tide gate lets water through one way."  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["text", "object"])
async def test_the_conversation_may_stand_where_the_responses_api_has_it(
    gateway: Gateway, sdk: openai.AsyncOpenAI, form: str
) -> None:
    made = await sdk.conversations.create()
    named: Any = made.id if form == "text" else {"id": made.id}
    reply = await gateway.ask(conversation=named)
    assert reply.status_code == 200, reply.text
    assert len(await texts(sdk, made.id)) == 2


async def test_a_stream_has_kept_its_turn_when_it_says_done(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    async for _ in await ask(sdk, made.id, stream=True):
        pass
    assert [role for role, _ in await texts(sdk, made.id)] == ["user", "assistant"]


async def test_the_history_of_the_conversation_comes_before_that_of_the_request(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    made = await sdk.conversations.create(
        items=[
            {"type": "message", "role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        ]
    )
    body = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": FIRST}]
    await gateway.client.post(
        "/v1/chat/completions",
        json={"model": "fast", "messages": body, "conversation": made.id},
        headers=gateway.auth(),
    )
    turns = [(turn.role, turn.text) for turn in gateway.fast.inquiries[0].history]
    assert turns == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    assert [text for _, text in await texts(sdk, made.id)][:3] == ["Be brief.", "Hi", FIRST]


async def test_turns_that_run_at_once_stand_one_after_the_other(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    await asyncio.gather(*(ask(sdk, made.id, f"Question {n}?") for n in range(3)), ask(sdk, made.id, "Last?"))
    said = await texts(sdk, made.id)
    assert [role for role, _ in said] == ["user", "assistant"] * 4
    assert {text for role, text in said if role == "user"} == {f"Question {n}?" for n in range(3)} | {"Last?"}


async def test_what_did_not_end_well_is_not_kept(gateway: Gateway, sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    gateway.fast.fail_with, gateway.fast.fail_at = UpstreamUnavailable("The models are away."), 1
    with pytest.raises(openai.APIError):
        await ask(sdk, made.id)
    assert await texts(sdk, made.id) == []


async def test_who_leaves_before_the_end_leaves_nothing(gateway: Gateway, sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    gateway.fast.texts, gateway.fast.gap_s = [f"word{n} " for n in range(1000)], 0.01
    stream = await ask(sdk, made.id, stream=True)
    await anext(aiter(stream))
    await stream.close()
    await until(lambda: gateway.services.lifecycle.inflight == 0)
    assert (await the_receipt(gateway))["cause"] == "client_gone"
    assert await texts(sdk, made.id) == []


async def test_a_turn_that_sql_refuses_is_told_before_the_end(
    gateway: Gateway, sdk: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await sdk.conversations.create()

    def away(*_: Any, **__: Any) -> None:
        raise UpstreamUnavailable("The database is not available right now.", code="database_unavailable")

    monkeypatch.setattr(conversations, "append_messages", away)
    with pytest.raises(openai.InternalServerError) as refused:
        await ask(sdk, made.id)
    assert refused.value.status_code == 503
    with pytest.raises(openai.APIError, match="database"):
        async for _ in await ask(sdk, made.id, stream=True):
            pass


async def test_a_conversation_deleted_under_way_is_told(gateway: Gateway, sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    gateway.fast.delay_s = 0.3
    asked = asyncio.create_task(ask(sdk, made.id))
    await until(lambda: gateway.fast.started)
    await sdk.conversations.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="No such conversation"):
        await asked


async def test_only_the_newest_turns_are_read_back(
    gateway: Gateway, sdk: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.api.memory.MAX_HISTORY_MESSAGES", 3)
    monkeypatch.setattr("gateway.api.memory.MAX_HISTORY_CHARS", 12)
    items: list[Any] = [{"role": "user", "content": f"item {n}"} for n in range(4)]
    made = await sdk.conversations.create(items=items)
    await ask(sdk, made.id)
    assert [turn.text for turn in gateway.fast.inquiries[0].history] == ["item 2", "item 3"]


async def test_metadata_is_changed_and_the_rest_deleted_with_the_conversation(
    sdk: openai.AsyncOpenAI,
) -> None:
    made = await sdk.conversations.create(metadata={"a": "1"}, items=[{"role": "user", "content": "Hi"}])
    changed = await sdk.conversations.update(made.id, metadata={"b": "2"})
    assert changed.metadata == {"b": "2"}
    assert (await sdk.conversations.retrieve(made.id)).created_at == made.created_at
    assert (await sdk.conversations.delete(made.id)).deleted
    for call in (sdk.conversations.retrieve, sdk.conversations.delete, sdk.conversations.items.list):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)  # type: ignore[operator]


async def test_items_are_added_read_and_deleted_one_by_one(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    added = await sdk.conversations.items.create(
        made.id,
        items=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},  # type: ignore[list-item, typeddict-item]
        ],
    )
    first, second = added.data
    assert (await sdk.conversations.items.retrieve(second.id, conversation_id=made.id)).id == second.id  # type: ignore[union-attr]
    left = await sdk.conversations.items.delete(first.id, conversation_id=made.id)  # type: ignore[union-attr]
    assert left.id == made.id
    assert await texts(sdk, made.id) == [("assistant", "Hello")]
    with pytest.raises(openai.NotFoundError, match="No such item"):
        await sdk.conversations.items.retrieve(first.id, conversation_id=made.id)  # type: ignore[union-attr]
    with pytest.raises(openai.NotFoundError, match="No such item"):
        await sdk.conversations.items.delete(first.id, conversation_id=made.id)  # type: ignore[union-attr]


async def test_another_tenants_conversation_is_as_if_there_were_none(
    gateway: Gateway, sdk: openai.AsyncOpenAI, rival: openai.AsyncOpenAI
) -> None:
    made = await sdk.conversations.create(items=[{"role": "user", "content": "secret"}])
    (item,) = [each async for each in sdk.conversations.items.list(made.id)]
    calls: list[Any] = [
        lambda: rival.conversations.retrieve(made.id),
        lambda: rival.conversations.update(made.id, metadata={}),
        lambda: rival.conversations.delete(made.id),
        lambda: rival.conversations.items.list(made.id),
        lambda: rival.conversations.items.create(made.id, items=[{"role": "user", "content": "x"}]),
        lambda: rival.conversations.items.retrieve(item.id, conversation_id=made.id),  # type: ignore[arg-type]
        lambda: rival.conversations.items.delete(item.id, conversation_id=made.id),  # type: ignore[arg-type]
        lambda: ask(rival, made.id),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            await call()
    own = await gateway.client.get("/v1/conversations", headers=gateway.auth("rival"))
    assert own.json()["data"] == []
    assert await texts(sdk, made.id) == [("user", "secret")]


async def test_conversations_are_listed_newest_first(gateway: Gateway, sdk: openai.AsyncOpenAI) -> None:
    made = [(await sdk.conversations.create()).id for _ in range(3)]
    first = (await gateway.client.get("/v1/conversations?limit=2", headers=gateway.auth())).json()
    rest = (
        await gateway.client.get(f"/v1/conversations?after={first['last_id']}", headers=gateway.auth())
    ).json()
    assert [row["id"] for row in first["data"] + rest["data"]] == made[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


async def test_a_full_conversation_takes_no_further_turn(gateway: Gateway, sdk: openai.AsyncOpenAI) -> None:
    services = gateway.services
    services.settings = replace(services.settings, max_conversation_messages=3)
    item: Any = {"role": "user", "content": "Hi"}
    made = await sdk.conversations.create(items=[item] * 2)
    with pytest.raises(openai.ConflictError, match="TIDEGATE_MAX_CONVERSATION_MESSAGES"):
        await ask(sdk, made.id)
    assert gateway.retriever.started == 0
    await sdk.conversations.items.create(made.id, items=[item])
    for call in (
        sdk.conversations.items.create(made.id, items=[item]),
        sdk.conversations.create(items=[item] * 4),
    ):
        with pytest.raises(openai.ConflictError) as refused:
            await call
        assert refused.value.code == "conversation_full"
    assert len(await texts(sdk, made.id)) == 3


USER = {"role": "user", "content": "x"}
BAD_ITEMS: dict[str, tuple[Any, str]] = {
    "none": ([], "items"),
    "many": ([USER] * 21, "items"),
    "role": ([{"role": "god", "content": "x"}], "items[0].role"),
    "another kind": ([{"type": "reasoning", "role": "user", "content": "x"}], "items[0].type"),
    "an image": ([{"role": "user", "content": [{"type": "input_image", "text": "x"}]}], "items[0].content"),
    "nul": ([USER, {"role": "user", "content": "a\0b"}], "items[1].content"),
    "long": ([{"role": "user", "content": "x" * 32_001}], "items[0].content"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
async def test_items_that_cannot_be_kept_are_refused_by_their_place(
    gateway: Gateway, sdk: openai.AsyncOpenAI, case: str
) -> None:
    items, place = BAD_ITEMS[case]
    made = await sdk.conversations.create()
    refused = await gateway.client.post(
        f"/v1/conversations/{made.id}/items", json={"items": items}, headers=gateway.auth()
    )
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"].startswith(place), refused.text
    assert await texts(sdk, made.id) == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata[...]"),
        ({"metadata": {"k": 1}}, "metadata[...]"),
        ({"name": "x"}, None),
    ],
    ids=["many", "long key", "long value", "number", "unknown field"],
)
async def test_metadata_has_openais_limits(gateway: Gateway, body: Any, param: str | None) -> None:
    refused = await gateway.client.post("/v1/conversations", json=body, headers=gateway.auth())
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text


async def test_two_different_conversations_in_one_request_are_refused(gateway: Gateway) -> None:
    refused = await gateway.ask(conversation="conv_a", tidegate={"conversation": "conv_b"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tidegate.conversation")
