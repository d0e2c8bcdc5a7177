"""Reading in a child process: the same result as in ours, and an end to what would not end."""

from __future__ import annotations

import subprocess
import time

import pytest

from gateway.errors import Unprocessable
from gateway.ingest import sandbox
from gateway.ingest.reading import Limits, Reading, read_document
from gateway.ingest.sandbox import read_limited

LIMITS = Limits(900, 150)
GUIDE = "# Guide\n\n" + "The gate closes by itself — always. " * 40 + "\n\n## Open\n\nNobody opens it.\n"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every child that was started."""
    started: list[object] = []
    run = subprocess.run

    def counted(*args: object, **options: object) -> object:
        started.append(args)
        return run(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", counted)
    return started


def test_a_small_text_needs_no_child(runs: list[object]) -> None:
    found = read_limited(GUIDE.encode(), "guide.md", LIMITS)
    assert found == read_document(GUIDE.encode(), "guide.md", LIMITS)
    assert [cut.heading for cut in found.cuts][-1] == "Guide > Open"
    assert runs == []


@pytest.mark.parametrize(
    ("data", "filename"),
    [
        ((GUIDE * 200).encode(), "guide.md"),
        (b"<h1>Guide</h1><p>The gate closes &mdash; always.</p>", "guide.html"),
        ("<!doctype html><p>Grüße".encode("utf-16"), "guide"),
    ],
    ids=["large", "html by name", "html by content"],
)
def test_a_child_reads_what_is_large_or_html_as_we_would(
    runs: list[object], data: bytes, filename: str
) -> None:
    found = read_limited(data, filename, LIMITS)
    assert isinstance(found, Reading)
    assert found == read_document(data, filename, LIMITS)
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"<html><script>x</script></html>", "empty_file"), (b"words\0" * 100_000, "unsupported_file")],
)
def test_a_refusal_of_the_child_is_ours(runs: list[object], data: bytes, code: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        read_limited(data, "a.txt", LIMITS)
    assert caught.value.code == code
    assert caught.value.message.endswith(".")
    assert len(runs) == 1


@pytest.mark.parametrize(
    "data", [b"<html>" + b"<a " * 60_000, b"# t\n" * 3_000_000], ids=["time", "time and memory"]
)
def test_a_file_beyond_the_limits_is_refused_soon(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CPU_S", 0.5)
    monkeypatch.setattr(sandbox, "CPU_S_PER_BYTE", 0.0)
    began = time.monotonic()
    with pytest.raises(Unprocessable) as caught:
        read_limited(data, "a.md", LIMITS)
    assert caught.value.code == "file_too_complex"
    assert time.monotonic() - began < 15
