"""The ingest worker on real SQLite and real files; only the embedding is scripted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from gateway.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from gateway.ingest import worker as worker_module
from gateway.ingest.worker import IngestWorker
from gateway.settings import Settings
from gateway.storage import catalog, corpus, keys, schema
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.tensors import EMBEDDING_DIM
from tests.fakes.documents import body, page_break, pdf
from tests.fakes.engines import vectors
from tests.fakes.ingest import ScriptedEmbedder, upload
from tests.waiting import until

WORK_S = 30.0  # at most, where others work beside it
GUIDE = (
    "# Guide\n\n## Install\n\n" + "Take the wheel and install it. " * 60 + "\n\n## Run\n\nType make run.\n"
)


class Bench:
    """A database with one collection, a blob store and a worker over them."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'test.db'}"
        self.database = Database(self.url)
        self.database.migrate()
        self.blobs = BlobStore(folder / "files")
        self.embedder = ScriptedEmbedder()
        self.settings = Settings(ingest_batch=2)
        with self.database.write() as conn:
            keys.ensure_tenant(conn, "default")
            self.collection_id = catalog.create_collection(conn, "default", "docs", {}).id

    def upload(self, filename: str, data: bytes | str) -> str:
        raw = data if isinstance(data, bytes) else data.encode()
        return upload(self.database, self.blobs, self.collection_id, filename, raw)

    def attachment(self, file_id: str) -> catalog.AttachmentRow:
        with self.database.read() as conn:
            row = catalog.get_attachment(conn, "default", self.collection_id, file_id)
        assert row is not None
        return row

    def chunks(self) -> list[corpus.ChunkRow]:
        with self.database.read() as conn:
            return corpus.tail(conn, 0, limit=10_000).chunks

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[asyncio.Event]:
        """A running worker; yields its `wake`. Stopped, not cancelled, at the end."""
        stop, wake = asyncio.Event(), asyncio.Event()
        worker = IngestWorker(self.database, self.blobs, self.embedder, self.settings)
        running = asyncio.create_task(worker.run(stop, wake))
        try:
            yield wake
        finally:
            stop.set()
            await asyncio.wait_for(running, 20)

    async def until_done(self, *file_ids: str) -> list[catalog.AttachmentRow]:
        return [await self._until_done(file_id) for file_id in file_ids]

    async def _until_done(self, file_id: str) -> catalog.AttachmentRow:
        await until(lambda: self.attachment(file_id).status != "in_progress", within_s=WORK_S)
        return self.attachment(file_id)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.database.close()


async def test_a_file_becomes_chunks_whose_offsets_open_its_text(bench: Bench) -> None:
    file_id = bench.upload("guide.md", GUIDE.replace("\n", "\r\n"))
    async with bench.working():
        (row,) = await bench.until_done(file_id)
    assert (row.status, row.error_code) == ("completed", None)
    chunks = bench.chunks()
    assert row.num_chunks == row.chunks_done == len(chunks) > 2
    text = bench.blobs.read_text("default", file_id)
    assert text == GUIDE
    assert all(text[chunk.start_char : chunk.end_char] == chunk.text for chunk in chunks)
    assert chunks[0].heading == "Guide > Install"
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))


async def test_a_sentence_is_on_its_own_page_where_its_chunk_began_on_another(bench: Bench) -> None:
    words = [f"The gate of {name} opens at dawn." for name in ("Ebb", "Harlow", "Wick")]
    data = pdf(body(words[0]), page_break(), body(words[1]), page_break(), body(words[2]))
    first, copy = bench.upload("guide.pdf", data), bench.upload("copy.pdf", data)
    async with bench.working():
        await bench.until_done(first, copy)
    assert {chunk.page for chunk in bench.chunks()} == {1}
    for file_id in (first, copy):
        text = bench.blobs.read_text("default", file_id) or ""
        pages = [bench.blobs.page_of("default", file_id, text.index(each)) for each in words]
        assert pages == [1, 2, 3]


async def test_each_chunk_has_the_vector_of_its_heading_and_text(bench: Bench) -> None:
    file_id = bench.upload("guide.md", GUIDE)
    async with bench.working():
        await bench.until_done(file_id)
    for chunk in bench.chunks():
        expected = vectors([f"{chunk.heading}\n{chunk.text}"])[0]
        assert np.array_equal(np.frombuffer(chunk.vector, "<f4"), expected)


async def test_the_same_bytes_again_cost_no_embedding(bench: Bench) -> None:
    async with bench.working():
        first = bench.upload("guide.md", GUIDE)
        await bench.until_done(first)
        calls = bench.embedder.calls
        second = bench.upload("copy.md", GUIDE)
        await bench.until_done(second)
    assert bench.embedder.calls == calls
    by_file = {
        file_id: [c.vector for c in bench.chunks() if c.file_id == file_id] for file_id in (first, second)
    }
    assert by_file[first] == by_file[second] != []


async def test_a_new_version_of_a_file_embeds_only_what_changed(bench: Bench) -> None:
    async with bench.working():
        await bench.until_done(bench.upload("guide.md", GUIDE))
        bench.embedder.texts.clear()
        await bench.until_done(bench.upload("guide.md", GUIDE + "\n## New\n\n" + "Something else. " * 30))
    assert bench.embedder.texts
    assert all("Something else" in text for text in bench.embedder.texts)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"%PDF-1.7 ...", "damaged_file"),
        (b"\0\1\2", "unsupported_file"),
        (b"", "empty_file"),
        (b"# t\n" * 6_000_000, "file_too_complex"),
    ],
    ids=["pdf", "binary", "empty", "headings without end"],
)
async def test_an_unreadable_file_fails_with_a_reason_and_holds_up_nothing(
    bench: Bench, data: bytes, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ingest.sandbox.CPU_S", 0.5)
    monkeypatch.setattr("gateway.ingest.sandbox.CPU_S_PER_BYTE", 0.0)
    bad, good = bench.upload("bad.bin", data), bench.upload("good.txt", "Fine.")
    async with bench.working():
        failed, completed = await bench.until_done(bad, good)
    assert (failed.status, failed.error_code) == ("failed", code)
    assert failed.error_message
    assert completed.status == "completed"


async def test_a_file_over_the_limit_is_not_even_opened(bench: Bench) -> None:
    bench.settings = Settings(max_file_bytes=2048)
    file_id = bench.upload("big.txt", "x" * 4096)
    async with bench.working():
        (row,) = await bench.until_done(file_id)
    assert row.error_code == "file_too_large"
    assert "4096" in (row.error_message or "")


async def test_a_lost_blob_fails_without_telling_paths(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    file_id = bench.upload("a.txt", "x")
    bench.blobs.delete("default", file_id)
    async with bench.working():
        (row,) = await bench.until_done(file_id)
    assert row.error_code == "server_error"
    assert "/" not in (row.error_message or "/")
    assert "FileNotFoundError" in caplog.text


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(worker_module, "LONGEST_PAUSE_S", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("gone"), UpstreamTimeout("slow")], ids=["gone", "slow"]
)
async def test_a_file_waits_for_triton_however_long(bench: Bench, error: Exception) -> None:
    bench.embedder.errors = [error] * 40
    file_id = bench.upload("a.txt", "words")
    async with bench.working():
        (row,) = await bench.until_done(file_id)
    assert row.status == "completed"
    assert bench.embedder.calls == 41


@pytest.mark.usefixtures("quick")
async def test_a_text_that_triton_refuses_fails_in_the_end(bench: Bench) -> None:
    bench.embedder.errors = [UpstreamError("no", detail="secret")] * 100
    file_id = bench.upload("a.txt", "words")
    async with bench.working():
        (row,) = await bench.until_done(file_id)
    assert (row.status, row.error_code, row.error_message) == ("failed", "upstream_error", "no")


@pytest.mark.usefixtures("quick")
async def test_a_locked_database_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.storage.database.BUSY_TIMEOUT_S", 0.02)
    working_database = Database(bench.url)
    observer, bench.database = bench.database, working_database
    bench.embedder.delay_s = 0.2
    file_id = upload(observer, bench.blobs, bench.collection_id, "a.txt", b"words")
    async with bench.working():
        await until(lambda: bench.embedder.inflight > 0)
        with sqlite3.connect(bench.url.removeprefix("sqlite:///"), isolation_level=None) as locker:
            locker.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.5)  # the publish meets the lock several times
            locker.execute("ROLLBACK")
        locker.close()
        (row,) = await bench.until_done(file_id)
    working_database.close()
    bench.database = observer
    assert row.status == "completed"


async def test_at_most_two_embedding_calls_run_at_once(bench: Bench) -> None:
    bench.embedder.delay_s = 0.01
    files = [bench.upload(f"{number}.md", GUIDE + str(number)) for number in range(4)]
    async with bench.working():
        await bench.until_done(*files)
    assert bench.embedder.max_inflight == 2


async def test_a_wake_beats_the_poll(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "POLL_S", 60.0)
    async with bench.working() as wake:
        await asyncio.sleep(0.3)  # the worker has looked and sleeps now
        file_id = bench.upload("a.txt", "words")
        wake.set()
        (row,) = await bench.until_done(file_id)
        wake.set()  # for the stop
    assert row.status == "completed"


async def test_progress_is_seen_while_it_works(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "HEARTBEAT_S", 0.02)
    bench.embedder.delay_s = 0.1
    file_id = bench.upload("a.txt", "Some words here. " * 400)
    async with bench.working():
        await until(lambda: 0 < bench.attachment(file_id).chunks_done < bench.attachment(file_id).num_chunks)
        assert bench.chunks() == []


async def test_a_stop_hands_the_file_back_at_once(bench: Bench) -> None:
    bench.embedder.delay_s = 30.0
    file_id = bench.upload("a.txt", "words")
    async with bench.working():
        await until(lambda: bench.embedder.inflight > 0)
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    row = bench.attachment(file_id)
    assert (row.status, row.lease_until, row.attempts) == ("in_progress", 0.0, 0)
    bench.embedder.delay_s = 0.0
    async with bench.working():
        (row,) = await bench.until_done(file_id)
    assert row.status == "completed"


async def test_a_file_that_leaves_meanwhile_is_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "HEARTBEAT_S", 0.05)
    bench.embedder.delay_s = 30.0
    file_id = bench.upload("a.txt", "words")
    async with bench.working():
        await until(lambda: bench.embedder.inflight > 0)
        with bench.database.write() as conn:
            assert catalog.delete_file(conn, "default", file_id)
        await until(lambda: bench.embedder.inflight == 0)
        bench.embedder.delay_s = 0.0
        (row,) = await bench.until_done(bench.upload("b.txt", "more words"))
    assert row.status == "completed"
    assert [chunk.filename for chunk in bench.chunks()] == ["b.txt"]


async def test_two_workers_share_the_queue_without_doing_anything_twice(bench: Bench) -> None:
    files = [bench.upload(f"{number}.txt", f"Text number {number}.") for number in range(20)]
    async with bench.working(), bench.working():
        await bench.until_done(*files)
    assert sorted(bench.embedder.texts) == sorted(f"Text number {number}." for number in range(20))
    assert len(bench.chunks()) == 20


def _start_worker(bench: Bench, folder: Path) -> subprocess.Popen[bytes]:
    lease_s, delay_s = "1.0", "0.05"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.ingest", bench.url, str(folder / "files"), lease_s, delay_s],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("seed", range(3))
async def test_kill_9_at_any_moment_loses_and_doubles_nothing(
    bench: Bench, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    text = "".join(f"Sentence {number} of a longer text about nothing. " for number in range(400))
    file_id = bench.upload("long.txt", text)
    for attempt in (1, 2):
        process = await asyncio.to_thread(_start_worker, bench, tmp_path)
        await until(
            lambda: bench.attachment(file_id).attempts >= attempt or bench.chunks() != [],  # noqa: B023
            within_s=WORK_S,
        )
        await asyncio.sleep(rng.random() * 1.2)  # the whole work takes about 0.8 s
        process.kill()
        process.communicate()
        row = bench.attachment(file_id)
        assert len(bench.chunks()) == (row.num_chunks if row.status == "completed" else 0)
    process = await asyncio.to_thread(_start_worker, bench, tmp_path)
    (row,) = await bench.until_done(file_id)
    process.kill()
    process.communicate()
    assert row.status == "completed"
    chunks = bench.chunks()
    assert bench.blobs.read_text("default", file_id) == text
    assert [chunk.ordinal for chunk in chunks] == list(range(row.num_chunks))
    assert all(len(chunk.vector) == 4 * EMBEDDING_DIM for chunk in chunks)
    with bench.database.read() as conn:
        assert corpus.current_epoch(conn) == 1
        assert conn.execute(sa.select(sa.func.count()).select_from(schema.removals)).scalar() == 0
