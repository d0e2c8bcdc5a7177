"""The sample collection, over a real socket: tries that broke off, and orders to stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.client import Target
from gateway.supervise.samples import COLLECTION, SamplesFailed, ingest_samples
from tests.fakes.http_api import FakeApi, running_api

Lines = list[str]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with running_api() as fake:
        yield fake


@pytest.fixture
def documents(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("README.md", "DECISIONS.md")]
    for path in paths:
        path.write_text(f"# {path.stem}\n\nThe tide turns twice a day.\n")
    return paths


def never() -> bool:
    return False


def test_every_document_is_ingested_and_told(api: FakeApi, documents: list[Path]) -> None:
    lines: Lines = []
    collection = ingest_samples(Target(api.url, is_direct=True), documents, lines.append, never)
    assert api.names(COLLECTION) == {"README.md": "completed", "DECISIONS.md": "completed"}
    assert api.stores[collection or ""]["name"] == COLLECTION
    assert lines[-1] == "2 of 2 documents ingested"


def test_a_second_try_uses_what_the_first_has_left(api: FakeApi, documents: list[Path]) -> None:
    api.unreadable = frozenset({documents[1].read_bytes()})
    target = Target(api.url, is_direct=True)
    with pytest.raises(SamplesFailed, match=r"1 of 2 documents failed, first DECISIONS.md"):
        ingest_samples(target, documents, print, never)
    api.unreadable = frozenset()
    ingest_samples(target, documents, print, never)
    assert [store["name"] for store in api.stores.values()] == [COLLECTION]
    assert api.names(COLLECTION) == {"README.md": "completed", "DECISIONS.md": "completed"}
    assert len(api.files) == 2


def test_an_order_to_stop_is_obeyed_at_once(api: FakeApi, documents: list[Path]) -> None:
    api.stuck = True
    over_s = time.monotonic() + 0.3
    assert ingest_samples(Target(api.url), documents, print, lambda: time.monotonic() > over_s) is None
    assert time.monotonic() - over_s < 1
    api.stuck = False
    assert ingest_samples(Target(api.url), documents, print, never)
    assert len(api.stores) == 1
    assert len(api.files) == 2


def test_a_service_that_is_gone_is_one_sentence(documents: list[Path]) -> None:
    with pytest.raises(SamplesFailed, match="No tidegate answers"):
        ingest_samples(Target("http://127.0.0.1:9"), documents, print, never)


def test_a_proxy_of_the_environment_has_no_part(
    api: FakeApi, documents: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert ingest_samples(Target(api.url, is_direct=True), documents, print, never)
