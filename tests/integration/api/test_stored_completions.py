"""`store: true`: answers that are kept, listed and deleted as the official SDK does it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from gateway.errors import UpstreamUnavailable
from tests.integration.api.conftest import Gateway

QUESTION = "What is a tide gate?"


@pytest_asyncio.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.keys["acme"], max_retries=0
    ) as client:
        yield client


async def ask(sdk: openai.AsyncOpenAI, question: str = QUESTION, **extra: Any) -> Any:
    return await sdk.chat.completions.create(
        model=extra.pop("model", "fast"),
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}],
        store=True,
        **extra,
    )


async def ids(sdk: openai.AsyncOpenAI, **wanted: Any) -> list[str]:
    return [each.id async for each in sdk.chat.completions.list(**wanted)]


async def test_a_kept_answer_is_the_one_that_was_given(sdk: openai.AsyncOpenAI) -> None:
    given = await ask(sdk, metadata={"user": "ann"})
    kept = await sdk.chat.completions.retrieve(given.id)
    assert kept.to_dict() == given.to_dict() | {"metadata": {"user": "ann"}}


async def test_a_streamed_answer_is_kept_when_it_says_done(sdk: openai.AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await ask(sdk, stream=True)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    kept = await sdk.chat.completions.retrieve(chunks[0].id)
    assert kept.choices[0].message.content == text
    assert kept.choices[0].finish_reason == "stop"
    assert kept.usage is not None
    assert kept.usage.total_tokens == 17


async def test_kept_answers_are_listed_in_pages_oldest_first(sdk: openai.AsyncOpenAI) -> None:
    made = [(await ask(sdk)).id for _ in range(3)]
    rows = [row async for row in sdk.chat.completions.list(limit=2)]
    listed = [row.id for row in rows]
    assert sorted(listed) == sorted(made)
    assert [row.created for row in rows] == sorted(row.created for row in rows)
    assert await ids(sdk, order="desc", limit=1) == listed[::-1]


async def test_kept_answers_are_found_by_model_and_metadata(sdk: openai.AsyncOpenAI) -> None:
    one = (await ask(sdk, metadata={"team": "a", "lang.x": "de"})).id
    two = (await ask(sdk, metadata={"team": "b"}, model="deep")).id
    assert await ids(sdk, metadata={"team": "a"}) == [one]
    assert await ids(sdk, metadata={"team": "a", "lang.x": "de"}) == [one]
    assert await ids(sdk, metadata={"team": "a", "lang.x": "en"}) == []
    assert await ids(sdk, model="deep") == [two]
    assert await ids(sdk, model="deep", metadata={"team": "a"}) == []


async def test_metadata_is_changed_and_the_answer_stays(sdk: openai.AsyncOpenAI) -> None:
    made = (await ask(sdk, metadata={"a": "1"})).id
    changed = await sdk.chat.completions.update(made, metadata={"b": "2"})
    assert changed.metadata == {"b": "2"}  # type: ignore[attr-defined]
    assert await ids(sdk, metadata={"b": "2"}) == [made]
    cleared = await sdk.chat.completions.update(made, metadata=None)
    assert cleared.metadata == {}  # type: ignore[attr-defined]


async def test_what_was_asked_is_listed_message_by_message(sdk: openai.AsyncOpenAI) -> None:
    made = (await ask(sdk)).id
    said = [each async for each in sdk.chat.completions.messages.list(made, limit=1)]
    assert [(each.role, each.content) for each in said] == [("system", "Be brief."), ("user", QUESTION)]
    newest = [each async for each in sdk.chat.completions.messages.list(made, order="desc")]
    assert [each.content for each in newest] == [QUESTION, "Be brief."]


async def test_a_deleted_answer_is_gone(sdk: openai.AsyncOpenAI) -> None:
    made = (await ask(sdk)).id
    gone = await sdk.chat.completions.delete(made)
    assert (gone.deleted, gone.object, gone.id) == (True, "chat.completion.deleted", made)
    for call in (
        sdk.chat.completions.retrieve(made),
        sdk.chat.completions.delete(made),
        sdk.chat.completions.update(made, metadata={}),
    ):
        with pytest.raises(openai.NotFoundError, match="No such stored completion"):
            await call
    assert await ids(sdk) == []


async def test_an_answer_that_failed_is_not_kept(gateway: Gateway, sdk: openai.AsyncOpenAI) -> None:
    gateway.retriever.fail_with = UpstreamUnavailable("The models are away.")
    with pytest.raises(openai.InternalServerError):
        await ask(sdk)
    assert await ids(sdk) == []


async def test_another_tenants_answer_is_as_if_there_were_none(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    made = (await ask(sdk)).id
    headers = gateway.auth("rival")
    path = f"/v1/chat/completions/{made}"
    for method, url, body in (
        ("GET", path, None),
        ("GET", path + "/messages", None),
        ("POST", path, {"metadata": {}}),
        ("DELETE", path, None),
    ):
        refused = await gateway.client.request(method, url, json=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "completion_not_found"), url
    assert (await gateway.client.get("/v1/chat/completions", headers=headers)).json()["data"] == []
    assert await ids(sdk) == [made]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("order=up", "order"),
        ("limit=0", "limit"),
        ("after=chatcmpl-nope", "after"),
        ("metadata=x", "metadata"),
        ("&".join(f"metadata[k{n}]=x" for n in range(17)), "metadata"),
    ],
    ids=["order", "limit", "cursor", "no key", "many"],
)
async def test_a_listing_that_cannot_be_is_refused_by_its_field(
    gateway: Gateway, query: str, param: str
) -> None:
    refused = await gateway.client.get(f"/v1/chat/completions?{query}", headers=gateway.auth())
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text


async def test_a_cursor_that_is_no_message_is_refused(gateway: Gateway, sdk: openai.AsyncOpenAI) -> None:
    made = (await ask(sdk)).id
    path = f"/v1/chat/completions/{made}/messages?after=nope"
    refused = await gateway.client.get(path, headers=gateway.auth())
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")
