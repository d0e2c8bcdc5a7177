"""Snapshots on a real disk: what is written is what is read, and nothing damaged is ever used."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.filters import Filter
from gateway.retrieval import table
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.snapshot import CURRENT, MANIFEST, SnapshotFolder, SnapshotRefused, fingerprint
from gateway.storage.changes import RemovalRow, Tail
from gateway.types import Scope
from tests.unit.retrieval.chunks import DIM, ask, attributes, axis, chunk, found, removal, towards

QUESTION = "which harbour has cranes?"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def snapshots(root: Path) -> SnapshotFolder:
    return SnapshotFolder(root, "db")


def filled(folder: Path) -> CorpusIndex:
    """Two tenants, two collections, attributes, another embedder, and something removed."""
    folder.mkdir()
    index = CorpusIndex(folder)
    rows = [
        chunk(1, axis(0), text="The harbour of Ulm has no cranes."),
        chunk(2, towards(0, 0.9), text="Cranes are birds, naïve ones.", file="g"),
        chunk(3, axis(3), collection="d"),
        chunk(4, axis(0), tenant="other", text="A harbour of another tenant."),
        chunk(5, np.ones(3), embedder="small", text="A harbour with three numbers."),
        chunk(6, axis(1), file="gone"),
    ]
    index.apply(
        Tail(1, rows, [], False, [attributes(1, "f", {"year": 2001}), attributes(1, "g", {"year": 1999})])
    )
    index.apply(removal(2, "gone"))
    return index


def saved(index: CorpusIndex, snapshots: SnapshotFolder) -> None:
    with snapshots.writing() as draft:
        index.save(draft)


def loaded(snapshots: SnapshotFolder, work: Path) -> CorpusIndex:
    index = CorpusIndex()
    folder, epoch = snapshots.verified()
    index.load(folder, work, epoch)
    return index


def test_loaded_index_answers_as_the_saved_one(snapshots: SnapshotFolder, tmp_path: Path) -> None:
    index = filled(tmp_path / "a")
    saved(index, snapshots)
    copy = loaded(snapshots, tmp_path / "b")
    assert (copy.epoch, copy.num_chunks) == (2, 5)
    assert ask(copy, axis(0), QUESTION, ranking="hybrid") == ask(index, axis(0), QUESTION, ranking="hybrid")
    assert found(copy, np.ones(3, np.float32), embedder="small") == [5]
    assert found(copy, axis(0), tenant_id="other") == [4]
    old = Filter(type="lt", key="year", value=2000)
    assert found(copy, axis(0), QUESTION, filters=old, ranking="hybrid") == [2]
    assert copy.embedders(Scope(tenant_id="t")) == ["small"]


def test_loaded_index_goes_on_where_the_saved_one_stood(snapshots: SnapshotFolder, tmp_path: Path) -> None:
    index = filled(tmp_path / "a")
    saved(index, snapshots)
    copy = loaded(snapshots, tmp_path / "b")
    tails = [
        Tail(3, [chunk(7, axis(0), text="A new harbour.", epoch=3)], [RemovalRow(3, "t", "c", "f")], False),
        Tail(4, [chunk(2, axis(2), text="Moved cranes.", file="g", epoch=4)], [], False),
        Tail(5, [chunk(8, axis(2), epoch=5, collection="new")], [], False),
    ]
    for tail in tails:
        index.apply(tail)
        copy.apply(tail)
    for vector in (axis(0), axis(2)):
        expected = ask(index, vector, QUESTION, ranking="hybrid")
        assert ask(copy, vector, QUESTION, ranking="hybrid") == expected
    assert found(copy, axis(0), "new harbour", ranking="lexical")[0] == 7


def test_graph_and_dead_rows_survive(
    snapshots: SnapshotFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MIN_GRAPH", 100)
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    index = CorpusIndex(tmp_path / "a")
    rows = [chunk(n, rng.standard_normal(DIM), file=f"f{n % 20}") for n in range(1, 301)]
    index.apply(Tail(1, rows, [], False))
    assert index.refit(1)
    index.apply(removal(2, "f7"))
    index.apply(Tail(3, [chunk(400, axis(2), epoch=3)], [], False))
    saved(index, snapshots)
    copy = loaded(snapshots, tmp_path / "b")
    assert copy.num_chunks == 286
    for query in rng.standard_normal((20, DIM)):
        assert found(copy, query, k=10) == found(index, query, k=10)
    assert found(copy, axis(2), k=1) == [400]


def test_empty_index_can_be_kept(snapshots: SnapshotFolder, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    saved(CorpusIndex(tmp_path / "a"), snapshots)
    copy = loaded(snapshots, tmp_path / "b")
    assert (copy.epoch, copy.num_chunks) == (0, 0)
    assert copy.apply(Tail(1, [chunk(1, axis(0))], [], False)) == 0
    assert found(copy, axis(0), "chunk", ranking="hybrid") == [1]


def test_newer_snapshot_takes_the_place_of_the_older(
    snapshots: SnapshotFolder, root: Path, tmp_path: Path
) -> None:
    index = filled(tmp_path / "a")
    saved(index, snapshots)
    reader = loaded(snapshots, tmp_path / "b")
    index.apply(Tail(3, [chunk(9, axis(0), epoch=3, text="Nine.")], [], False))
    saved(index, snapshots)
    assert snapshots.epoch() == 3
    assert len([path for path in root.iterdir() if path.is_dir()]) == 1
    assert loaded(snapshots, tmp_path / "c").num_chunks == 6
    assert ask(reader, axis(0))[0].text == "The harbour of Ulm has no cranes."  # still mapped


def current(root: Path) -> Path:
    return root / (root / CURRENT).read_text()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "cut": cut,
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize(
    "name", ["vectors.bin", "columns.bin", "texts.bin", "shelves.json", "lexical", MANIFEST]
)
def test_damage_to_any_file_refuses_the_snapshot(
    name: str, damage: Callable[[Path], None], snapshots: SnapshotFolder, root: Path, tmp_path: Path
) -> None:
    saved(filled(tmp_path / "a"), snapshots)
    path = current(root) / name
    if path.is_dir():
        path = max(path.glob("*.store"), key=lambda file: file.stat().st_size)
        shutil.copy(path, f"{path}.own")  # the saved index must keep its own
        os.replace(f"{path}.own", path)
    damage(path)
    with pytest.raises(SnapshotRefused, match=path.name):
        loaded(snapshots, tmp_path / "b")


def rewritten(root: Path, **changed: object) -> None:
    path = current(root) / MANIFEST
    manifest = json.loads(path.read_bytes().rpartition(b"\n")[0]) | changed
    content = json.dumps(manifest).encode()
    path.write_bytes(content + b"\n%08x" % zlib.crc32(content))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 0}, "format"),
        ({"format": 99}, "format"),
        ({"database": "else"}, "another database"),
        ({"files": 1}, "files"),
    ],
    ids=["older-format", "newer-format", "database", "malformed"],
)
def test_foreign_snapshot_is_refused(
    changed: dict[str, object], said: str, snapshots: SnapshotFolder, root: Path, tmp_path: Path
) -> None:
    saved(filled(tmp_path / "a"), snapshots)
    rewritten(root, **changed)
    with pytest.raises(SnapshotRefused, match=said):
        loaded(snapshots, tmp_path / "b")
    assert snapshots.epoch() == -1


def test_files_that_are_whole_but_do_not_fit_together_are_refused(
    snapshots: SnapshotFolder, root: Path, tmp_path: Path
) -> None:
    """As a writer with a bug would leave them: every checksum is right."""
    saved(filled(tmp_path / "a"), snapshots)
    cut(current(root) / "columns.bin")
    index = CorpusIndex()
    with pytest.raises(SnapshotRefused, match="ends early"):
        index.load(current(root), tmp_path / "b", 2)
    assert index.num_chunks == 0


def test_words_of_other_chunks_are_refused(snapshots: SnapshotFolder, root: Path, tmp_path: Path) -> None:
    index = filled(tmp_path / "a")
    saved(index, snapshots)
    other = tmp_path / "kept"
    shutil.copytree(current(root), other)
    index.apply(removal(3, "f"))
    saved(index, snapshots)
    shutil.rmtree(other / "lexical")
    shutil.copytree(current(root) / "lexical", other / "lexical")
    with pytest.raises(SnapshotRefused, match="words of 3 chunks, not of 5"):
        CorpusIndex().load(other, tmp_path / "b", 2)


@pytest.mark.parametrize("name", ["", "../elsewhere", "nowhere", "a/b"])
def test_name_that_leads_elsewhere_is_refused(name: str, root: Path, snapshots: SnapshotFolder) -> None:
    root.mkdir()
    (root / CURRENT).write_text(name)
    with pytest.raises(SnapshotRefused):
        snapshots.verified()


def test_no_snapshot_is_told_apart_from_a_bad_one(snapshots: SnapshotFolder) -> None:
    assert snapshots.is_missing()
    with pytest.raises(SnapshotRefused, match="there is no snapshot"):
        snapshots.verified()


def test_failed_writer_leaves_the_old_snapshot_and_nothing_else(
    snapshots: SnapshotFolder, root: Path, tmp_path: Path
) -> None:
    saved(filled(tmp_path / "a"), snapshots)

    def fail_midway() -> None:
        with snapshots.writing() as draft:
            (draft.folder / "vectors.bin").write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail_midway()
    assert loaded(snapshots, tmp_path / "b").num_chunks == 5
    assert [path for path in root.iterdir() if path.is_dir()] == [current(root)]


def test_only_one_process_writes_at_a_time(snapshots: SnapshotFolder, root: Path) -> None:
    with (
        snapshots.writing(),
        pytest.raises(SnapshotRefused, match="another process"),
        SnapshotFolder(root, "db").writing(),
    ):
        raise AssertionError


def test_fingerprint_tells_databases_apart_but_not_passwords() -> None:
    one = fingerprint("postgresql://user:secret@host/db")
    assert one == fingerprint("postgresql://user:other@host/db")
    assert one != fingerprint("postgresql://user:secret@host/db2")
    assert fingerprint("sqlite:////a.db") != fingerprint("sqlite:////b.db")
