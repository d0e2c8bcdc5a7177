"""One request from prompt to last message, over a scripted engine: what is sent, and what a continuation adds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gateway.checkpoint.chat_format import ChatFormat
from gateway.errors import EngineFull, InvalidRequest, PromptTooLong, UpstreamError
from gateway.generation.answer_stream import Answer, AnswerStream
from gateway.generation.generate_wire import GenerateRequest
from gateway.ports import GenerationParams, TokenStep
from tests.fakes.small_tokenizers import CHATML, byte_level
from tests.fakes.token_engine import ScriptedEngine

END = 2
CHAT = ChatFormat(byte_level(), CHATML, {}, frozenset({END}))
CONTEXT_TOKENS = 256
TEXT = "A tide gate: Größe, 水門は閉じた。🌊🌊 STOP here, S T O P"
SCRIPT = byte_level().encode(TEXT, add_special_tokens=False).ids


def request(max_tokens: int = 200, **changes: Any) -> GenerateRequest:
    fields: dict[str, Any] = {
        "prompt": "Tell me", "messages": None, "stop": [], "continuation_ids": [], "coalesce_ms": 0, **changes
    }  # fmt: skip
    ignore_eos = fields.pop("ignore_eos", False)
    return GenerateRequest(params=GenerationParams(max_tokens=max_tokens, ignore_eos=ignore_eos), **fields)


class Continued(ScriptedEngine):
    """A replica that goes on: makes the part of its script that the prompt does not end with yet."""

    num_prompt: int = 0

    def _output(self, prompt_ids: Sequence[int], params: GenerationParams, most: int) -> list[int]:
        done = len(prompt_ids) - self.num_prompt
        assert self.script is not None
        assert list(prompt_ids[self.num_prompt :]) == self.script[:done]
        return self.script[done:][:most]


def engine(script: Sequence[int] = (*SCRIPT, END), **knobs: Any) -> ScriptedEngine:
    made = Continued(context_tokens=CONTEXT_TOKENS, script=list(script), **knobs)
    made.num_prompt = len(CHAT.encode_plain("Tell me"))
    return made


async def answers_of(asked: GenerateRequest, made: ScriptedEngine | None = None) -> list[Answer]:
    sent: list[Answer] = []
    await AnswerStream(made or engine(), CHAT, CONTEXT_TOKENS, sent.append).run(asked)
    return sent


def text_of(answers: Sequence[Answer]) -> str:
    return "".join(answer.text for answer in answers)


def ids_of(answers: Sequence[Answer]) -> list[int]:
    return [token_id for answer in answers for token_id in answer.token_ids]


async def test_messages_together_are_the_output_and_the_last_has_the_counts() -> None:
    answers = await answers_of(request())
    assert text_of(answers) == TEXT
    assert ids_of(answers) == [*SCRIPT, END]
    assert [answer.finish_reason for answer in answers] == [""] * (len(answers) - 1) + ["stop"]
    assert answers[-1].num_input_tokens == len(CHAT.encode_plain("Tell me"))
    assert all(answer.text for answer in answers[:-1])


async def test_messages_of_a_chat_go_through_the_template() -> None:
    made = ScriptedEngine(script=[5])
    await answers_of(request(prompt=None, messages=[{"role": "user", "content": "水"}]), made)
    assert byte_level().decode(made.prompts[0], skip_special_tokens=False) == (
        "<|im_start|>user\n水<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("tokens_a_step", [1, 3, 100], ids=str)
@pytest.mark.parametrize("coalesce_ms", [0, 10_000], ids=["at once", "together"])
async def test_nothing_of_the_output_depends_on_steps_and_messages(
    tokens_a_step: int, coalesce_ms: int
) -> None:
    answers = await answers_of(request(coalesce_ms=coalesce_ms), engine(tokens_a_step=tokens_a_step))
    assert text_of(answers) == TEXT
    assert ids_of(answers) == [*SCRIPT, END]
    if coalesce_ms:
        assert len(answers) <= 2


async def test_text_that_waits_is_sent_when_its_time_is_up() -> None:
    """The engine makes no more until what waits has come out: only a timer can send it."""
    sent: list[Answer] = []
    out = asyncio.Event()

    class Waiting(ScriptedEngine):
        async def generate(
            self, prompt_ids: Sequence[int], params: GenerationParams
        ) -> AsyncIterator[TokenStep]:
            for number in range(4):
                yield TokenStep([SCRIPT[number]])
            await out.wait()
            yield TokenStep([END], "stop")

    def send(answer: Answer) -> None:
        sent.append(answer)
        if len(sent) == 2:
            out.set()

    async with asyncio.timeout(5):
        await AnswerStream(Waiting(), CHAT, CONTEXT_TOKENS, send).run(request(coalesce_ms=20))
    assert [answer.token_ids for answer in sent] == [SCRIPT[:1], SCRIPT[1:4], [END]]


@pytest.mark.parametrize("stop", [["STOP"], ["e, 水"], ["🌊"], ["P here", "zzz"], ["A"]], ids=str)
async def test_a_stop_string_ends_the_output_and_frees_the_engine(stop: list[str]) -> None:
    made = engine()
    answers = await answers_of(request(stop=stop), made)
    assert text_of(answers) == TEXT[: min(TEXT.find(each) for each in stop if each in TEXT)]
    assert answers[-1].finish_reason == "stop"
    assert ids_of(answers) == SCRIPT[: len(ids_of(answers))]
    assert made.load().num_running == 0


@pytest.mark.parametrize("stop", [[], ["STOP"], ["P here"], ["🌊🌊"], [" T O P!"]], ids=str)
async def test_a_continuation_goes_on_exactly_at_every_cut(stop: list[str]) -> None:
    """Also inside a character, inside what may become a stop string, behind the end."""
    whole = await answers_of(request(stop=stop))
    ids, text = ids_of(whole), text_of(whole)
    sent, given = "", 0
    seen = {}  # what a client has after so many tokens
    for answer in whole:
        sent, given = sent + answer.text, given + len(answer.token_ids)
        seen[given] = sent
    for cut in range(1, len(ids) + 1):
        rest = await answers_of(request(stop=stop, continuation_ids=ids[:cut]))
        assert ids_of(rest) == ids[cut:]
        assert rest[-1].finish_reason == whole[-1].finish_reason
        assert rest[-1].num_input_tokens == whole[-1].num_input_tokens
        assert text.endswith(text_of(rest))
        if cut in seen and cut < len(ids):
            assert seen[cut] + text_of(rest) == text


@pytest.mark.parametrize("cut", [0, 1, 5, 9])
async def test_max_tokens_counts_what_was_made_before(cut: int) -> None:
    answers = await answers_of(request(10, continuation_ids=SCRIPT[:cut]))
    assert ids_of(answers) == SCRIPT[cut:10]
    assert answers[-1].finish_reason == "length"


async def test_a_continuation_that_had_all_its_tokens_ends_at_once() -> None:
    made = engine()
    answers = await answers_of(request(5, continuation_ids=SCRIPT[:5]), made)
    assert [answer.finish_reason for answer in answers] == ["length"]
    assert not made.prompts


async def test_with_the_end_ignored_an_end_token_ends_nothing() -> None:
    answers = await answers_of(request(4, ignore_eos=True, continuation_ids=[]), engine([5, END, 6, END, 7]))
    assert ids_of(answers) == [5, END, 6, END]
    assert answers[-1].finish_reason == "length"


async def test_asking_for_nothing_is_one_last_message_without_the_engine() -> None:
    made = engine()
    assert await answers_of(request(0, prompt=None), made) == [Answer("", [], "length", 0)]
    assert not made.prompts


async def test_a_prompt_that_leaves_no_room_is_too_long() -> None:
    with pytest.raises(
        PromptTooLong, match=r"^the prompt has \d+ tokens; at most 255 leave room for an answer\.$"
    ):
        await answers_of(request(prompt="水" * 5000))


async def test_a_continuation_that_fills_the_context_ends_there() -> None:
    made = ScriptedEngine(context_tokens=CONTEXT_TOKENS, vocab_size=400)
    filled = [5] * (CONTEXT_TOKENS - len(CHAT.encode_plain("Tell me")))
    answers = await answers_of(request(10_000, continuation_ids=filled), made)
    assert [answer.finish_reason for answer in answers] == ["length"]


async def test_a_continuation_longer_than_the_context_is_refused() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^continuation_ids: 300 tokens; the context has room for \d+\.$"
    ):
        await answers_of(request(continuation_ids=[5] * 300))


@pytest.mark.parametrize("token_id", [-1, 400, 2**31 - 1], ids=str)
async def test_a_continuation_of_no_tokens_is_refused(token_id: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"^continuation_ids: {token_id} is no token of this model\.$"):
        await answers_of(request(continuation_ids=[5, token_id]))


async def test_a_template_that_refuses_the_messages_says_why() -> None:
    chat = ChatFormat(byte_level(), "{{ raise_exception('roles must alternate') }}", {}, frozenset())
    stream = AnswerStream(engine(), chat, CONTEXT_TOKENS, print)
    with pytest.raises(ValueError, match="roles must alternate"):
        await stream.run(request(prompt=None, messages=[{"role": "user", "content": "x"}]))


async def test_a_full_engine_is_told_before_anything_is_sent() -> None:
    made = engine(slots=0)
    with pytest.raises(EngineFull):
        await answers_of(request(), made)


async def test_a_failure_in_between_ends_the_stream_and_frees_the_slot() -> None:
    made = engine(fail_at_token=3)
    sent: list[Answer] = []
    with pytest.raises(UpstreamError):
        await AnswerStream(made, CHAT, CONTEXT_TOKENS, sent.append).run(request())
    assert ids_of(sent) == SCRIPT[: len(ids_of(sent))]
    assert made.load().num_running == 0


async def test_cancelling_frees_the_slot() -> None:
    made = engine(delay_s=30.0)
    task = asyncio.create_task(answers_of(request(), made))
    while not made.load().num_running:  # noqa: ASYNC110 - an engine tells nobody of its load
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.load().num_running == 0
