"""The model of ingest: the same vectors as `embed`, from a process that gives way to it."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from gateway.retrieval.triton_models import TritonEmbedder
from gateway.settings import load_settings
from gateway.tensors import EMBED_PASSAGES
from gateway.triton import TritonClient
from tests.fakes.triton_process import MODELS, TritonProcess, free_port, running_triton

TEXTS = ["The gate closes by itself.", "Low water.", "x " * 400]


@pytest.fixture(scope="module")
def triton(
    triton_installed: None, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("triton")
    (folder / "var").mkdir()
    (folder / "var" / "models").symlink_to(models_dir)
    settings = load_settings({}, var=folder / "var", port=free_port())
    models = [MODELS / "retrieval" / name for name in ("embed", "embed_passages")]
    with running_triton(folder, models, settings) as process:
        yield process


async def test_both_models_give_the_same_vectors(client: TritonClient) -> None:
    asked = [TritonEmbedder(client), TritonEmbedder(client, model=EMBED_PASSAGES)]
    query, passage = [await each.embed(TEXTS, role="passage", timeout_s=60) for each in asked]
    assert np.allclose(query, passage, atol=2e-3)


async def test_what_computes_runs_only_when_nothing_else_does(
    triton: TritonProcess, client: TritonClient
) -> None:
    (question,), (bulk,) = triton.stub_pids("embed"), triton.stub_pids("embed_passages")
    before = _seconds(bulk)
    await TritonEmbedder(client, model=EMBED_PASSAGES).embed(TEXTS * 20, role="passage", timeout_s=120)
    worked = {thread for thread, seconds in _seconds(bulk).items() if seconds - before.get(thread, 0) > 0.1}
    assert worked
    assert {os.sched_getscheduler(thread) for thread in {bulk, *worked}} == {os.SCHED_IDLE}
    assert os.SCHED_IDLE not in {os.sched_getscheduler(thread) for thread in _seconds(question)}


def _seconds(pid: int) -> dict[int, float]:
    """Processor time of each thread of a process so far."""
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}


async def test_a_question_does_not_stand_behind_a_batch_of_passages(client: TritonClient) -> None:
    """A batch of long texts takes far longer than a question is allowed to take beside it."""
    questions, bulk = TritonEmbedder(client), TritonEmbedder(client, model=EMBED_PASSAGES)
    texts = [f"{number} " + "passage " * 200 for number in range(32)]
    began = time.perf_counter()
    await bulk.embed(texts, role="passage", timeout_s=60)
    batch_s = time.perf_counter() - began
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            await bulk.embed(texts, role="passage", timeout_s=60)

    loads = [asyncio.create_task(load()) for _ in range(2)]
    waits = []
    for number in range(40):
        await asyncio.sleep(0.02)
        began = time.perf_counter()
        await questions.embed([f"What closes the gate, {number}?"], role="query", timeout_s=60)
        waits.append(time.perf_counter() - began)
    stop.set()
    await asyncio.gather(*loads)
    assert statistics.median(waits) < batch_s / 4
