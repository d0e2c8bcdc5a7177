"""What the adapter makes of the real vLLM, beyond what every engine keeps. Only with a GPU, the library and
VLLM_CHECKPOINT (tests/fakes/gpu_checkpoint.py); the stand-in (tests/fakes/vllm_library.py) keeps the same elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from gateway.errors import UpstreamError
from gateway.generation.gpu_engine import GpuEngine
from gateway.ports import GenerationParams, TokenStep
from tests.fakes.gpu_checkpoint import real_vllm, vllm_checkpoint

pytestmark = [
    pytest.mark.skipif(vllm_checkpoint() is None, reason="VLLM_CHECKPOINT names no checkpoint"),
    pytest.mark.timeout(300),
]

SLOTS, CONTEXT_TOKENS = 4, 1024
PROMPT = [5, 6, 7, 8]
END = 2
SCHEMA = {
    "type": "object",
    "properties": {"gate": {"enum": ["open", "closed"]}, "level": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["gate", "level"],
    "additionalProperties": False,
}  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def engine() -> AsyncIterator[GpuEngine]:
    """One for all but the last test of it, which closes it."""
    made = real_vllm(SLOTS, CONTEXT_TOKENS, {END})
    yield made
    await made.close()


async def steps_of(engine: GpuEngine, prompt: list[int], asked: GenerationParams) -> list[TokenStep]:
    return [step async for step in engine.generate(prompt, asked)]


async def tokens_of(engine: GpuEngine, prompt: list[int], asked: GenerationParams) -> list[int]:
    return [token for step in await steps_of(engine, prompt, asked) for token in step.token_ids]


def free(max_tokens: int = 24, **more: Any) -> GenerationParams:
    return GenerationParams(max_tokens=max_tokens, ignore_eos=True, **more)


async def test_tokens_come_while_they_are_made(engine: GpuEngine) -> None:
    steps = await steps_of(engine, PROMPT, free(200))
    assert len(steps) > 20
    assert sum(len(step.token_ids) for step in steps) == 200


async def test_an_end_token_of_ours_ends_the_output_and_is_in_it(engine: GpuEngine) -> None:
    """Not the checkpoint's own, which the library knows by itself: one that is only ours."""
    made = await tokens_of(engine, PROMPT, free(60))
    wanted = next(token for at, token in enumerate(made) if at > 4 and made.index(token) == at)
    backend: Any = engine._backend
    kept = backend._end_ids, engine._end_ids
    backend._end_ids, engine._end_ids = [wanted], frozenset({wanted})
    try:
        steps = await steps_of(engine, PROMPT, GenerationParams(max_tokens=60))
    finally:
        backend._end_ids, engine._end_ids = kept
    tokens = [token for step in steps for token in step.token_ids]
    assert tokens == made[: made.index(wanted) + 1]
    assert steps[-1].finish_reason == "stop"


async def test_the_checkpoints_own_end_token_is_in_the_output(engine: GpuEngine) -> None:
    for seed in range(400):
        asked = GenerationParams(max_tokens=1000, temperature=2.0, seed=seed)
        steps = await steps_of(engine, PROMPT, asked)
        if steps[-1].finish_reason == "stop":
            tokens = [token for step in steps for token in step.token_ids]
            assert tokens[-1] == END
            assert END not in tokens[:-1]
            return
    raise AssertionError("no output ended by itself")


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
async def test_a_schema_is_kept(engine: GpuEngine, temperature: float) -> None:
    """The weights are random, so the grammar alone makes it JSON."""
    folder = vllm_checkpoint()
    assert folder is not None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for seed in (1, 2, 3):
        asked = GenerationParams(
            max_tokens=900, temperature=temperature, seed=seed, json_schema=json.dumps(SCHEMA)
        )
        steps = await steps_of(engine, PROMPT, asked)
        text = tokenizer.decode([token for step in steps for token in step.token_ids])
        if steps[-1].finish_reason == "length":  # random weights may put in spaces without end
            assert text.lstrip().startswith("{")
            continue
        found = json.loads(text)
        assert set(found) == {"gate", "level"}
        assert found["gate"] in {"open", "closed"}


@pytest.mark.parametrize(
    "schema",
    ['{"type":"unheard of"}', '{"type":', '{"$ref":"#/nowhere"}'],
    ids=["type", "no JSON", "reference"],
)
async def test_a_schema_that_is_refused_fails_alone(engine: GpuEngine, schema: str) -> None:
    beside = asyncio.create_task(tokens_of(engine, [9], free(100)))
    with pytest.raises(UpstreamError, match="on this request") as caught:
        await tokens_of(engine, PROMPT, GenerationParams(max_tokens=8, json_schema=schema))
    print("said of", schema, ":", caught.value.detail)
    assert caught.value.detail
    assert caught.value.detail != "EngineGenerateError"
    assert len(await beside) == 100
    assert not engine.is_broken
    assert engine.load().num_running == 0


async def test_every_priority_is_served(engine: GpuEngine) -> None:
    made = await asyncio.gather(*(tokens_of(engine, PROMPT, free(50, priority=each)) for each in (0, 1, 2)))
    assert [len(tokens) for tokens in made] == [50, 50, 50]


async def test_a_long_prompt_is_read_in_parts_and_found_again(engine: GpuEngine) -> None:
    prompt = [5 + number % 700 for number in range(1000)]
    first, again = await tokens_of(engine, prompt, free(8)), await tokens_of(engine, prompt, free(8))
    assert len(first) == len(again) == 8


async def test_leaving_ends_the_request_in_the_library(engine: GpuEngine) -> None:
    backend: Any = engine._backend
    running: Any = engine.generate(PROMPT, free(900))
    async with contextlib.aclosing(running):
        await anext(running)
        assert backend._llm.output_processor.get_num_unfinished_requests() == 1
    assert backend._llm.output_processor.get_num_unfinished_requests() == 0
    assert engine.load().num_running == 0


async def test_what_runs_while_it_is_closed_ends_with_that_reason(engine: GpuEngine) -> None:
    running: Any = engine.generate(PROMPT, free(900))
    await anext(running)
    closing = asyncio.create_task(engine.close())
    with pytest.raises(UpstreamError, match="closed"):
        await rest_of(running, [])
    await closing
    assert not engine.is_broken


async def test_a_library_that_is_killed_breaks_the_engine_and_another_goes_on() -> None:
    """As a replica that died: what it had made is the other's prompt."""
    engine = real_vllm(SLOTS, CONTEXT_TOKENS, {END})
    whole = await tokens_of(engine, PROMPT, free(400))
    running: Any = engine.generate(PROMPT, free(400))
    made = (await anext(running)).token_ids
    kill_children()
    with pytest.raises(UpstreamError, match="on this batch"):
        await rest_of(running, made)
    assert engine.is_broken
    with pytest.raises(UpstreamError, match="is being replaced"):
        await tokens_of(engine, PROMPT, free(2))
    await engine.close()
    other = real_vllm(SLOTS, CONTEXT_TOKENS, {END})
    rest = await tokens_of(other, [*PROMPT, *made], free(400 - len(made)))
    await other.close()
    assert 0 < len(made) < 400
    assert len(rest) == 400 - len(made)
    assert rest[0] == whole[len(made)]  # a batch of another shape shifts the last bits, and later a choice


async def rest_of(running: Any, made: list[int]) -> None:
    async with contextlib.aclosing(running), asyncio.timeout(60):
        async for step in running:
            made += step.token_ids


def kill_children() -> None:
    """The library's own processes, which hold the GPU."""
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # of an engine that was closed before, not waited for yet
            if "resource_tracker" not in " ".join(each.cmdline()):
                each.kill()
