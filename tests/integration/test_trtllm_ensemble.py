"""The rendered ensemble on a real Triton, our two models in it; the C++ backend's place is taken by a stand-in."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.checkpoint.chat_format import ChatFormat
from gateway.checkpoint.trtllm_ensemble import EnsembleWish, write_repository
from gateway.errors import UpstreamError
from gateway.generation.ensemble_client import EnsembleClient
from gateway.ports import GenerationParams
from gateway.settings import load_settings
from gateway.triton import TritonClient
from tests.fakes.small_tokenizers import write_checkpoint
from tests.fakes.triton_process import FAKE_MODELS, MODELS, TritonProcess, free_port, running_triton

MAX_BATCH = 8
PROMPT = "The miller opens the gate at ebb; 水門は閉じた。🌊"


@dataclass
class Stand:
    triton: TritonProcess
    engine_dir: Path

    def ends(self) -> list[list[str]]:
        """Of requests, in order: id, how, tokens."""
        path = self.engine_dir / "ends"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def stand(triton_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("ensemble")
    engine_dir = write_checkpoint(folder / "engine")
    repository = folder / "repository"
    wish = EnsembleWish(engine_dir=engine_dir, max_batch=MAX_BATCH, llm_backend="python")
    write_repository(wish, MODELS / "trtllm_ensemble", repository)
    shutil.copy(
        FAKE_MODELS / "tensorrt_llm" / "1" / "model.py", repository / "tensorrt_llm" / "1" / "model.py"
    )
    settings = load_settings({}, var=folder / "var", port=free_port())
    with running_triton(folder / "triton", sorted(repository.iterdir()), settings) as process:
        yield Stand(process, engine_dir)


@pytest.fixture
async def client(stand: Stand) -> AsyncIterator[EnsembleClient]:
    made = TritonClient(stand.triton.target)
    yield EnsembleClient(made, MAX_BATCH)
    await made.close()


def prompt_ids(stand: Stand) -> list[int]:
    return ChatFormat.load(stand.engine_dir).encode_plain(PROMPT)


async def test_every_token_comes_once_and_in_order_however_many_streams_run(
    stand: Stand, client: EnsembleClient
) -> None:
    ids = prompt_ids(stand)

    async def one() -> list[int]:
        chunks = client.generate(PROMPT, GenerationParams(max_tokens=150), timeout_s=60)
        return [token async for chunk in chunks for token in chunk]

    expected = [ids[number % len(ids)] for number in range(150)]
    assert await asyncio.gather(*(one() for _ in range(12))) == [expected] * 12


async def test_a_stream_ends_with_its_last_token(stand: Stand, client: EnsembleClient) -> None:
    chunks = client.generate(
        PROMPT, GenerationParams(max_tokens=1, temperature=0.5, seed=2**63 - 1), timeout_s=20
    )
    async with asyncio.timeout(10):
        assert [chunk async for chunk in chunks] == [prompt_ids(stand)[:1]]


async def test_leaving_stops_the_request_where_the_gpu_works(stand: Stand, client: EnsembleClient) -> None:
    before = len(stand.ends())
    chunks: Any = client.generate(PROMPT, GenerationParams(max_tokens=5000), timeout_s=60)
    await anext(chunks)
    await chunks.aclose()
    async with asyncio.timeout(5):
        while len(stand.ends()) == before:  # noqa: ASYNC110 - another process writes the file
            await asyncio.sleep(0.01)
    _, how, count = stand.ends()[-1]
    assert how == "stopped"
    assert int(count) < 2500


async def test_a_text_that_is_none_is_refused_in_the_ensembles_words(client: EnsembleClient) -> None:
    broken: Any = b"\xff"
    with pytest.raises(UpstreamError) as caught:
        async for _ in client.generate(broken, GenerationParams(max_tokens=3), timeout_s=20):
            pass
    assert "not UTF-8" in caught.value.detail
