"""Real checkpoints through the real conversion and the real engine, held to the reference implementation."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.checkpoint.chat_format import ChatFormat
from gateway.checkpoint.prepare import prepare_checkpoint, prepared_folder
from gateway.errors import EngineFull, UpstreamError
from gateway.generation.answer_stream import Answer, AnswerStream
from gateway.generation.generate_wire import GenerateRequest
from gateway.generation.openvino_engine import OpenVinoEngine
from gateway.ports import GenerationParams
from tests.fakes.checkpoints import (
    ARCHITECTURES,
    CONTEXT_TOKENS,
    MAKING_S,
    NUM_TOKENS,
    Reference,
    TinyCheckpoint,
    tiny_checkpoints,
)

__all__ = ["tiny_checkpoints"]
pytestmark = pytest.mark.timeout(MAKING_S)

SLOTS = 32
GREEDY = GenerationParams(max_tokens=NUM_TOKENS, ignore_eos=True)


@pytest.fixture(params=ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, tiny_checkpoints: dict[str, TinyCheckpoint]) -> TinyCheckpoint:
    return tiny_checkpoints[request.param]


@pytest.fixture
def chat(tiny: TinyCheckpoint) -> ChatFormat:
    return ChatFormat.load(prepared_folder(tiny.tier(), tiny.models_dir))


@pytest_asyncio.fixture
async def engine(tiny: TinyCheckpoint, chat: ChatFormat) -> AsyncIterator[OpenVinoEngine]:
    tier = tiny.tier(slots=SLOTS)
    made = OpenVinoEngine(prepared_folder(tier, tiny.models_dir), tier, chat.end_ids)
    yield made
    await made.close()


async def tokens_of(engine: OpenVinoEngine, ids: list[int], asked: GenerationParams = GREEDY) -> list[int]:
    return [token_id async for step in engine.generate(ids, asked) for token_id in step.token_ids]


def request(prompt: str, **changes: Any) -> GenerateRequest:
    fields: dict[str, Any] = {
        "params": GREEDY,
        "stop": [],
        "continuation_ids": [],
        "coalesce_ms": 0,
        **changes,
    }
    return GenerateRequest(prompt=prompt, messages=None, **fields)


async def answers_of(engine: OpenVinoEngine, chat: ChatFormat, asked: GenerateRequest) -> list[Answer]:
    sent: list[Answer] = []
    await AnswerStream(engine, chat, CONTEXT_TOKENS, sent.append).run(asked)
    return sent


def text_of(answers: list[Answer]) -> str:
    return "".join(answer.text for answer in answers)


def ids_of(answers: list[Answer]) -> list[int]:
    return [token_id for answer in answers for token_id in answer.token_ids]


async def test_greedy_tokens_are_the_references(engine: OpenVinoEngine, tiny: TinyCheckpoint) -> None:
    for reference in tiny.references:
        assert await tokens_of(engine, reference.prompt_ids) == reference.output_ids
        assert len(set(reference.output_ids)) > NUM_TOKENS / 4, "a text in a loop would prove little"


async def test_32_at_once_get_the_tokens_that_they_get_alone(
    engine: OpenVinoEngine, tiny: TinyCheckpoint
) -> None:
    asked = [tiny.references[number % len(tiny.references)] for number in range(32)]
    found = await asyncio.gather(*(tokens_of(engine, reference.prompt_ids) for reference in asked))
    assert found == [reference.output_ids for reference in asked]


async def test_those_that_come_late_and_leave_early_disturb_none(
    engine: OpenVinoEngine, tiny: TinyCheckpoint
) -> None:
    """Shared beginnings, so that the cache of prefixes is in play; leavers in the middle of it."""
    chance = random.Random(5)

    async def leaver(reference: Reference) -> None:
        running: Any = engine.generate(reference.prompt_ids, GREEDY)
        async with aclosing(running):
            for _ in range(chance.randrange(5)):
                await anext(running)

    async def one(number: int) -> None:
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        reference = tiny.references[number % len(tiny.references)]
        try:
            if number % 3 == 0:
                await leaver(reference)
            else:
                assert await tokens_of(engine, reference.prompt_ids) == reference.output_ids
        except EngineFull:
            assert engine.load().num_running == SLOTS

    await asyncio.gather(*(one(number) for number in range(60)))


async def test_ids_and_template_are_the_references(tiny: TinyCheckpoint, chat: ChatFormat) -> None:
    for reference in tiny.references:
        assert chat.encode(reference.prompt) == reference.prompt_ids
        assert chat.render([{"role": "user", "content": reference.prompt}]) == reference.template


async def test_every_piece_is_whole_text_and_all_of_them_are_the_references(
    engine: OpenVinoEngine, tiny: TinyCheckpoint, chat: ChatFormat
) -> None:
    seen = ""
    for reference in tiny.references:
        answers = await answers_of(engine, chat, request(reference.prompt))
        for answer in answers:
            answer.text.encode()
        assert text_of(answers) == reference.text[: len(text_of(answers))]
        assert reference.text[len(text_of(answers)) :].strip("\ufffd") == ""
        assert answers[-1].num_input_tokens == len(reference.prompt_ids)
        seen += reference.text
    assert any(ord(char) > 0xFFFF for char in seen), "no emoji was made"
    assert any(0x3000 < ord(char) < 0xA000 for char in seen), "no CJK was made"


async def test_stop_strings_across_the_borders_of_tokens_end_the_text_there(
    engine: OpenVinoEngine, tiny: TinyCheckpoint, chat: ChatFormat
) -> None:
    """Every text of 3 characters of the reference's output is a stop string once."""
    reference = tiny.references[0]
    text = reference.text.rstrip("\ufffd")
    for at in range(0, len(text) - 3, 2):
        stop = text[at : at + 3]
        answers = await answers_of(engine, chat, request(reference.prompt, stop=[stop]))
        assert text_of(answers) == text[: text.find(stop)]
        assert answers[-1].finish_reason == "stop"


@pytest.mark.parametrize("with_stop", [False, True], ids=["no stop", "a stop string"])
async def test_a_continuation_goes_on_exactly_at_every_cut(
    engine: OpenVinoEngine, tiny: TinyCheckpoint, chat: ChatFormat, with_stop: bool
) -> None:
    """The engine computes the rest anew from prompt and continuation: token for token the same, and so the text."""
    for reference in tiny.references[:4]:
        text = reference.text.rstrip("\ufffd")
        stop = [text[-8:-2], text[5:8] + "never"] if with_stop else []
        whole = await answers_of(engine, chat, request(reference.prompt, stop=stop))
        ids = ids_of(whole)
        heard = {0: ""}
        for answer in whole:
            num_ids, before = list(heard.items())[-1]
            heard[num_ids + len(answer.token_ids)] = before + answer.text
        rests = await asyncio.gather(
            *(
                answers_of(engine, chat, request(reference.prompt, stop=stop, continuation_ids=ids[:cut]))
                for cut in range(0, len(ids), 2)
            )
        )
        for cut, rest in zip(range(0, len(ids), 2), rests, strict=True):
            assert ids_of(rest) == ids[cut:]
            assert text_of(whole).endswith(text_of(rest))
            assert rest[-1].finish_reason == whole[-1].finish_reason
            if cut in heard:
                assert heard[cut] + text_of(rest) == text_of(whole)


@pytest.mark.parametrize("weights", ["int8", "int4", "bf16"])
async def test_every_kind_of_weights_is_converted_once_and_runs(
    tiny_checkpoints: dict[str, TinyCheckpoint], weights: str
) -> None:
    tiny = tiny_checkpoints["qwen2"]
    tier = tiny.tier(weights=weights)
    folder = prepare_checkpoint(tier, tiny.models_dir, "", print)
    exact = prepared_folder(tiny.tier(), tiny.models_dir)
    smaller = {"int8": 0.35, "int4": 0.25, "bf16": 0.55}[weights]
    assert (folder / "openvino_model.bin").stat().st_size < smaller * (
        exact / "openvino_model.bin"
    ).stat().st_size
    assert json.loads((folder / "manifest.json").read_text())["weights"] == weights
    engine = OpenVinoEngine(folder, tier, {2})
    made = await tokens_of(engine, tiny.references[0].prompt_ids)
    await engine.close()
    assert len(made) == NUM_TOKENS
    assert prepare_checkpoint(tier, tiny.models_dir, "/nothing/here", print) == folder


ON_ONE_CORE = """
import json, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from gateway.generation.openvino_engine import OpenVinoEngine
from gateway.tier_config import GenerateTier
OpenVinoEngine(Path(sys.argv[1]), GenerateTier(**json.loads(sys.argv[2])), {2})
"""


@pytest.mark.parametrize("num_threads", [0, 2])
async def test_bf16_on_one_core_does_not_end_the_process(
    tiny_checkpoints: dict[str, TinyCheckpoint], num_threads: int
) -> None:
    tiny = tiny_checkpoints["qwen2"]
    tier = tiny.tier(weights="bf16", num_threads=num_threads)
    folder = prepare_checkpoint(tier, tiny.models_dir, "", print)
    argv = [sys.executable, "-c", ON_ONE_CORE, str(folder), json.dumps(msgspec.structs.asdict(tier))]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


async def test_a_conversion_that_was_cut_off_is_made_anew(
    tiny_checkpoints: dict[str, TinyCheckpoint], tmp_path: Path
) -> None:
    tiny = tiny_checkpoints["llama"]

    class Enough(Exception):
        pass

    def stop_in_the_middle(line: str) -> None:
        if "converting llama" in line:
            raise Enough

    with pytest.raises(Enough):
        prepare_checkpoint(tiny.tier(), tmp_path, "", stop_in_the_middle)
    assert [path.name for path in (tmp_path / "generate").iterdir()] == [".lock"]
    folder = prepare_checkpoint(tiny.tier(), tmp_path, "", print)
    engine = OpenVinoEngine(folder, tiny.tier(), {2})
    assert await tokens_of(engine, tiny.references[0].prompt_ids) == tiny.references[0].output_ids
    await engine.close()


async def test_a_step_that_fails_ends_every_request_and_the_engine_says_that_it_is_broken(
    engine: OpenVinoEngine, tiny: TinyCheckpoint
) -> None:
    class Failing:
        """The real pipeline, but for its steps."""

        def __init__(self, pipeline: Any) -> None:
            self._pipeline = pipeline

        def step(self) -> None:
            raise RuntimeError("out of memory")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pipeline, name)

    reference = tiny.references[0]
    running: Any = engine.generate(reference.prompt_ids, GREEDY)
    await anext(running)
    whole = engine._pipeline
    engine._pipeline = Failing(whole)
    with pytest.raises(UpstreamError) as caught:
        async for _ in running:
            pass
    assert caught.value.detail == "out of memory"
    assert engine.is_broken
    assert engine.load().num_running == 0
    with pytest.raises(UpstreamError, match="has failed and is being replaced"):
        await tokens_of(engine, reference.prompt_ids)
    while whole.has_non_finished_requests():
        whole.step()


async def test_closing_ends_what_runs(engine: OpenVinoEngine, tiny: TinyCheckpoint) -> None:
    running: Any = engine.generate(tiny.references[0].prompt_ids, GREEDY)
    await anext(running)
    await engine.close()
    with pytest.raises(UpstreamError, match="is being closed"):
        async for _ in running:
            pass
