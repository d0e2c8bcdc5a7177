"""Ingest over a real socket: what moves, what stays, what a broken run leaves."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.http_api import FakeApi
from tests.integration.cli.conftest import Run

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def docs(workplace: Path) -> Path:
    (workplace / "docs" / "sub").mkdir(parents=True)
    (workplace / "docs" / "a.md").write_text("alpha")
    (workplace / "docs" / "sub" / "ü b.md").write_text("beta")
    return workplace / "docs"


def test_a_folder_is_added(run: Run, docs: Path, api: FakeApi) -> None:
    result = run("ingest", "docs")
    assert (result.code, result.out) == (0, "documents: 2 files added.\n")
    assert api.names("documents") == {"docs/a.md": "completed", "docs/sub/ü b.md": "completed"}
    assert sorted(file["filename"] for file in api.files.values()) == ["docs/a.md", "docs/sub/ü b.md"]


def test_the_same_again_moves_nothing(run: Run, docs: Path, api: FakeApi) -> None:
    run("ingest", "docs")
    api.requests.clear()
    assert run("ingest", "docs").out == "documents: 2 files unchanged.\n"
    assert {method for method, _ in api.requests} == {"GET"}


def test_a_changed_file_replaces_its_old_version(run: Run, docs: Path, api: FakeApi) -> None:
    run("ingest", "docs")
    old = set(api.files)
    (docs / "a.md").write_text("changed")
    assert run("ingest", "docs").out == "documents: 1 file replaced, 1 file unchanged.\n"
    assert len(api.names("documents")) == 2
    assert len(api.files) == 2
    assert len(old - set(api.files)) == 1


def test_the_service_replaces_the_old_version_and_its_bytes_go_afterwards(
    run: Run, docs: Path, api: FakeApi
) -> None:
    run("ingest", "docs/a.md")
    (old,) = api.files
    (docs / "a.md").write_text("changed")
    api.requests.clear()
    run("ingest", "docs/a.md")
    (new,) = api.files
    assert api.attached["vs_0001"][new]["tidegate"]["replaces"] == old
    steps = [(method, path) for method, path in api.requests if method in {"POST", "DELETE"}]
    assert steps[:2] == [("POST", "/v1/files"), ("POST", "/v1/vector_stores/vs_0001/files")]
    assert steps[2:] == [("DELETE", f"/v1/files/{old}")]
    assert api.requests.index(steps[2]) > api.requests.index(
        ("GET", f"/v1/vector_stores/vs_0001/files/{new}")
    )


def test_a_replaced_version_that_nobody_waited_for_is_cleared_away_by_the_next_run(
    run: Run, docs: Path, api: FakeApi
) -> None:
    run("ingest", "docs/a.md")
    (docs / "a.md").write_text("changed")
    run("ingest", "docs/a.md", "--no-wait")
    assert len(api.files) == 2
    run("ingest", "docs/a.md")
    assert run("ingest", "docs/a.md").out == "documents: 1 file unchanged.\n"
    assert list(api.files) == list(api.attached["vs_0001"])


def test_a_file_in_another_collection_is_detached_but_kept(run: Run, docs: Path, api: FakeApi) -> None:
    run("ingest", "docs/a.md")
    (file_id,) = api.files
    other = api.add_store("other")
    api.attached[other][file_id] = dict(api.attached["vs_0001"][file_id])
    (docs / "a.md").write_text("changed")
    run("ingest", "docs/a.md")
    assert file_id in api.files
    assert list(api.attached[other]) == [file_id]
    assert file_id not in api.attached["vs_0001"]


def test_an_upload_that_cannot_be_attached_is_taken_back(run: Run, docs: Path, api: FakeApi) -> None:
    api.refuses_attaching = True
    assert run("ingest", "docs/a.md").code == 1
    assert api.files == {}


def test_a_reused_file_that_cannot_be_attached_stays_where_it_is(run: Run, docs: Path, api: FakeApi) -> None:
    run("ingest", "docs/a.md", "-c", "first")
    (file_id,) = api.files
    api.refuses_attaching = True
    assert run("ingest", "docs/a.md", "-c", "second").code == 1
    assert list(api.files) == [file_id]
    assert api.names("first") == {"docs/a.md": "completed"}


def test_a_collection_is_made_when_missing_and_used_when_there(run: Run, docs: Path, api: FakeApi) -> None:
    run("ingest", "docs/a.md", "-c", "hand book")
    run("ingest", "docs", "-c", "hand book")
    assert [store["name"] for store in api.stores.values()] == ["hand book"]


def test_failures_are_told_with_reasons_and_do_not_stop_the_rest(run: Run, docs: Path, api: FakeApi) -> None:
    (docs / "big.md").write_text("too large")
    (docs / "odd.md").write_text("odd")
    api.unreadable = frozenset({b"odd"})
    result = run("ingest", "docs")
    assert result.code == 1
    assert result.out == (
        "documents: 2 files added, 2 files failed.\n"
        "  failed  docs/big.md: The file is larger than 10 bytes.\n"
        "  failed  docs/odd.md: This is not text.\n"
    )


def test_a_failed_new_version_leaves_the_old_one(run: Run, docs: Path, api: FakeApi) -> None:
    run("ingest", "docs/a.md")
    (docs / "a.md").write_text("odd")
    api.unreadable = frozenset({b"odd"})
    assert run("ingest", "docs/a.md").code == 1
    assert sorted(item["status"] for item in api.attached["vs_0001"].values()) == ["completed", "failed"]
    api.unreadable = frozenset()
    assert run("ingest", "docs/a.md").code == 0
    assert [item["status"] for item in api.attached["vs_0001"].values()] == ["completed"]


def test_more_files_than_a_page_are_all_known(run: Run, docs: Path, api: FakeApi) -> None:
    api.page_items = 7
    for number in range(30):
        (docs / f"{number}.md").write_text(str(number))
    assert run("ingest", "docs").out == "documents: 32 files added.\n"
    assert run("ingest", "docs").out == "documents: 32 files unchanged.\n"
    assert len(api.files) == 32


def test_a_busy_service_is_given_time(run: Run, docs: Path, api: FakeApi) -> None:
    api.refusals = 3
    assert run("ingest", "docs").out == "documents: 2 files added.\n"


def test_no_wait_leaves_the_indexing_to_the_service(run: Run, docs: Path, api: FakeApi) -> None:
    result = run("ingest", "docs", "--no-wait")
    assert result.code == 0
    assert result.out.startswith("documents: 2 files queued.\n")
    assert set(api.names("documents").values()) == {"in_progress"}
    assert run("ingest", "docs").out == "documents: 2 files added.\n"
    assert len(api.files) == 2


def test_the_summary_can_be_read_by_programs(run: Run, docs: Path) -> None:
    summary = run("ingest", "docs", "--json").json()
    assert summary["added"] == ["docs/a.md", "docs/sub/ü b.md"]
    assert summary["failed"] == {}


def test_a_refused_key_stops_the_run_with_one_sentence(run: Run, docs: Path, api: FakeApi) -> None:
    api.key = "tg-right"
    result = run("ingest", "docs", "--key", "tg-wrong")
    assert (result.code, result.err.count("\n")) == (1, 1)


def test_a_key_that_is_revoked_halfway_stops_the_run(run: Run, docs: Path, api: FakeApi) -> None:
    upload = api.new_id

    def revoke(prefix: str) -> str:
        api.key = "tg-other" if prefix == "file-" else api.key
        return upload(prefix)

    api.new_id = revoke  # type: ignore[method-assign]
    result = run("ingest", "docs")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "--key" in result.err


@pytest.mark.parametrize(
    "args",
    [("nix",), ("docs", "--include", "*.pdf"), ("docs", "-c", ""), ()],
    ids=["path", "filter", "name", "none"],
)
def test_wrong_usage_is_exit_2_and_asks_nothing(
    run: Run, docs: Path, api: FakeApi, args: tuple[str, ...]
) -> None:
    assert run("ingest", *args).code == 2
    assert api.requests == []


def test_ctrl_c_while_indexing_leaves_what_a_second_run_finishes(
    spawn: Spawn, run: Run, docs: Path, api: FakeApi
) -> None:
    run("ingest", "docs/a.md")
    (docs / "a.md").write_text("changed")
    api.stuck = True
    api.requests.clear()
    process = spawn("ingest", "docs/a.md", "--url", api.url)
    attached, looked_at = ((method, "/v1/vector_stores/vs_0001/files") for method in ("POST", "GET"))
    wait_until(lambda: attached in api.requests and api.requests[-1] == looked_at)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "Stopped. 1 uploaded file" in err
    assert "Traceback" not in err
    assert sorted(item["status"] for item in api.attached["vs_0001"].values()) == ["completed", "in_progress"]
    api.stuck = False
    assert run("ingest", "docs/a.md").out == "documents: 1 file replaced.\n"
    assert list(api.files) == list(api.attached["vs_0001"]) == ["file-0003"]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
