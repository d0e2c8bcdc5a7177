"""Each case goes through HTTP and through gRPC: same text, same sources, same error, same outcome on record."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from gateway.errors import (
    EngineFull,
    PromptTooLong,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from tests.fakes.engines import passage
from tests.integration.api.conftest import Gateway
from tests.integration.api.doors import Door, GrpcDoor, HttpDoor, Reply
from tests.waiting import until

QUESTION = [{"role": "user", "content": "What is a tide gate?"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I help?"},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": ""},
    *QUESTION,
    {"role": "assistant", "content": "What follows the question is left out."},
]
MANY = ["x" * 200] * 17
SAMPLING = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 2**63 - 1, "stop": ["\n\n", "END"]}


@pytest_asyncio.fixture
async def doors(gateway: Gateway) -> AsyncIterator[list[Door]]:
    both: list[Door] = [HttpDoor(gateway), GrpcDoor(gateway)]
    yield both
    for each in both:
        await each.close()


@pytest_asyncio.fixture(params=["http", "grpc"])
async def door(request: pytest.FixtureRequest, doors: list[Door]) -> Door:
    return next(each for each in doors if each.name == request.param)


def counted(gateway: Gateway) -> dict[str, float]:
    text = gateway.services.metrics.render().decode()
    return {
        labels: float(value)
        for labels, value in re.findall(r"^tidegate_requests_total(\{.*\}) (\S+)$", text, re.MULTILINE)
    }


async def ask_both(doors: list[Door], **question: Any) -> Reply:
    """The one reply of both doors, and one outcome for each of them."""
    replies, outcomes = [], []
    for door in doors:
        before = counted(door.gateway)
        replies.append(await door.ask(**{"model": "fast", "messages": QUESTION} | question))
        await until(lambda before=before, door=door: counted(door.gateway) != before)
        after = counted(door.gateway)
        outcomes.append(
            {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key)}
        )
    assert replies[0].comparable() == replies[1].comparable()
    assert outcomes[0] == outcomes[1]
    assert list(outcomes[0].values()) == [1.0]
    return replies[1]


GOOD: dict[str, dict[str, Any]] = {
    "plain": {},
    "auto": {"model": "auto"},
    "two questions in one": {"model": "auto", "messages": [{"role": "user", "content": "Compare A and B"}]},
    "events": {"events": True},
    "everything": {"top_k": 1, "priority": "batch", "cache": "refresh", "events": True, **SAMPLING},
    "a conversation": {"messages": TALK},
    "greedy": {"temperature": 0.0, "top_p": 1.0, "seed": 0},
    "one stop": {"stop": ["x" * 256]},
    "anonymous": {"key": None},
    "a long deadline": {"deadline_ms": 10**8},
}


@pytest.mark.parametrize("case", GOOD, ids=lambda name: name.replace(" ", "-"))
async def test_both_doors_give_the_same_answer(gateway: Gateway, doors: list[Door], case: str) -> None:
    deadline = GOOD[case].get("deadline_ms")
    question = GOOD[case] if deadline is None else GOOD[case] | {"deadline_ms": 80_000_000}
    reply = await ask_both(doors, **question)
    assert reply.failure is None
    assert reply.receipt is not None
    assert reply.receipt["outcome"] == "completed"
    assert reply.text.endswith("[2]") or question.get("top_k") == 1
    assert reply.request_id == reply.receipt["id"]
    asked = gateway.fast.inquiries or gateway.deep.inquiries
    assert asked[0] == asked[1]
    assert gateway.retriever.scopes[0] == gateway.retriever.scopes[1]


async def test_a_conversation_and_sampling_reach_the_engine(gateway: Gateway, doors: list[Door]) -> None:
    await ask_both(doors, messages=TALK, **SAMPLING)
    asked = gateway.fast.inquiries[1]
    assert asked.question == "What is a tide gate?"
    assert [(turn.role, turn.text) for turn in asked.history] == [
        ("system", "Be brief."),
        ("system", "Be kind."),
        ("user", "Hello"),
        ("assistant", "Hello! How can I help?"),
    ]
    sampling = asked.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (9, 0.5, 0.9)
    assert (sampling.seed, sampling.stop) == (2**63 - 1, ["\n\n", "END"])


async def test_stages_are_told_in_order_when_asked_for(doors: list[Door]) -> None:
    assert (await ask_both(doors, events=True)).stages == ["retrieving", "generating"]
    assert (await ask_both(doors)).stages == []


async def test_an_honest_no_is_the_same(gateway: Gateway, doors: list[Door]) -> None:
    gateway.retriever.passages = []
    reply = await ask_both(doors)
    assert reply.receipt is not None
    assert (reply.text, reply.receipt["finish_reason"]) == ("", "no_answer")


async def test_text_of_any_script_and_where_its_citations_stand_are_the_same(
    gateway: Gateway, doors: list[Door]
) -> None:
    gateway.retriever.passages = [passage(1, "Größe 🌊 は三メートル. More."), passage(2, "Ende.")]
    reply = await ask_both(doors)
    assert reply.text == "Größe 🌊 は三メートル. [1] Ende. [2]"
    assert [reply.text[: each["index"]][-3:] for each in reply.citations] == ["[1]", "[2]"]


async def test_a_passage_that_had_no_room_is_told(gateway: Gateway, doors: list[Door]) -> None:
    gateway.fast.num_passages, gateway.fast.texts = 1, ["short"]
    reply = await ask_both(doors)
    assert reply.receipt is not None
    assert [each["in_prompt"] for each in reply.receipt["passages"]] == [True, False]


async def test_collections_are_meant_by_name_or_id(gateway: Gateway, doors: list[Door]) -> None:
    made = await gateway.client.post("/v1/vector_stores", json={"name": "docs"}, headers=gateway.auth())
    store_id = made.json()["id"]
    for reference in ("docs", store_id):
        await ask_both(doors, collections=[reference])
    assert {tuple(scope.collections) for scope in gateway.retriever.scopes} == {(store_id,)}
    foreign = await ask_both(doors, collections=["docs"], key="rival")
    assert foreign.failure is not None
    assert (foreign.failure.code, foreign.failure.param) == ("collection_not_found", "collections")
    unknown = await ask_both(doors, collections=["nope"], key="rival")
    assert unknown.failure is not None
    assert unknown.failure.message == foreign.failure.message.replace("docs", "nope")


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# What a question may not be; the code, and the field that is to blame.
BAD: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "empty model": ({"model": ""}, "invalid_value", "model"),
    "long model": ({"model": "x" * 300}, "invalid_value", "model"),
    "unknown model": ({"model": "gpt-9"}, "model_not_found", "model"),
    "no messages": ({"messages": []}, "invalid_value", "messages"),
    "unknown role": ({"messages": [{"role": "god", "content": "x"}]}, "invalid_value", "messages[0].role"),
    "no user message": ({"messages": [{"role": "system", "content": "x"}]}, "no_question", "messages"),
    "blank question": ({"messages": user("  ")}, "no_question", "messages"),
    "nul": ({"messages": user("a\x00b")}, "invalid_value", "messages[0].content"),
    "long question": ({"messages": user("x" * 40_000)}, "text_too_long", "messages[0].content"),
    "long second message": ({"messages": QUESTION + user("x" * 40_000)}, "text_too_long", "messages[1]"),
    "too many messages": ({"messages": QUESTION * 1001}, "too_many_messages", "messages"),
    "unknown collection": ({"collections": ["nope"]}, "collection_not_found", "collections"),
    "empty collection": ({"collections": [""]}, "invalid_value", "collections[0]"),
    "nul in a collection": ({"collections": ["a\x00"]}, "invalid_value", "collections[0]"),
    "many collections": ({"collections": ["x"] * 65}, "invalid_value", "collections"),
    "top_k of zero": ({"top_k": 0}, "invalid_value", "top_k"),
    "top_k too high": ({"top_k": 65}, "invalid_value", "top_k"),
    "unknown priority": ({"priority": "vip"}, "invalid_value", "priority"),
    "unknown cache use": ({"cache": "maybe"}, "invalid_value", "cache"),
    "no tokens": ({"max_tokens": 0}, "invalid_value", "max_tokens"),
    "endless tokens": ({"max_tokens": 10**9}, "invalid_value", "max_tokens"),
    "hot": ({"temperature": 2.5}, "invalid_value", "temperature"),
    "cold": ({"temperature": -0.1}, "invalid_value", "temperature"),
    "top_p above one": ({"top_p": 1.5}, "invalid_value", "top_p"),
    "negative seed": ({"seed": -1}, "invalid_value", "seed"),
    "empty stop": ({"stop": ["a", ""]}, "invalid_value", "stop[1]"),
    "long stop": ({"stop": ["x" * 257]}, "invalid_value", "stop[0]"),
    "many stops": ({"stop": MANY}, "invalid_value", "stop"),
    "malformed key": ({"key": "Bearer nope"}, "invalid_api_key", None),
    "unknown key": ({"key": "Bearer tg-" + "A" * 43}, "invalid_api_key", None),
    "another scheme": ({"key": "Basic dXNlcg=="}, "invalid_api_key", None),
}
NUMBERED = {"unknown role": "god", "unknown priority": "vip", "unknown cache use": "maybe"}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
async def test_both_doors_refuse_alike(
    gateway: Gateway, doors: list[Door], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, code, param = BAD[case]
    if case in NUMBERED:  # a word that is none goes over gRPC as a number that is none
        monkeypatch.setattr(Reply, "comparable", without_words(NUMBERED[case]))
    failure = (await ask_both(doors, **question)).failure
    assert failure is not None
    assert failure.code == code
    assert failure.param == param or (param and failure.param and failure.param.startswith(param))
    assert failure.message.endswith(".")
    assert len(failure.message) < 500
    assert gateway.retriever.started == 0


def without_words(word: str) -> Callable[[Reply], dict[str, Any]]:
    whole = Reply.comparable

    def comparable(reply: Reply) -> dict[str, Any]:
        shown = whole(reply)
        shown["failure"]["message"] = shown["failure"]["message"].replace(f"'{word}'", "'99'")
        return shown

    return comparable


UPSTREAM = {
    "unavailable": UpstreamUnavailable("The models are away.", retry_after_s=2.4),
    "unavailable without a delay": UpstreamUnavailable("The models are away."),
    "timeout": UpstreamTimeout("The model server did not answer in time."),
    "failed": UpstreamError("The model server failed to process the request.", detail="secret"),
    "malformed": UpstreamProtocolError("The model server gave a malformed answer."),
    "full": EngineFull("All slots are taken."),
    "unexpected": RuntimeError("secret detail /etc/passwd"),
}


@pytest.mark.parametrize("case", UPSTREAM, ids=lambda name: name.replace(" ", "-"))
async def test_an_error_before_the_first_text_is_the_same(
    gateway: Gateway, doors: list[Door], case: str
) -> None:
    gateway.retriever.fail_with = UPSTREAM[case]
    failure = (await ask_both(doors)).failure
    assert failure is not None
    assert "secret" not in failure.message


@pytest.mark.parametrize("case", UPSTREAM, ids=lambda name: name.replace(" ", "-"))
async def test_an_error_after_the_first_text_keeps_the_text_and_has_the_same_code(
    gateway: Gateway, doors: list[Door], case: str
) -> None:
    gateway.fast.fail_with, gateway.fast.fail_at = UPSTREAM[case], 1
    reply = await ask_both(doors)
    assert reply.failure is not None
    assert reply.text.endswith("[1]")
    assert reply.receipt is None


async def test_a_prompt_that_is_too_long_for_the_tier_is_the_same(
    gateway: Gateway, doors: list[Door]
) -> None:
    gateway.fast.fail_with = PromptTooLong(
        "The prompt has 5000 tokens; the tier takes 4096.", param="messages"
    )
    failure = (await ask_both(doors)).failure
    assert failure is not None
    assert (failure.code, failure.status) == ("prompt_too_long", 400)


async def test_a_failed_request_tells_the_id_of_its_receipt(gateway: Gateway, door: Door) -> None:
    gateway.retriever.fail_with = UpstreamUnavailable("The models are away.")
    refused = await door.ask(model="fast", messages=QUESTION)
    found = await gateway.client.get(f"/v1/receipts/{refused.request_id}", headers=gateway.auth())
    assert found.json()["cause"] == "upstream_unavailable"
