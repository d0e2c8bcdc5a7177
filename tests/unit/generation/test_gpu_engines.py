"""What the adapters ask of TensorRT-LLM and vLLM, and what they make of their failures."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gateway.errors import InvalidRequest, UpstreamError
from gateway.generation.engines import open_engine
from gateway.generation.gpu_engine import EngineMissing, GpuEngine
from gateway.generation.openvino_engine import OpenVinoEngine
from gateway.generation.trtllm_engine import open_trtllm
from gateway.generation.vllm_engine import open_vllm
from gateway.ports import GenerationParams, TokenStep
from gateway.tier_config import GenerateTier
from tests.fakes import trtllm_library, vllm_library
from tests.fakes.token_engine import random_tokens

PROMPT = [5, 6, 7]
SCHEMA = '{"type":"object"}'
MADE = random_tokens(PROMPT, None, 200, 768)  # what greedy makes of it in both stand-ins
END = MADE[5]


@dataclass
class Bench:
    """llm: the library's own engine, with what was asked of it."""

    engine: GpuEngine
    llm: Any

    @property
    def asked(self) -> Any:
        return self.llm.asked[-1]


def tier(folder: Path, **fields: Any) -> GenerateTier:
    (folder / "config.json").write_text(json.dumps({"vocab_size": 768}))
    return GenerateTier(checkpoint=str(folder), slots=2, context_tokens=256, **fields)


def trtllm(folder: Path, end_ids: set[int], **fields: Any) -> Bench:
    library = trtllm_library.library()
    engine = open_trtllm(folder, tier(folder, engine="tensorrt_llm", **fields), end_ids, library)
    return Bench(engine, library.llm)


def vllm(folder: Path, end_ids: set[int], **fields: Any) -> Bench:
    library, kept = vllm_library.library()
    engine = open_vllm(folder, tier(folder, engine="vllm", **fields), end_ids, library)
    return Bench(engine, kept.made)


@pytest.fixture(params=[trtllm, vllm], ids=["tensorrt_llm", "vllm"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    made: Bench = request.param(tmp_path, {END})
    return made


async def steps_of(bench: Bench, max_tokens: int = 20, **asked: Any) -> list[TokenStep]:
    return [
        step async for step in bench.engine.generate(PROMPT, GenerationParams(max_tokens=max_tokens, **asked))
    ]


async def tokens_of(bench: Bench, max_tokens: int = 20, **asked: Any) -> list[int]:
    return [token for step in await steps_of(bench, max_tokens, **asked) for token in step.token_ids]


async def test_the_output_ends_with_the_end_token(bench: Bench) -> None:
    steps = await steps_of(bench)
    assert [token for step in steps for token in step.token_ids] == MADE[:6]
    assert steps[-1].finish_reason == "stop"


async def test_what_the_library_would_not_stop_at_is_told_it(bench: Bench) -> None:
    await tokens_of(bench)
    assert bench.asked[0].stop_token_ids == [END]
    await tokens_of(bench, ignore_eos=True)
    assert bench.asked[0].ignore_eos
    assert not bench.asked[0].stop_token_ids


async def test_a_continuation_gives_what_the_whole_would_have(bench: Bench) -> None:
    asked = GenerationParams(max_tokens=10, ignore_eos=True)
    prompt = [*PROMPT, *MADE[:4]]
    made = [token async for step in bench.engine.generate(prompt, asked) for token in step.token_ids]
    assert made == random_tokens(prompt, None, 10, 768)


async def test_a_schema_goes_to_the_library(bench: Bench) -> None:
    await tokens_of(bench, 3, json_schema=SCHEMA)
    params = bench.asked[0]
    guide = params.guided_decoding if hasattr(params, "guided_decoding") else params.structured_outputs
    assert guide.json == SCHEMA


async def test_a_schema_that_the_library_refuses_fails_alone(bench: Bench) -> None:
    with pytest.raises(UpstreamError, match="on this request") as caught:
        await tokens_of(bench, 3, json_schema='{"type":"unheard of"}')
    assert "not understood" in caught.value.detail
    assert bench.engine.load().num_running == 0
    assert not bench.engine.is_broken
    assert len(await tokens_of(bench, 3)) == 3


async def test_a_request_that_fails_in_the_middle_harms_no_other(bench: Bench) -> None:
    bench.llm.poison = {MADE[2]}
    other = GenerationParams(max_tokens=12, ignore_eos=True)
    beside = asyncio.create_task(collect(bench.engine, [9], other))
    with pytest.raises(UpstreamError, match="on this request") as caught:
        await tokens_of(bench)
    assert "cannot be served" in caught.value.detail
    assert len(await beside) == 12
    assert not bench.engine.is_broken


async def collect(engine: GpuEngine, prompt: list[int], asked: GenerationParams) -> list[int]:
    return [token async for step in engine.generate(prompt, asked) for token in step.token_ids]


async def test_a_library_that_died_breaks_the_engine(bench: Bench) -> None:
    running: Any = bench.engine.generate(PROMPT, GenerationParams(max_tokens=50))
    async with aclosing(running):
        await anext(running)
        bench.llm.is_dead = True
        with pytest.raises(UpstreamError, match="on this batch"):
            await anext(running)
    assert bench.engine.is_broken
    with pytest.raises(UpstreamError, match="is being replaced"):
        await tokens_of(bench)


async def test_what_runs_while_it_is_closed_ends_with_that_reason(bench: Bench) -> None:
    running: Any = bench.engine.generate(PROMPT, GenerationParams(max_tokens=50))
    async with aclosing(running):
        await anext(running)
        await bench.engine.close()
        with pytest.raises(UpstreamError, match="closed"):
            await anext(running)
    assert not bench.engine.is_broken


async def test_leaving_ends_the_request_in_the_library_before_its_slot_is_free(bench: Bench) -> None:
    running: Any = bench.engine.generate(PROMPT, GenerationParams(max_tokens=200, ignore_eos=True))
    await anext(running)
    await running.aclose()
    assert bench.engine.load().num_running == 0
    assert not getattr(bench.llm, "requests", None)
    assert not getattr(bench.llm, "running", None)


async def test_greedy_and_sampled_are_asked_for_as_the_library_wants_it(tmp_path: Path) -> None:
    made = trtllm(tmp_path, {END})
    await tokens_of(made, 3)
    assert (made.asked[0].top_k, made.asked[0].temperature) == (1, None)
    await tokens_of(made, 3, temperature=0.7, top_p=0.9, seed=11)
    assert (made.asked[0].temperature, made.asked[0].top_p, made.asked[0].seed) == (0.7, 0.9, 11)
    await tokens_of(made, 3, temperature=0.7)
    assert made.asked[0].seed  # its own default is 0 for everybody
    assert made.asked[0].include_stop_str_in_output


async def test_priorities_are_turned_for_each_library(tmp_path: Path) -> None:
    made, other = trtllm(tmp_path, {END}), vllm(tmp_path, {END})
    found: list[tuple[float, int]] = []
    for priority in (0, 1, 2, 7):
        await tokens_of(made, 2, priority=priority)
        await tokens_of(other, 2, priority=priority)
        found.append((made.asked[1], other.asked[1]))
    assert found == [(0.75, 0), (0.5, 1), (0.25, 2), (0.25, 7)]
    assert made.llm.arguments["scheduler_config"].waiting_queue_policy == "priority"
    assert other.llm.arguments.scheduling_policy == "priority"


def without_priorities() -> Any:
    """The library as of 1.2: no argument of that name."""
    library = trtllm_library.library()

    class Older(library.LLM):  # type: ignore[misc, name-defined]
        def generate_async(
            self, inputs: list[int], sampling_params: Any = None, *, streaming: bool = False
        ) -> Any:
            return super().generate_async(inputs, sampling_params, streaming=streaming)

    library.LLM = Older
    return library


async def test_a_library_without_priorities_is_not_asked_for_them(tmp_path: Path) -> None:
    library = without_priorities()
    engine = open_trtllm(tmp_path, tier(tmp_path, engine="tensorrt_llm"), {END}, library)
    assert len(await tokens_of(Bench(engine, library.llm), 3, priority=2)) == 3
    assert library.llm.arguments["scheduler_config"] is None


def test_the_tier_becomes_the_libraries_arguments(tmp_path: Path) -> None:
    fields = {
        "tensor_parallel": 2,
        "pipeline_parallel": 3,
        "gpu_memory": 0.8,
        "batch_tokens": 4096,
        "kv_cache": "fp8",
    }
    arguments = trtllm(tmp_path, {END}, **fields).llm.arguments
    assert (arguments["tensor_parallel_size"], arguments["pipeline_parallel_size"]) == (2, 3)
    assert (arguments["max_batch_size"], arguments["max_num_tokens"], arguments["max_seq_len"]) == (
        2,
        4096,
        256,
    )
    cache = arguments["kv_cache_config"]
    assert (cache.enable_block_reuse, cache.free_gpu_memory_fraction, cache.dtype) == (True, 0.8, "fp8")
    assert cache.max_tokens == 2 * 256
    other = vllm(tmp_path, {END}, **fields).llm.arguments
    assert (other.tensor_parallel_size, other.pipeline_parallel_size) == (2, 3)
    assert (other.max_num_seqs, other.max_num_batched_tokens, other.max_model_len) == (2, 4096, 256)
    assert (other.enable_prefix_caching, other.gpu_memory_utilization, other.kv_cache_dtype) == (
        True,
        0.8,
        "fp8",
    )


@pytest.mark.parametrize("kind", ["tensorrt_llm", "vllm"])
def test_a_library_that_is_not_there_is_named_with_its_image(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(
        EngineMissing, match=rf'engine = "{kind}" needs .* in the Python that Triton runs .*image'
    ):
        open_engine(tmp_path, tier(tmp_path, engine=kind), {END})


@pytest.mark.parametrize(
    ("kind", "version", "name"), [("tensorrt_llm", "0.21.0", "TensorRT-LLM"), ("vllm", "0.9.2", "vLLM")]
)
def test_a_library_that_is_too_old_is_refused(
    kind: str, version: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType(kind)
    module.__version__ = version
    monkeypatch.setitem(sys.modules, kind, module)
    monkeypatch.setitem(sys.modules, f"{kind}.llmapi", ModuleType("llmapi"))
    with pytest.raises(EngineMissing, match=rf"{name} {version} is too old"):
        open_engine(tmp_path, tier(tmp_path, engine=kind), {END})


async def test_the_installed_libraries_are_imported_when_a_tier_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = trtllm_library.library()
    monkeypatch.setitem(sys.modules, "tensorrt_llm", library)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", library.llmapi)
    engine = open_engine(tmp_path, tier(tmp_path, engine="tensorrt_llm"), {END})
    assert len(await tokens_of(Bench(engine, library.llm), 3)) == 3  # type: ignore[arg-type]

    names, kept = vllm_library.library()
    modules = {
        "vllm": SimpleNamespace(__version__="0.24.0"),
        "vllm.sampling_params": SimpleNamespace(
            SamplingParams=names.sampling_params,
            StructuredOutputsParams=names.structured_outputs,
            RequestOutputKind=names.output_kind,
        ),
        "vllm.v1.engine.async_llm": SimpleNamespace(AsyncLLM=names.async_llm),
        "vllm.engine.arg_utils": SimpleNamespace(AsyncEngineArgs=names.engine_args),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    engine = open_engine(tmp_path, tier(tmp_path, engine="vllm"), {END})
    assert len(await tokens_of(Bench(engine, kept.made), 3)) == 3  # type: ignore[arg-type]


async def test_the_engine_on_the_processor_refuses_a_schema() -> None:
    engine = object.__new__(OpenVinoEngine)
    running: Any = engine.generate(PROMPT, GenerationParams(max_tokens=1, json_schema=SCHEMA))
    with pytest.raises(InvalidRequest, match="openvino"):
        await anext(running)
