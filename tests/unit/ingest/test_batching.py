"""Texts of many callers in full batches: who goes with whom, who waits, and whom a failure touches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from gateway.errors import UpstreamError, UpstreamProtocolError
from gateway.ingest.batching import Batcher, Vectors


class Model:
    """Each text's vector is its length. Batches wait for `go`."""

    def __init__(self, refuses: str = "-") -> None:
        self.batches: list[list[str]] = []
        self.embedders: list[str] = []
        self.go = asyncio.Event()
        self.refuses = refuses
        self.num_cancelled = 0

    async def embed(self, texts: list[str], embedder: str) -> Vectors:
        self.batches.append(texts)
        self.embedders.append(embedder)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if any(self.refuses in text for text in texts):
            raise UpstreamError("refused")
        return np.array([[len(text)] for text in texts], np.float32)


def ignore(_count: int) -> None: ...


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def embed(
    batcher: Batcher, texts: list[str], embedder: str = "a", told: Callable[[int], None] = ignore
) -> list[float]:
    return [float(row[0]) for row in await batcher.embed(texts, embedder, told)]


async def test_each_caller_gets_its_own_vectors_in_its_own_order() -> None:
    model = Model()
    model.go.set()
    batcher = Batcher(model.embed, size=4, num_inflight=2)
    wanted = [["x" * ((7 * number + place) % 13 + 1) for place in range(9)] for number in range(5)]
    found = await asyncio.gather(*(embed(batcher, texts) for texts in wanted))
    assert found == [[len(text) for text in texts] for texts in wanted]
    assert max(map(len, model.batches)) == 4


async def test_small_files_share_a_batch_while_the_model_is_busy() -> None:
    model = Model()
    batcher = Batcher(model.embed, size=4, num_inflight=1)
    calls = [asyncio.create_task(embed(batcher, [f"text {number}"])) for number in range(5)]
    await turn()
    model.go.set()
    await asyncio.gather(*calls)
    assert [len(batch) for batch in model.batches] == [1, 4]


async def test_texts_of_like_length_go_together() -> None:
    model = Model()
    batcher = Batcher(model.embed, size=3, num_inflight=1)
    busy = asyncio.create_task(embed(batcher, ["busy"]))
    await turn()
    one = asyncio.create_task(embed(batcher, ["a" * 100, "b" * 5, "c" * 99]))
    two = asyncio.create_task(embed(batcher, ["d" * 6, "e" * 101, "f" * 7]))
    await turn()
    model.go.set()
    await asyncio.gather(busy, one, two)
    assert [sorted(map(len, batch)) for batch in model.batches] == [[4], [99, 100, 101], [5, 6, 7]]


async def test_a_small_file_does_not_wait_for_the_end_of_a_large_one() -> None:
    model = Model()
    model.go.set()
    batcher = Batcher(model.embed, size=2, num_inflight=1)
    large = asyncio.create_task(embed(batcher, ["l" * 50] * 100))
    await turn()
    await embed(batcher, ["s"])
    assert not large.done()
    assert len(await large) == 100


async def test_embedders_are_never_mixed() -> None:
    model = Model()
    batcher = Batcher(model.embed, size=8, num_inflight=1)
    calls = [asyncio.create_task(embed(batcher, ["x"], name)) for name in "aabba"]
    await turn()
    model.go.set()
    await asyncio.gather(*calls)
    assert sorted(zip(model.embedders, map(len, model.batches), strict=True)) == [
        ("a", 1),
        ("a", 2),
        ("b", 2),
    ]


async def test_progress_is_told_batch_by_batch() -> None:
    model, told = Model(), []
    model.go.set()
    await embed(Batcher(model.embed, size=2, num_inflight=1), ["x"] * 5, told=told.append)
    assert told == [2, 2, 1]


async def test_a_refused_text_fails_its_own_file_only() -> None:
    model = Model(refuses="bad")
    batcher = Batcher(model.embed, size=8, num_inflight=1)
    busy = asyncio.create_task(embed(batcher, ["busy"]))
    await turn()
    good = asyncio.create_task(embed(batcher, ["fine", "well"]))
    bad = asyncio.create_task(embed(batcher, ["bad"]))
    await turn()
    model.go.set()
    results = await asyncio.gather(busy, good, bad, return_exceptions=True)
    assert results[:2] == [[4], [4, 4]]
    assert isinstance(results[2], UpstreamError)


@pytest.mark.parametrize(
    "found",
    [np.zeros((1, 3)), np.zeros(6), np.full((2, 3), np.nan)],
    ids=["too few rows", "no rows", "not numbers"],
)
async def test_what_is_not_vectors_fails_the_file(found: Vectors) -> None:
    async def embed_batch(_texts: list[str], _embedder: str) -> Vectors:
        return found

    with pytest.raises(UpstreamProtocolError):
        await embed(Batcher(embed_batch, size=4, num_inflight=1), ["a", "b"])


async def test_an_unforeseen_failure_reaches_every_caller_of_the_batch() -> None:
    async def embed_batch(_texts: list[str], _embedder: str) -> Vectors:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await embed(Batcher(embed_batch, size=4, num_inflight=1), ["a"])


async def test_a_caller_that_leaves_takes_its_texts_and_its_batch_along() -> None:
    model = Model()
    batcher = Batcher(model.embed, size=2, num_inflight=1)
    gone = asyncio.create_task(embed(batcher, ["g"] * 6))
    await turn()
    gone.cancel()
    await asyncio.wait({gone})
    model.go.set()
    assert await embed(batcher, ["here"]) == [4]
    assert model.batches == [["g", "g"], ["here"]]
    assert model.num_cancelled == 1


async def test_a_batch_goes_on_for_those_who_stay() -> None:
    model = Model()
    batcher = Batcher(model.embed, size=4, num_inflight=1)
    busy = asyncio.create_task(embed(batcher, ["busy"]))
    await turn()
    gone, stays = (asyncio.create_task(embed(batcher, [text])) for text in ("gone", "stay!"))
    await turn()
    model.go.set()
    await busy
    model.go.clear()
    await turn()
    gone.cancel()
    await turn()
    model.go.set()
    assert await stays == [5]
    assert model.num_cancelled == 0
