"""The relay benchmark's model on a real Triton: the tensors and the manners of a generative tier."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing

import numpy as np
import pytest

from gateway.settings import load_settings
from gateway.tensors import generate_model
from gateway.triton import Outputs, TritonClient
from perf.relay_guard import MODELS
from perf.relay_service import TIER
from perf.relay_text import CHUNKS, chunk
from tests.fakes.triton_process import TritonProcess, free_port, running_triton

RELAY = generate_model(TIER)


@pytest.fixture(scope="module")
def triton(triton_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("relay")
    settings = load_settings({}, var=folder / "var", port=free_port())
    with running_triton(folder, [MODELS / TIER], settings) as process:
        yield process


async def ask(client: TritonClient, prompt: str, num_tokens: int, **inputs: int) -> list[Outputs]:
    values = {"prompt": prompt, "max_tokens": np.array([num_tokens], np.int32)}
    values |= {name: np.array([value], np.int32) for name, value in inputs.items()}
    return [outputs async for outputs in client.stream(RELAY, values, timeout_s=20)]


def text_of(answers: list[Outputs]) -> list[str]:
    return [outputs["text_output"][0].decode() for outputs in answers]


async def test_every_token_comes_in_a_message_of_its_own_when_asked(client: TritonClient) -> None:
    streams = await asyncio.gather(*(ask(client, "q", 64, coalesce_ms=0) for _ in range(32)))
    assert all(text_of(answers) == CHUNKS for answers in streams)


async def test_the_last_message_alone_says_why_it_ends(client: TritonClient) -> None:
    answers = await ask(client, "q", 8, coalesce_ms=0)
    assert ["finish_reason" in outputs for outputs in answers] == [False] * 7 + [True]
    assert answers[-1]["finish_reason"] == [b"length"]
    assert np.concatenate([outputs["output_ids"] for outputs in answers]).tolist() == list(range(8))


async def test_tokens_with_a_gap_share_messages_within_their_wait(client: TritonClient) -> None:
    answers = await ask(client, "gap_ms=20 coalesce_ms=80", 13)
    texts = text_of(answers)
    assert texts[0] == chunk(0)  # the first never waits
    assert "".join(texts) == "".join(map(chunk, range(13)))
    assert len(texts) <= 5


async def test_the_gap_is_kept(client: TritonClient) -> None:
    started = time.monotonic()
    await ask(client, "gap_ms=30", 6, coalesce_ms=0)
    assert time.monotonic() - started >= 0.15


async def test_no_tokens_asked_for_is_an_empty_answer(client: TritonClient) -> None:
    (answer,) = await ask(client, "q", 0)
    assert answer["finish_reason"] == [b"stop"]


async def test_a_stream_whose_client_leaves_is_dropped(client: TritonClient, triton: TritonProcess) -> None:
    """Many that would last for minutes are left, and the model still has room and an end."""
    inputs = {
        "prompt": "gap_ms=5",
        "max_tokens": np.array([100_000], np.int32),
        "coalesce_ms": np.array([0], np.int32),
    }
    for _ in range(20):
        async with aclosing(client.stream(RELAY, inputs, timeout_s=600)) as answers:
            await anext(answers)
    assert text_of(await ask(client, "q", 64, coalesce_ms=0)) == CHUNKS
