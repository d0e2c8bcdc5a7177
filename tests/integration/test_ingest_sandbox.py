"""Reading in child processes: the same result as in ours, and an end to what would not end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from gateway.errors import Unprocessable
from gateway.ingest import reader_process, sandbox
from gateway.ingest.reading import Limits, Reading, read_document
from gateway.ingest.sandbox import Answer, Request, Sandbox
from tests.fakes.documents import body, formatting_bomb, heading, page_break, pdf, simple_word

LIMITS = Limits(900, 150)
GUIDE = "# Guide\n\n" + "The gate closes by itself — always. " * 40 + "\n\n## Open\n\nNobody opens it.\n"
PAGE = b"<h1>Guide</h1><p>The gate closes &mdash; always.</p>"


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process ids of all readers that were started."""
    pids: list[int] = []
    popen = subprocess.Popen

    def noted(*args: object, **options: object) -> object:
        process = popen(*args, **options)  # type: ignore[call-overload]
        pids.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", noted)
    return pids


def _refusal(call: Callable[[], Reading]) -> Unprocessable:
    with pytest.raises(Unprocessable) as caught:
        call()
    return caught.value


def test_a_small_text_needs_no_child(box: Sandbox, started: list[int]) -> None:
    found = box.read(GUIDE.encode(), "guide.md", LIMITS)
    assert found == read_document(GUIDE.encode(), "guide.md", LIMITS)
    assert [cut.heading for cut in found.cuts][-1] == "Guide > Open"
    assert started == []


@pytest.mark.parametrize(
    ("data", "filename"),
    [
        ((GUIDE * 200).encode(), "guide.md"),
        (PAGE, "guide.html"),
        ("<!doctype html><p>Grüße".encode("utf-16"), "guide"),
        (pdf(heading("Guide"), body("It closes."), page_break(), body("Always.")), "guide.pdf"),
        (simple_word(), "guide.docx"),
        (b"name,price\nnut,1\nbolt,2\n", "parts.csv"),
        (b'[{"name": "nut"}, {"name": "bolt"}]', "parts.json"),
    ],
    ids=["large", "html by name", "html by content", "pdf", "docx", "csv", "json"],
)
def test_a_child_reads_what_needs_a_parser_as_we_would(
    box: Sandbox, started: list[int], data: bytes, filename: str
) -> None:
    found = box.read(data, filename, LIMITS)
    assert isinstance(found, Reading)
    assert found == read_document(data, filename, LIMITS)
    assert len(started) == 1


def test_pages_come_with_the_cuts(box: Sandbox) -> None:
    data = pdf(heading("One"), body("First. " * 100), page_break(), heading("Two"), body("Second. " * 100))
    cuts = box.read(data, "a.pdf", LIMITS).cuts
    assert {(cut.page, cut.heading) for cut in cuts} == {(1, "One"), (2, "Two")}


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"<html><script>x</script></html>", "empty_file"), (b"words\0" * 100_000, "unsupported_file")],
)
def test_a_refusal_of_the_child_is_ours_and_costs_no_reader(
    box: Sandbox, started: list[int], data: bytes, code: str
) -> None:
    for _ in range(2):
        error = _refusal(lambda: box.read(data, "a.txt", LIMITS))
        assert error.code == code
        assert error.message.endswith(".")
    assert len(started) == 1


def test_one_reader_serves_many_files(box: Sandbox, started: list[int]) -> None:
    for number in range(30):
        found = box.read(PAGE + b"<p>%d</p>" % number, "guide.html", LIMITS)
        assert found.text.endswith(f"{number}\n")
    assert len(started) == 1


def test_files_read_at_once_do_not_mix(box: Sandbox, started: list[int]) -> None:
    def read(number: int) -> bool:
        return box.read(PAGE + b"<p>number %d</p>" % number, "a.html", LIMITS).text.endswith(f" {number}\n")

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(read, range(30)))
    assert len(started) <= 3


@pytest.mark.parametrize(
    ("data", "filename"),
    [(b"<div>" * 60_000, "a.html"), (b"# t\n" * 3_000_000, "a.md"), (formatting_bomb(4000), "a.html")],
    ids=["time", "time or memory", "memory"],
)
def test_a_file_beyond_the_limits_is_refused_soon_and_the_next_one_is_read(
    box: Sandbox, data: bytes, filename: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "CPU_S", 1.0)
    monkeypatch.setattr(sandbox, "CPU_S_PER_BYTE", 0.0)
    began = time.monotonic()
    error = _refusal(lambda: box.read(data, filename, LIMITS))
    assert error.code == "file_too_complex"
    assert time.monotonic() - began < 30
    assert box.read(PAGE, "guide.html", LIMITS).cuts


def test_a_reader_that_stands_still_is_given_up(
    box: Sandbox, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    box.read(PAGE, "a.html", LIMITS)  # it is up, so the time to start is over
    monkeypatch.setattr(sandbox, "CPU_S", 0.1)
    os.kill(started[0], signal.SIGSTOP)
    error = _refusal(lambda: box.read(PAGE, "a.html", LIMITS))
    assert error.code == "file_too_complex"
    assert "no answer in time" in error.detail
    assert not psutil.pid_exists(started[0])


def test_a_reader_killed_between_files_is_replaced(box: Sandbox, started: list[int]) -> None:
    box.read(PAGE, "a.html", LIMITS)
    os.kill(started[0], signal.SIGKILL)
    psutil.Process(started[0]).wait(5)
    assert box.read(PAGE, "a.html", LIMITS).cuts
    assert len(started) == 2


def test_no_reader_outlives_the_sandbox(started: list[int]) -> None:
    with Sandbox() as box:
        box.read(PAGE, "a.html", LIMITS)
    assert not psutil.pid_exists(started[0])


@pytest.mark.parametrize("is_up", [True, False], ids=["at work", "starting"])
def test_a_sandbox_closed_while_a_file_is_read_leaves_no_reader_and_waits_for_none(
    started: list[int], is_up: bool
) -> None:
    box = Sandbox()
    if is_up:
        box.read(PAGE, "a.html", LIMITS)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(box.read, b"<div>" * 60_000, "a.html", LIMITS)  # takes all of its time
        deadline = time.monotonic() + 10
        while not (started and _is_at_work(started[0], is_up=is_up)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        began = time.monotonic()
        box.close()
        with pytest.raises(Unprocessable):
            reading.result(10)
    assert time.monotonic() - began < 2.0
    assert not any(psutil.pid_exists(pid) for pid in started)


def _is_at_work(pid: int, *, is_up: bool) -> bool:
    return not is_up or bool(psutil.Process(pid).children())


def test_a_reader_ends_with_its_parent() -> None:
    code = (
        "import os, signal\nfrom gateway.ingest.sandbox import *\nbox = Sandbox()\n"
        "box.read(b'<p>x', 'a.html', Limits(900, 150))\n"
        "print(box._idle[0]._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    reader = int(done.stdout)
    for _ in range(500):
        if not psutil.pid_exists(reader) or psutil.Process(reader).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.01)
    pytest.fail("the reader is still there")


def _answered(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Answer:
    def broken(*_: object) -> Reading:
        raise error

    monkeypatch.setattr(reader_process, "read_document", broken)
    return reader_process.answered(Request("a.pdf", LIMITS, 1.0, 2**30, b""))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "file_too_complex"),
        (RecursionError(), "file_too_complex"),
        (ZeroDivisionError("inside a parser"), "damaged_file"),
    ],
    ids=["memory", "recursion", "bug"],
)
def test_whatever_a_parser_raises_becomes_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    answer = _answered(monkeypatch, error)
    assert (answer.reading, answer.code) == (None, code)
    assert answer.message.endswith(".")
    assert type(error).__name__ in answer.detail
