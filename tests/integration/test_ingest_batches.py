"""Several files in the ingest worker at once: what they share, and what of one file never touches another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gateway.errors import UpstreamError
from gateway.ingest import worker as worker_module
from gateway.ingest.worker import MAX_FILES
from gateway.settings import Settings
from gateway.storage import catalog
from gateway.types import DEFAULT_EMBEDDER
from tests.fakes.ingest import ScriptedEmbedder, upload
from tests.integration.test_ingest_worker import Bench
from tests.waiting import until

LONG = "".join(f"Sentence {number} of a longer text about nothing. " for number in range(400))


class Refusing(ScriptedEmbedder):
    """Refuses every batch that holds the word."""

    async def embed(
        self, texts: Sequence[str], *, role: str, timeout_s: float, embedder: str = DEFAULT_EMBEDDER
    ) -> npt.NDArray[np.float32]:
        found = await super().embed(texts, role=role, timeout_s=timeout_s, embedder=embedder)
        if any("poison" in text for text in texts):
            raise UpstreamError("The model refuses this.")
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Bench]:
    desk = Bench(tmp_path)
    desk.settings = Settings(ingest_batch=32)
    yield desk
    desk.database.close()


async def test_small_files_share_the_models_batches(desk: Bench) -> None:
    desk.embedder.delay_s = 0.3
    files = [desk.upload(f"{number}.txt", f"Text number {number}.") for number in range(MAX_FILES)]
    async with desk.working():
        rows = await desk.until_done(*files)
    assert {row.status for row in rows} == {"completed"}
    assert desk.embedder.calls < MAX_FILES


async def test_a_small_file_overtakes_a_large_one(desk: Bench) -> None:
    desk.settings = Settings(ingest_batch=2)
    desk.embedder.delay_s = 0.1
    large = desk.upload("large.txt", LONG * 10)
    async with desk.working():
        await until(lambda: desk.embedder.calls > 0)
        (small,) = await desk.until_done(desk.upload("small.txt", "A short one."))
        assert small.status == "completed"
        assert desk.attachment(large).status == "in_progress"
        await desk.until_done(large)


async def test_a_text_that_the_model_refuses_fails_its_own_file_only(
    desk: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "FIRST_PAUSE_S", 0.001)
    desk.embedder = Refusing(delay_s=0.1)
    words = ["fine", "poison", "well", "good"]
    files = [desk.upload(f"{word}.txt", f"Some {word} words.") for word in words]
    async with desk.working():
        rows = await desk.until_done(*files)
    assert [row.status for row in rows] == ["completed", "failed", "completed", "completed"]
    assert rows[1].error_message == "The model refuses this."


async def test_no_more_files_are_taken_than_are_worked_on(desk: Bench) -> None:
    desk.embedder.delay_s = 30.0
    files = [desk.upload(f"{number}.txt", f"Text {number}.") for number in range(MAX_FILES + 5)]

    def num_taken() -> int:
        return sum(desk.attachment(file_id).attempts for file_id in files)

    async with desk.working():
        await until(lambda: desk.embedder.inflight == 2)
        await until(lambda: num_taken() == MAX_FILES)
        await asyncio.sleep(0.5)
        assert num_taken() == MAX_FILES
    rows = [desk.attachment(file_id) for file_id in files]
    assert {(row.status, row.lease_until, row.attempts) for row in rows} == {("in_progress", 0.0, 0)}


async def test_files_that_do_not_fit_into_memory_together_come_one_after_another(desk: Bench) -> None:
    desk.settings = Settings(max_file_bytes=len(LONG) + 100, ingest_batch=2)
    desk.embedder.delay_s = 0.02
    files = [desk.upload(f"{number}.txt", f"{number} {LONG}") for number in range(3)]
    most = 0
    async with desk.working():
        async with asyncio.timeout(30):
            while any(desk.attachment(file_id).status == "in_progress" for file_id in files):
                started = [desk.attachment(file_id) for file_id in files]
                most = max(most, sum(row.status == "in_progress" and row.num_chunks > 0 for row in started))
                await asyncio.sleep(0.02)
    assert most <= 1
    assert {desk.attachment(file_id).status for file_id in files} == {"completed"}


# Equal bytes


async def test_equal_bytes_are_copied_without_being_read(
    desk: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk.working():
        first = desk.upload("a.txt", LONG)
        await desk.until_done(first)

        def read(*_: object) -> None:
            raise AssertionError("read again")

        monkeypatch.setattr("gateway.ingest.sandbox.Sandbox.read", read)
        second = desk.upload("b.txt", LONG)
        (row,) = await desk.until_done(second)
    assert (row.status, row.num_chunks) == ("completed", desk.attachment(first).num_chunks)
    assert desk.blobs.read_text("default", second) == LONG
    by_file = {
        file_id: [
            (chunk.ordinal, chunk.text, chunk.vector) for chunk in desk.chunks() if chunk.file_id == file_id
        ]
        for file_id in (first, second)
    }
    assert by_file[first] == by_file[second] != []


async def test_equal_bytes_whose_text_is_gone_are_read_again_but_not_embedded(desk: Bench) -> None:
    async with desk.working():
        first = desk.upload("a.txt", LONG)
        await desk.until_done(first)
        desk.blobs.text_path("default", first).unlink()
        calls = desk.embedder.calls
        second = desk.upload("b.txt", LONG)
        await desk.until_done(second)
    assert desk.embedder.calls == calls
    assert desk.blobs.read_text("default", second) == LONG


async def test_equal_bytes_are_cut_anew_when_the_sizes_have_changed(desk: Bench) -> None:
    async with desk.working():
        await desk.until_done(desk.upload("a.txt", LONG))
    desk.settings = Settings(chunk_chars=300, chunk_overlap_chars=0)
    async with desk.working():
        second = desk.upload("b.txt", LONG)
        await desk.until_done(second)
    chunks = [chunk for chunk in desk.chunks() if chunk.file_id == second]
    assert max(len(chunk.text) for chunk in chunks) <= 300


async def test_each_collections_own_embedder_makes_its_vectors(desk: Bench) -> None:
    with desk.database.write() as conn:
        other = catalog.create_collection(conn, "default", "other", {}, embedder="tiny").id
    async with desk.working():
        await desk.until_done(desk.upload("a.txt", LONG))
        desk.embedder.embedders.clear()
        file_id = upload(desk.database, desk.blobs, other, "a.txt", LONG.encode())
        await until(lambda: {"tiny"} <= {chunk.embedder for chunk in desk.chunks()})
    assert desk.embedder.embedders == {"tiny"}
    assert {chunk.embedder for chunk in desk.chunks() if chunk.file_id == file_id} == {"tiny"}
