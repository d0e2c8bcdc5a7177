from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gateway.errors import InvalidRequest, UpstreamUnavailable
from gateway.storage.blobs import BlobStore


def test_a_commit_tells_size_and_hash_and_puts_the_bytes_in_place(tmp_path: Path) -> None:
    writer = BlobStore(tmp_path).open_writer("default", "file-a")
    writer.write(b"one")
    writer.write(b"two")
    assert writer.commit() == (6, hashlib.sha256(b"onetwo").hexdigest())
    assert BlobStore(tmp_path).path("default", "file-a").read_bytes() == b"onetwo"


def test_nothing_is_seen_before_the_commit_nor_after_an_abort(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    writer = blobs.open_writer("default", "file-a")
    writer.write(b"half")
    assert not blobs.path("default", "file-a").exists()
    writer.abort()
    assert list(tmp_path.glob("*/*")) == []


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    (tmp_path / "default").mkdir()
    part = tmp_path / "default" / "file-a.1234.part"
    part.write_bytes(b"half")
    assert blobs.remove_stale_parts(older_than_s=3600) == 0
    assert blobs.remove_stale_parts(older_than_s=-1) == 1
    assert not part.exists()


def test_text_keeps_every_character(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    text = "a\nb\rc\u2028d 🙂"
    blobs.write_text("default", "file-a", text)
    assert blobs.read_text("default", "file-a") == text
    assert blobs.read_text("default", "file-b") is None


def test_a_character_is_on_the_last_page_that_begins_at_or_before_it(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    blobs.write_text("default", "file-a", "one two four", [0, 4, 8, 8])
    assert [blobs.page_of("default", "file-a", at) for at in (0, 3, 4, 7, 8, 11)] == [1, 1, 2, 2, 4, 4]
    assert blobs.copy_text("default", "file-a", "file-b")
    assert blobs.page_of("default", "file-b", 5) == 2
    blobs.write_text("default", "file-a", "a text without pages")
    assert blobs.page_of("default", "file-a", 5) == blobs.page_of("default", "file-c", 0) == 0


def test_delete_takes_bytes_and_text_and_may_be_repeated(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    blobs.open_writer("default", "file-a").commit()
    blobs.write_text("default", "file-a", "text", [0, 2])
    blobs.delete("default", "file-a")
    blobs.delete("default", "file-a")
    assert list(tmp_path.glob("*/*")) == []


@pytest.mark.parametrize("bad", ["", "..", "a/b", "../up", "a.txt", "x" * 65, "a\0b", "ä", "a\n"])
def test_an_id_cannot_leave_its_folder(tmp_path: Path, bad: str) -> None:
    blobs = BlobStore(tmp_path)
    for tenant_id, file_id in ((bad, "file-a"), ("default", bad)):
        with pytest.raises(InvalidRequest):
            blobs.path(tenant_id, file_id)


def test_a_disk_that_does_not_take_it_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "default").write_text("a file where a folder should be")
    with pytest.raises(UpstreamUnavailable) as caught:
        BlobStore(tmp_path).open_writer("default", "file-a")
    assert caught.value.code == "storage_unavailable"
    assert str(tmp_path) not in caught.value.message
