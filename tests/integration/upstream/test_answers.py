"""What a tier on another server asks for, and what it makes of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import (
    InvalidRequest,
)
from gateway.generation.extractive import NO_ANSWER
from gateway.types import Delta, Inquiry, Sampling, Turn
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.openai_server import FakeOpenAi
from tests.integration.upstream.stand import KEY, Stand, text_of


async def test_an_answer_streams_with_verified_citations_and_the_servers_counts(stand: Stand) -> None:
    stand.fake.texts = ["A tide gate holds back the surge [", "1]. Bananas are yellow [1].", " Ünï 🌊 [9]"]
    deltas = await stand.write()
    assert text_of(deltas) == "A tide gate holds back the surge [1]. Bananas are yellow. Ünï 🌊"
    assert [each.passage for delta in deltas for each in delta.citations] == [1]
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert (deltas[-1].num_input_tokens, deltas[-1].num_output_tokens) == (42, 9)
    assert sum(delta.num_unsupported for delta in deltas) == 2
    assert deltas[0].num_passages == len(PASSAGES)
    assert stand.results == ["ok"]


async def test_the_request_is_openais_with_the_operators_model_and_key(stand: Stand) -> None:
    await stand.write(history=[Turn("user", "Hi"), Turn("assistant", "Hello")])
    body = stand.fake.body()
    assert (body["model"], body["stream"], body["stream_options"]) == ("m-70b", True, {"include_usage": True})
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert '<passage number="1"' in body["messages"][0]["content"]
    assert body["max_tokens"] == 256
    assert {"temperature", "top_p", "seed", "stop", "tools"} & body.keys() == set()
    assert f"authorization: Bearer {KEY}".lower() in stand.fake.heads[-1].lower()
    assert stand.fake.heads[-1].startswith("POST /v1/chat/completions HTTP/1.1")


async def test_sampling_reaches_the_server_and_the_tier_has_its_own(
    fake: FakeOpenAi, standing: Callable[..., Stand]
) -> None:
    stand = standing(temperature=0.3, max_tokens_field="max_completion_tokens")
    await stand.write(sampling=Sampling(top_p=0.5, seed=7, stop=["END"], max_tokens=9))
    body = fake.body()
    assert (body["temperature"], body["top_p"], body["seed"], body["stop"]) == (0.3, 0.5, 7, ["END"])
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body
    await stand.client.close()


async def test_a_schema_reaches_the_server_in_openais_words_and_the_json_is_left_as_it_is(
    stand: Stand,
) -> None:
    schema = '{"type":"object","properties":{"gates":{"type":"array"}}}'
    stand.fake.texts = ['{"gates"', ": [1], ", '"why": "surge [9]"}']
    deltas = await stand.write(sampling=Sampling(json_schema=schema))
    asked = stand.fake.body()["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"] == {"name": "answer", "strict": True, "schema": json.loads(schema)}
    assert json.loads(text_of(deltas)) == {"gates": [1], "why": "surge [9]"}
    assert not [each for delta in deltas for each in delta.citations]
    assert "response_format" not in await body_of(stand, Sampling())


async def body_of(stand: Stand, sampling: Sampling) -> dict[str, Any]:
    await stand.write(sampling=sampling)
    return stand.fake.body()


async def test_without_evidence_json_is_refused_before_the_server_is_asked(stand: Stand) -> None:
    inquiry = Inquiry(question="Who?", sampling=Sampling(json_schema='{"type":"object"}'))
    with pytest.raises(InvalidRequest) as refused:
        async for _ in stand.generator.answer(inquiry, [], timeout_s=5):
            pass
    assert refused.value.code == "no_evidence"
    assert stand.fake.requests == []


async def test_prompt_and_answer_never_outgrow_the_context(
    fake: FakeOpenAi, standing: Callable[..., Stand]
) -> None:
    stand = standing(context_tokens=1200, max_tokens=200)
    deltas = await stand.write(sampling=Sampling(max_tokens=1100))
    assert fake.body()["max_tokens"] + deltas[0].num_input_tokens <= 1200
    long = [passage(n, "A tide gate holds back the surge of the sea. " * 20) for n in range(1, 9)]
    deltas = await stand.write(passages=long)
    assert 0 < deltas[0].num_passages < 8
    await stand.client.close()


async def test_marks_of_chat_templates_in_a_document_are_broken_up(stand: Stand) -> None:
    marks = ["<|im_end|>", "<|eot_id|>", "</s>", "[/INST]", "<end_of_turn>", "<<SYS>>", "<｜User｜>"]
    await stand.write(passages=[passage(1, f"A tide gate {' '.join(marks)} holds.")])
    content = stand.fake.body()["messages"][0]["content"]
    assert [mark for mark in marks if mark in content] == []
    assert "im_end" in content


@pytest.mark.parametrize("piece_bytes", [1, 7, 64])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
async def test_the_answer_is_the_same_however_it_is_cut(
    stand: Stand, piece_bytes: int, line_end: bytes
) -> None:
    stand.fake.piece_bytes, stand.fake.line_end, stand.fake.comments = piece_bytes, line_end, True
    deltas = await stand.write()
    assert text_of(deltas) == "A tide gate holds back the surge [1]."


async def test_without_usage_and_done_events_are_counted(stand: Stand) -> None:
    stand.fake.usage, stand.fake.ends_with_done = None, False
    deltas = await stand.write()
    assert deltas[-1].num_output_tokens == 3
    assert deltas[-1].num_input_tokens == deltas[0].num_input_tokens > 100
    assert deltas[-1].finish_reason == "stop"


async def test_an_unknown_finish_reason_is_told_as_stop_and_length_as_length(stand: Stand) -> None:
    stand.fake.finish_reason = "eos"
    assert (await stand.write())[-1].finish_reason == "stop"
    stand.fake.finish_reason = "length"
    assert (await stand.write())[-1].finish_reason == "length"


async def test_nothing_is_written_from_memory_alone(stand: Stand) -> None:
    answer = stand.generator.answer(Inquiry(question="Who?"), [], timeout_s=5)
    assert [delta async for delta in answer] == [Delta(text=NO_ANSWER, finish_reason="no_answer")]
    assert stand.fake.requests == []


async def test_without_documents_the_server_gets_the_callers_messages_and_brackets_stay(stand: Stand) -> None:
    stand.fake.texts = ["Take a[1] of", " the list [2]."]
    asked = Inquiry(question="Hi?", without_documents=True)
    deltas = [delta async for delta in stand.generator.answer(asked, [], timeout_s=5)]
    assert text_of(deltas) == "Take a[1] of the list [2]."
    assert stand.fake.body()["messages"] == [{"role": "user", "content": "Hi?"}]
    assert (deltas[0].num_passages, deltas[-1].finish_reason, deltas[-1].num_unsupported) == (0, "stop", 0)


async def broken_off(stand: Stand, number: int, **asked: Any) -> tuple[list[Delta], str]:
    """The first deltas of an answer that has white space at its seams, and what was said in them."""
    stand.fake.texts = ["A tide gate ", "holds back\n", "\n", "the surge [1]", "."]
    deltas = (await stand.write(**asked))[: number + 1]
    return deltas, "".join(delta.said for delta in deltas)


@pytest.mark.parametrize(
    ("number", "rest"),
    [
        (1, ["holds back\n", "\n", "the surge [1]", "."]),
        (2, ["\n\nthe surge [1]", "."]),
        (2, ["\n", "the surge [1]", "."]),
        (3, ["the surge [1]", "."]),
    ],
    ids=["as it was", "white space again", "some of it", "none"],
)
async def test_an_answer_goes_on_from_what_was_said(
    standing: Callable[..., Stand], number: int, rest: list[str]
) -> None:
    stand = standing(continues=True)
    first, said = await broken_off(stand, number)
    assert said == "".join(stand.fake.texts[:number])
    num_said = first[-1].num_output_tokens
    stand.fake.texts, stand.fake.usage = rest, {"prompt_tokens": 42 + num_said, "completion_tokens": 5}
    second = await stand.write(said=said, num_said=num_said)
    body = stand.fake.body()
    assert body["messages"][-1] == {"role": "assistant", "content": said.rstrip()}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["max_tokens"] == 256 - num_said
    assert text_of(second).replace("\n", "") == "A tide gate holds backthe surge [1]."
    assert text_of(second).startswith(text_of(first))
    assert "".join(delta.said for delta in second).startswith(said)
    assert (second[-1].num_input_tokens, second[-1].num_output_tokens) == (42, 5 + num_said)


async def test_a_server_that_does_not_go_on_is_asked_anew(stand: Stand) -> None:
    _, said = await broken_off(stand, 2)
    deltas = await stand.write(said=said, num_said=2)
    assert {"continue_final_message", "add_generation_prompt"} & stand.fake.body().keys() == set()
    assert stand.fake.body()["messages"][-1]["role"] == "user"
    assert text_of(deltas) == "A tide gate holds back\n\nthe surge [1]."
