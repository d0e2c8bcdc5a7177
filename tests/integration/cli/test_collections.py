"""Collections listed and changed over a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.http_api import FakeApi
from tests.integration.cli.conftest import Run


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.collections.POLL_S", 0.0)


def test_all_collections_are_listed_with_what_is_in_them(run: Run, workplace: Path, api: FakeApi) -> None:
    busy = api.stores[api.add_store("busy")]
    busy["file_counts"] = {"completed": 3, "in_progress": 2, "failed": 1}
    busy["tidegate"] |= {"num_chunks": 1200, "chunks_done": 300, "next_embedder": "tiny"}
    api.add_store("calm")
    lines = run("collections").out.splitlines()
    assert lines[0].split() == ["name", "id", "files", "chunks", "embedder", "state"]
    assert "mini → tiny" in lines[1]
    assert "reading 2 files, 300 of 1,200 chunks done; 1 file failed" in lines[1]
    assert lines[2].split()[-1] == "ready"
    assert [store["name"] for store in run("collections", "--json").json()] == ["busy", "calm"]


def test_a_change_of_embedder_is_followed_to_its_end(run: Run, workplace: Path, api: FakeApi) -> None:
    api.add_store("docs")
    result = run("collections", "docs", "--embedder", "tiny")
    assert (result.code, result.out) == (0, "docs is searched with tiny.\n")
    assert "1 of 2 chunks have their new vector." in result.err


def test_a_change_can_be_left_to_the_service(run: Run, workplace: Path, api: FakeApi) -> None:
    api.add_store("docs")
    api.stuck = True
    result = run("collections", "docs", "--embedder", "tiny", "--no-wait")
    assert result.out == "docs changes from mini to tiny in the background.\n"


def test_an_unknown_embedder_is_the_services_no(run: Run, workplace: Path, api: FakeApi) -> None:
    api.add_store("docs")
    result = run("collections", "docs", "--embedder", "huge")
    assert (result.code, result.err) == (1, "tidegate: There is no embedder 'huge'.\n")


def test_no_collection_is_told_with_what_makes_one(run: Run, workplace: Path) -> None:
    assert "tidegate ingest" in run("collections").out


@pytest.mark.parametrize(
    "args",
    [("--embedder", "tiny"), ("nix",), ("nix", "--embedder", "tiny")],
    ids=["no name", "unknown", "both"],
)
def test_what_names_no_collection_is_wrong_usage(
    run: Run, workplace: Path, api: FakeApi, args: tuple[str, ...]
) -> None:
    api.add_store("docs")
    assert run("collections", *args).code == 2
