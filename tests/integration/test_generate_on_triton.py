"""`generate` on a real Triton: two tiers of two architectures side by side, over real gRPC."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamUnavailable
from gateway.tensors import generate_model
from gateway.triton import Outputs, TritonClient
from tests.fakes.checkpoints import CONTEXT_TOKENS, MAKING_S, NUM_TOKENS, TinyCheckpoint, tiny_checkpoints
from tests.fakes.triton_process import TritonProcess, running_tiers

__all__ = ["tiny_checkpoints"]
pytestmark = pytest.mark.timeout(MAKING_S)

TIERS = {"small": "llama", "other": "qwen2"}
SLOTS = 32
FREED_S = 0.3  # 0.1 on an idle machine; on a busy one the look itself takes a part of that


@pytest.fixture(scope="module")
def triton(
    triton_installed: None,
    tiny_checkpoints: dict[str, TinyCheckpoint],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("generate")
    tables = [tiny_checkpoints[kind].table(name, slots=SLOTS) for name, kind in TIERS.items()]
    with running_tiers(folder, tiny_checkpoints["llama"].models_dir, *tables, model_version="v7") as process:
        yield process


def inputs(prompt: str | None = "A tide gate", **values: Any) -> dict[str, Any]:
    made: dict[str, Any] = {} if prompt is None else {"prompt": prompt.encode()}
    made |= {"max_tokens": np.array([NUM_TOKENS], np.int32), "ignore_eos": np.array([True])}
    dtypes = {"temperature": np.float32, "top_p": np.float32, "seed": np.int64}
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = np.array([value], dtypes.get(name, np.int32))
        elif isinstance(value, list):
            value = np.array(value, np.int32) if name == "continuation_ids" else json.dumps(value).encode()
        made[name] = value
    return made


async def messages_of(client: TritonClient, asked: dict[str, Any], tier: str = "small") -> list[Outputs]:
    return [outputs async for outputs in client.stream(generate_model(tier), asked, timeout_s=60)]


def ids_of(messages: list[Outputs]) -> list[int]:
    return [int(token_id) for outputs in messages for token_id in outputs["output_ids"]]


def text_of(messages: list[Outputs]) -> str:
    return "".join(outputs["text_output"][0].decode() for outputs in messages)  # type: ignore[union-attr]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("coalesce_ms", [0, -1, 10_000], ids=["at once", "by load", "together"])
async def test_greedy_tokens_and_text_are_the_references(
    client: TritonClient, tiny_checkpoints: dict[str, TinyCheckpoint], tier: str, coalesce_ms: int
) -> None:
    for reference in tiny_checkpoints[TIERS[tier]].references:
        messages = await messages_of(client, inputs(reference.prompt, coalesce_ms=coalesce_ms), tier)
        assert ids_of(messages) == reference.output_ids
        assert text_of(messages) == reference.text[: len(text_of(messages))]
        assert reference.text[len(text_of(messages)) :].strip("\ufffd") == ""
        if coalesce_ms > 0:
            assert len(messages) <= 2


async def test_deltas_carry_text_and_ids_and_the_last_message_the_rest(
    client: TritonClient, tiny_checkpoints: dict[str, TinyCheckpoint]
) -> None:
    messages = await messages_of(client, inputs(coalesce_ms=0))
    assert all(set(outputs) == {"text_output", "output_ids"} for outputs in messages[:-1])
    assert set(messages[-1]) == {"text_output", "output_ids", "finish_reason", "num_input_tokens", "version"}
    assert messages[-1]["version"] == [b"v7"]
    assert messages[-1]["finish_reason"] == [b"length"]
    expected = tiny_checkpoints["llama"].references[0]
    assert messages[-1]["num_input_tokens"].tolist() == [len(expected.prompt_ids)]  # type: ignore[union-attr]


async def test_32_streams_at_once_over_both_tiers_get_what_they_get_alone(
    client: TritonClient, tiny_checkpoints: dict[str, TinyCheckpoint]
) -> None:
    asked = [
        (tier, tiny_checkpoints[kind].references[number % 8])
        for number in range(32)
        for tier, kind in TIERS.items()
    ]
    found = await asyncio.gather(
        *(messages_of(client, inputs(reference.prompt, coalesce_ms=0), tier) for tier, reference in asked)
    )
    assert [ids_of(messages) for messages in found] == [reference.output_ids for _, reference in asked]


async def test_messages_go_through_the_checkpoints_template(
    client: TritonClient, tiny_checkpoints: dict[str, TinyCheckpoint]
) -> None:
    reference = tiny_checkpoints["llama"].references[0]
    chat = [{"role": "user", "content": reference.prompt}]
    by_messages = await messages_of(client, inputs(None, messages=chat))
    by_prompt = await messages_of(client, inputs(reference.template))
    assert ids_of(by_messages) == ids_of(by_prompt)


async def test_a_stop_string_ends_the_stream(
    client: TritonClient, tiny_checkpoints: dict[str, TinyCheckpoint]
) -> None:
    text = tiny_checkpoints["llama"].references[0].text
    messages = await messages_of(client, inputs(stop=[text[20:24]]))
    assert text_of(messages) == text[: text.find(text[20:24])]
    assert messages[-1]["finish_reason"] == [b"stop"]


async def test_a_stream_that_was_left_is_continued_by_its_ids(
    client: TritonClient, tiny_checkpoints: dict[str, TinyCheckpoint]
) -> None:
    """As after a replica's death: what was heard, and what the next one adds, are the whole."""
    reference = tiny_checkpoints["llama"].references[1]
    heard: list[Outputs] = []
    stream = client.stream(generate_model("small"), inputs(reference.prompt, coalesce_ms=0), timeout_s=60)
    async with aclosing(stream):
        async for outputs in stream:
            heard.append(outputs)
            if len(heard) == 7:
                break
    rest = await messages_of(client, inputs(reference.prompt, continuation_ids=ids_of(heard)))
    assert ids_of(heard) + ids_of(rest) == reference.output_ids
    assert (text_of(heard) + text_of(rest)).rstrip("\ufffd") == reference.text.rstrip("\ufffd")


async def test_an_equal_seed_repeats_also_under_load(client: TritonClient) -> None:
    asked = inputs(temperature=1.0, top_p=0.95, seed=7)
    alone = ids_of(await messages_of(client, asked))
    together = await asyncio.gather(
        *(messages_of(client, asked if number == 5 else inputs(temperature=1.0)) for number in range(16))
    )
    assert ids_of(together[5]) == alone
    assert ids_of(await messages_of(client, inputs(temperature=1.0, top_p=0.95, seed=8))) != alone


async def test_asking_for_no_tokens_shows_that_the_engine_lives(client: TritonClient) -> None:
    (only,) = await messages_of(client, {"max_tokens": np.array([0], np.int32)})
    assert only["finish_reason"] == [b"length"]
    assert ids_of([only]) == []


# Slots


def gauges(triton: TritonProcess, tier: str = "small") -> dict[str, float]:
    """What the engine itself counts, as Triton's metrics show it."""
    port = triton.settings.triton_ports(0)[2]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = [
        line.split() for line in lines if line.startswith("tidegate_generate_") and f'tier="{tier}"' in line
    ]
    return {name.partition("{")[0].removeprefix("tidegate_generate_"): float(value) for name, value in found}


async def until_running(triton: TritonProcess, number: int, limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while (await asyncio.to_thread(gauges, triton))["running"] != number:  # noqa: ASYNC110 - a poll it is
            await asyncio.sleep(0.005)


async def open_streams(client: TritonClient, number: int) -> list[Any]:
    asked = inputs(max_tokens=900, coalesce_ms=0)
    streams = [client.stream(generate_model("small"), asked, timeout_s=60) for _ in range(number)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    return streams


async def test_the_engines_own_count_is_in_tritons_metrics(
    triton: TritonProcess, client: TritonClient
) -> None:
    streams = await open_streams(client, 3)
    await until_running(triton, 3)
    shown = gauges(triton)
    assert shown["slots"] == SLOTS
    assert 0 < shown["kv_usage"] <= 1
    assert gauges(triton, "other")["running"] == 0
    for stream in streams:
        await stream.aclose()
    await until_running(triton, 0)


async def test_a_client_that_leaves_frees_its_slot_at_once(
    triton: TritonProcess, client: TritonClient
) -> None:
    """By the engine's own count, which is shown every 40 ms; the look itself takes a few ms more."""
    took_s = []
    for _ in range(5):
        streams = await open_streams(client, 4)
        await until_running(triton, 4)
        left_s = time.monotonic()
        for stream in streams:
            await stream.aclose()
        await until_running(triton, 0)
        took_s.append(time.monotonic() - left_s)
    assert sorted(took_s)[2] <= FREED_S, took_s


async def test_more_streams_than_slots_are_refused_at_once(
    triton: TritonProcess, client: TritonClient
) -> None:
    streams = await open_streams(client, SLOTS)
    with pytest.raises(UpstreamUnavailable) as caught:
        await messages_of(client, inputs())
    assert "engine_full: all 32 slots are taken." in caught.value.detail
    for stream in streams:
        await stream.aclose()
    await until_running(triton, 0)
    assert len(ids_of(await messages_of(client, inputs()))) == NUM_TOKENS


async def test_a_storm_of_leavers_harms_nobody(
    triton: TritonProcess, client: TritonClient, tiny_checkpoints: dict[str, TinyCheckpoint]
) -> None:
    """Sending while other streams are cancelled has crashed this Triton's stub before."""
    (pid,) = triton.stub_pids("small")
    reference = tiny_checkpoints["llama"].references[2]

    async def leaver(number: int) -> None:
        stream = client.stream(generate_model("small"), inputs(max_tokens=300, coalesce_ms=0), timeout_s=60)
        async with aclosing(stream):
            for _ in range(number % 5):
                await anext(stream)

    async def stayer() -> None:
        assert ids_of(await messages_of(client, inputs(reference.prompt))) == reference.output_ids

    refusals: list[str] = []

    async def storm(slot: int) -> None:
        for number in range(15):
            try:
                await (stayer() if (slot + number) % 4 == 0 else leaver(slot + number))
            except UpstreamError as error:
                refusals.append(error.detail)

    await asyncio.gather(*(storm(slot) for slot in range(24)))
    await until_running(triton, 0)
    assert all("engine_full" in detail for detail in refusals)
    assert triton.stub_pids("small") == [pid]
    await stayer()


# Bad input


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a prompt beyond the context": (inputs("水 " * 3000), "prompt_too_long: the prompt has "),
    "neither prompt nor messages": (inputs(None), "prompt: give either"),
    "both": (inputs(messages=[{"role": "user", "content": "x"}]), "prompt: give either"),
    "invalid JSON": (inputs(None, messages=b"[{"), "messages: "),
    "invalid UTF-8": ({**inputs(None), "prompt": b"\xff\xfe"}, "prompt: not UTF-8"),
    "an empty prompt": (inputs(""), "prompt: it has no tokens."),
    "temperature is NaN": (inputs(temperature=float("nan")), "temperature: nan"),
    "100,000 stop strings": (inputs(stop=["x"] * 100_000), "stop: 100000 texts"),
    "continuation beyond the vocabulary": (
        inputs(continuation_ids=[5, 768]),
        "continuation_ids: 768 is no token",
    ),
    "a negative continuation": (inputs(continuation_ids=[-1]), "continuation_ids: -1 is no token"),
    "a long continuation": (inputs(continuation_ids=[5] * 100_000), "continuation_ids: 100000 tokens"),
    "max_tokens is negative": (inputs(max_tokens=-5), "max_tokens: -5"),
}


@pytest.mark.parametrize(("asked", "sentence"), BAD.values(), ids=BAD.keys())
async def test_bad_input_is_one_error_that_says_what_and_takes_no_slot(
    triton: TritonProcess, client: TritonClient, asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        await messages_of(client, asked)
    assert caught.value.detail.startswith("small: INVALID_ARGUMENT: ")
    assert sentence in caught.value.detail
    assert len(caught.value.detail) < 400
    await until_running(triton, 0)


async def test_a_prompt_of_all_the_context_but_one_token_gets_that_one(client: TritonClient) -> None:
    prompt = "<|im_start|>" * (CONTEXT_TOKENS - 1)
    messages = await messages_of(client, inputs(prompt))
    assert len(ids_of(messages)) == 1
    assert messages[-1]["finish_reason"] == [b"length"]
