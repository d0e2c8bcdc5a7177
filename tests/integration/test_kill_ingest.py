"""kill -9 of the real ingest process, a hundred times, over real files, a real Triton and each real database."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import sqlalchemy as sa

from gateway.settings import Settings, load_settings
from gateway.storage import catalog, corpus, keys, schema
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from tests.fakes.ingest import upload
from tests.fakes.ingest_nursery import Nursery, nursery
from tests.fakes.triton_process import MODELS, free_port, running_triton

NUM_KILLS = 100
LEASE_S = 1.0
LONGEST_START_S = 1.5  # of a worker, until it has a file
LONGEST_WORK_S = 0.25  # and then: from before the first file is read to after several are searchable
FINISH_S = 150.0

Content = tuple[str, int, str, str, int, int]  # file name, ordinal, heading, text, start, end


@dataclass
class Scene:
    """What a gateway does beside the worker, and a follower of the feed."""

    settings: Settings
    database: Database
    blobs: BlobStore
    collection_id: str = ""
    followed: dict[int, corpus.ChunkRow] = field(default_factory=dict)
    epoch: int = 0

    def add(self, filename: str, text: str, replaces: str | None = None) -> str:
        file_id = upload(self.database, self.blobs, self.collection_id, filename, text.encode())
        if replaces is not None:
            with self.database.write() as conn:
                catalog.attach_file(conn, "default", self.collection_id, file_id, {}, replaces=replaces)
        return file_id

    def follow(self) -> None:
        while True:
            with self.database.read() as conn:
                found = corpus.tail(conn, self.epoch, limit=50)
            for gone in found.removals:
                for chunk in [each for each in self.followed.values() if each.file_id == gone.file_id]:
                    del self.followed[chunk.id]
            self.followed.update({chunk.id: chunk for chunk in found.chunks})
            self.epoch = found.epoch
            if not found.more:
                return

    def attachments(self) -> list[catalog.AttachmentRow]:
        with self.database.read() as conn:
            return catalog.list_attachments(conn, "default", self.collection_id, limit=500)[0]

    def is_worked_on(self) -> bool:
        now = time.time()
        return any(row.lease_until > now for row in self.attachments() if row.status == "in_progress")

    def finish(self, workers: Nursery) -> None:
        worker = workers.start()
        try:
            deadline = time.monotonic() + FINISH_S
            while any(row.status == "in_progress" for row in self.attachments()):
                assert time.monotonic() < deadline, Counter(row.status for row in self.attachments())
                time.sleep(0.05)
        finally:
            workers.kill(worker)
        self.follow()

    def is_never_half(self) -> None:
        with self.database.read() as conn:
            rows = catalog.list_attachments(conn, "default", self.collection_id, limit=500)[0]
            counts = Counter(conn.execute(sa.select(schema.chunks.c.file_id)).scalars())
        for row in rows:
            assert counts.pop(row.file_id, 0) == (row.num_chunks if row.status == "completed" else 0)
        assert not counts, "chunks of files that are not in the collection"


def _opened(settings: Settings) -> Scene:
    scene = Scene(settings, Database(settings.sql_url), BlobStore(settings.files_dir))
    scene.database.migrate()
    with scene.database.write() as conn:
        keys.ensure_tenant(conn, "default")
        scene.collection_id = catalog.create_collection(conn, "default", "docs", {}).id
    return scene


@pytest.fixture(scope="module")
def triton_port(
    triton_installed: None, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """gRPC port of a Triton with the model that ingest asks."""
    folder = tmp_path_factory.mktemp("triton")
    (folder / "var").mkdir()
    (folder / "var" / "models").symlink_to(models_dir)
    settings = load_settings({}, var=folder / "var", port=free_port())
    with running_triton(folder, [_hasty_model(folder)], settings):
        yield settings.triton_ports(0)[0]


def _hasty_model(folder: Path) -> Path:
    """`embed_passages` with the code of `embed`: one that gives way would be as slow as others like."""
    model = folder / "embed_passages"
    shutil.copytree(MODELS / "retrieval" / "embed" / "1", model / "1")
    shutil.copy(MODELS / "retrieval" / "embed_passages" / "config.pbtxt", model)
    return model


@pytest.fixture(params=["sqlite", "postgresql"])
def scenes(request: pytest.FixtureRequest, triton_port: int, tmp_path: Path) -> Iterator[tuple[Scene, Scene]]:
    """One to be disturbed, and one to compare with."""
    made = []
    for name in ("disturbed", "quiet"):
        is_server = request.param == "postgresql" and name == "disturbed"
        url = request.getfixturevalue("postgres_url") if is_server else ""
        settings = load_settings({}, var=tmp_path / name, inner_port=triton_port, database_url=url)
        made.append(_opened(settings))
    yield made[0], made[1]
    for scene in made:
        scene.database.close()


def _text(rng: random.Random, number: int) -> str:
    lines = [f"# Report {number}"]
    for part in range(rng.choice([1, 1, 2, 6])):
        lines += [f"## Part {part}", f"Report {number} says {rng.random():.9f}. " * rng.choice([1, 5, 30])]
    return "\n\n".join(lines)


def _contents(scene: Scene) -> Counter[Content]:
    with scene.database.read() as conn:
        rows = corpus.tail(conn, 0, limit=100_000).chunks
    return Counter(
        (row.filename, row.ordinal, row.heading, row.text, row.start_char, row.end_char) for row in rows
    )


def _vectors(scene: Scene) -> dict[tuple[str, int], np.ndarray]:
    with scene.database.read() as conn:
        rows = corpus.tail(conn, 0, limit=100_000).chunks
    return {(row.filename, row.ordinal): np.frombuffer(row.vector, "<f4") for row in rows}


class Library:
    """The files as their owner knows them: added, replaced, deleted, at random but the same each time."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.rng = random.Random(seed)
        self.texts: dict[str, str] = {}  # what must be searchable in the end, by file name
        self.newest: dict[str, str] = {}  # file ids
        self._replaced: set[str] = set()  # their older versions may be there yet
        self._scene = scene

    def change(self, number: int) -> None:
        name, text = f"report-{number:03d}{'.html' if number % 20 == 13 else '.md'}", _text(self.rng, number)
        if number % 10 == 7:  # equal bytes under another name
            text = self.texts[self._any()]
        replaced = self._any() if number % 10 == 4 else None  # by a new version
        name = replaced or name
        self._replaced |= {replaced} if replaced else set()
        self.newest[name] = self._scene.add(name, text, self.newest[name] if replaced else None)
        self.texts[name] = text
        if number % 10 == 9:  # one leaves, at whatever stage it is
            gone = self.rng.choice(sorted(set(self.texts) - self._replaced))
            with self._scene.database.write() as conn:
                assert catalog.delete_file(conn, "default", self.newest.pop(gone))
            del self.texts[gone]

    def _any(self) -> str:
        return self.rng.choice(sorted(self.texts))


def _disturb(scene: Scene, workers: Nursery, library: Library) -> int:
    """Kill a worker after each change of the library. Returns how many were killed with a file in their hands."""
    rng, num_hit = random.Random(1), 0
    for number in range(NUM_KILLS):
        library.change(number)
        worker = workers.start()
        if number % 5:  # one in five dies at any moment of its start
            began = time.monotonic()
            while not scene.is_worked_on() and time.monotonic() < began + LONGEST_START_S:
                time.sleep(0.005)
        time.sleep(rng.random() * LONGEST_WORK_S)
        num_hit += scene.is_worked_on()
        workers.kill(worker)
        scene.is_never_half()
        scene.follow()
    return num_hit


@pytest.mark.timeout(400)
def test_every_file_is_indexed_once_whatever_is_killed(scenes: tuple[Scene, Scene], tmp_path: Path) -> None:
    scene, quiet = scenes
    library = Library(scene, seed=20)
    with nursery(scene.settings, LEASE_S, tmp_path / "workers.log") as workers:
        num_hit = _disturb(scene, workers, library)
        scene.finish(workers)
    rows = {row.file_id: row for row in scene.attachments()}
    deaths = max(row.attempts for row in rows.values()) - 1
    print(f"killed with files in hand: {num_hit} of {NUM_KILLS}; most deaths over one file: {deaths}")
    assert num_hit >= NUM_KILLS / 4, "most workers died idle: nothing is proven"
    assert {row.status for row in rows.values()} == {"completed"}
    assert set(rows) == set(library.newest.values())
    scene.is_never_half()
    for name, text in library.texts.items():
        quiet.add(name, text)
    with nursery(quiet.settings, LEASE_S, tmp_path / "workers.log") as workers:
        quiet.finish(workers)
    assert _contents(scene) == _contents(quiet)
    expected = _vectors(quiet)
    assert min(float(vector @ expected[place]) for place, vector in _vectors(scene).items()) > 0.99
    with scene.database.read() as conn:
        assert sorted(scene.followed) == sorted(conn.execute(sa.select(schema.chunks.c.id)).scalars())
    assert all(scene.blobs.read_text("default", file_id) is not None for file_id in rows)
    assert _left_behind(scene) == []


def _left_behind(scene: Scene) -> list[str]:
    """Processes of the killed workers that live on; they get some seconds to notice."""
    deadline = time.monotonic() + 10
    while True:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                if process.environ().get("TIDEGATE_VAR") == str(scene.settings.var):
                    found.append(" ".join(process.info["cmdline"] or []))
            except psutil.Error:
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)
