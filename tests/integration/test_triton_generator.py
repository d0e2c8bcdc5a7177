"""The gateway's side of a generative tier, over a real Triton whose model has knobs (tests/fakes/models/writer)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.errors import (
    InvalidRequest,
    PromptTooLong,
    TidegateError,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from gateway.generation.extractive import NO_ANSWER
from gateway.generation.triton_generator import TritonGenerator
from gateway.settings import load_settings
from gateway.tier_config import GenerateTier
from gateway.triton import TritonClient
from gateway.types import Delta, Inquiry, Sampling, Turn
from tests.fakes.chat import ByteChat
from tests.fakes.engines import PASSAGES
from tests.fakes.triton_process import FAKE_MODELS, TritonProcess, free_port, running_triton

TIER = GenerateTier(name="writer", checkpoint="none", context_tokens=4096, max_tokens=400)
TEXT = "A tide gate holds back the surge [1]. Bananas are yellow [1]. Envoy balances gRPC [2]. Ünï 🌊 [9]"


@pytest.fixture(scope="module")
def triton(triton_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("writer")
    settings = load_settings({}, var=folder / "var", port=free_port())
    with running_triton(folder, [FAKE_MODELS / "writer"], settings) as process:
        yield process


@pytest.fixture
async def generator(triton: TritonProcess) -> AsyncIterator[TritonGenerator]:
    client = TritonClient(triton.target)
    yield TritonGenerator(client, TIER, ByteChat())
    await client.close()


async def write(
    generator: TritonGenerator, *, sampling: Sampling | None = None, **knobs: object
) -> list[Delta]:
    inquiry = Inquiry(
        question=json.dumps({"text": TEXT} | knobs),
        history=[Turn("user", "Hi"), Turn("assistant", "Hello")],
        sampling=sampling or Sampling(),
    )
    return [delta async for delta in generator.answer(inquiry, PASSAGES, timeout_s=20)]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


SHOWN = "A tide gate holds back the surge [1]. Bananas are yellow. Envoy balances gRPC [2]. Ünï 🌊"


async def test_an_answer_streams_with_verified_citations_and_the_engines_counts(
    generator: TritonGenerator,
) -> None:
    deltas = await write(generator)
    assert text_of(deltas) == SHOWN
    assert [each.passage for delta in deltas for each in delta.citations] == [1, 2]
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert (deltas[-1].finish_reason, deltas[-1].num_output_tokens) == ("stop", len(TEXT))
    assert deltas[-1].num_input_tokens == 4  # messages: ours, two turns, the question
    assert deltas[0].num_passages == len(PASSAGES)
    assert sum(delta.num_unsupported for delta in deltas) == 2


@pytest.mark.parametrize("fail_at", [1, 33, 34, 35, len(TEXT) - 3, len(TEXT) - 1], ids=str)
async def test_an_answer_goes_on_elsewhere_without_a_token_lost_or_doubled(
    generator: TritonGenerator, fail_at: int
) -> None:
    deltas = await write(generator, fail_at=fail_at)
    assert text_of(deltas) == SHOWN
    assert deltas[-1].num_output_tokens == len(TEXT)


SCHEMA = '{"type":"object","properties":{"gates":{"enum":[[1],[9]]}}}'


async def test_json_is_given_as_it_was_written(generator: TritonGenerator) -> None:
    """What looks like the mark of a passage that is not there is a list of the caller's own."""
    deltas = await write(generator, sampling=Sampling(json_schema=SCHEMA))
    assert text_of(deltas) == SCHEMA
    assert [each for delta in deltas for each in delta.citations] == []
    assert deltas[-1].num_unsupported == 0
    assert {delta.ids for delta in deltas} == {b""}  # nobody else could go on from there


async def test_json_that_broke_off_is_not_gone_on_with(generator: TritonGenerator) -> None:
    """An engine cannot take up a schema in the middle."""
    with pytest.raises(UpstreamUnavailable):
        await write(generator, sampling=Sampling(json_schema=SCHEMA), fail_at=9)


async def test_without_passages_no_json_is_made_up(generator: TritonGenerator) -> None:
    asked = Inquiry(question="Why?", sampling=Sampling(json_schema=SCHEMA))
    with pytest.raises(InvalidRequest, match="nothing to fill the JSON Schema with") as refused:
        [delta async for delta in generator.answer(asked, [], timeout_s=20)]
    assert (refused.value.code, refused.value.param) == ("no_evidence", "response_format")


async def test_an_answer_tells_the_version_that_wrote_it(generator: TritonGenerator) -> None:
    deltas = await write(generator, version="v7")
    assert [delta.version for delta in deltas if delta.version] == [deltas[-1].version] == ["v7"]
    assert (await write(generator))[-1].version == ""


async def test_an_answer_that_moved_tells_no_version(generator: TritonGenerator) -> None:
    """Where it went on there may be another one."""
    assert (await write(generator, version="v7", fail_at=33))[-1].version == ""


async def test_an_answer_that_keeps_failing_ends_with_the_error(generator: TritonGenerator) -> None:
    with pytest.raises(UpstreamUnavailable):
        await write(generator, fail_always=True)


async def test_a_failure_before_the_first_token_is_tried_once_more_and_told(
    generator: TritonGenerator,
) -> None:
    assert text_of(await write(generator, fail_at=0)) == SHOWN  # fail_at counts tokens made


async def test_a_slot_that_is_just_being_left_is_waited_for(generator: TritonGenerator) -> None:
    assert text_of(await write(generator, full=7, text="after seven refusals")) == "after seven refusals"


async def test_an_engine_that_stays_full_is_told_as_such(generator: TritonGenerator) -> None:
    with pytest.raises(UpstreamUnavailable) as refused:
        await write(generator, full=1_000_000, text="never")
    assert "engine_full" in refused.value.detail


@pytest.mark.parametrize(
    ("knobs", "error", "said"),
    [
        ({"refuse": "prompt_too_long: 99 tokens."}, PromptTooLong, "99 tokens."),
        ({"refuse": "top_p: not a number"}, UpstreamProtocolError, "malformed"),
        ({"bad": "utf8"}, UpstreamProtocolError, "malformed"),
        ({"bad": "ids"}, UpstreamProtocolError, "malformed"),
    ],
    ids=["too-long", "refused", "not-utf8", "no-ids"],
)
async def test_what_the_model_says_no_to_is_told_by_its_kind(
    generator: TritonGenerator, knobs: dict[str, object], error: type[TidegateError], said: str
) -> None:
    with pytest.raises(error, match=said):
        await write(generator, **knobs)


async def test_max_tokens_reaches_the_model(generator: TritonGenerator) -> None:
    deltas = await write(generator, sampling=Sampling(max_tokens=6))
    assert (text_of(deltas), deltas[-1].finish_reason) == ("A tide", "length")


async def test_nothing_is_written_from_memory_alone(generator: TritonGenerator) -> None:
    deltas = [delta async for delta in generator.answer(Inquiry(question="not even JSON"), [], timeout_s=20)]
    assert deltas == [Delta(text=NO_ANSWER, finish_reason="no_answer")]


async def test_a_question_over_the_context_never_reaches_triton(generator: TritonGenerator) -> None:
    with pytest.raises(PromptTooLong):
        await write(generator, padding="x" * 5000)
