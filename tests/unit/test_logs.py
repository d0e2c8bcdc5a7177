"""Log lines as JSON, with the id of the request that they belong to."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.logs import BatchHandler, JsonFormatter, info
from gateway.request_id import current, working_for


def logged(work: Any) -> list[dict[str, Any]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("gateway-0"))
    log = logging.getLogger("tidegate.test_logs")
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        work(log)
    finally:
        log.removeHandler(handler)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_when_where_and_what() -> None:
    (line,) = logged(lambda log: log.warning('"%s"\nµ', "two lines"))
    assert line["time"].endswith("Z")
    assert {name: line[name] for name in line if name != "time"} == {
        "level": "warning",
        "part": "gateway-0",
        "logger": "tidegate.test_logs",
        "message": '"two lines"\nµ',
    }


def test_a_failure_brings_its_traceback_in_the_same_line() -> None:
    def work(log: logging.Logger) -> None:
        try:
            raise ValueError("no")
        except ValueError:
            log.exception("failed")

    (line,) = logged(work)
    assert line["error"].endswith("ValueError: no")


async def test_each_request_keeps_its_own_id_and_none_outlives_it() -> None:
    both = asyncio.Barrier(2)

    async def request(name: str) -> str:
        with working_for(name):
            await both.wait()
            return await asyncio.create_task(inner())

    async def inner() -> str:
        return current()

    assert await asyncio.gather(request("a"), request("b")) == ["a", "b"]
    assert current() == ""
    with working_for("c"):
        (line,) = logged(lambda log: log.info("x"))
    assert line["request_id"] == "c"


@pytest.mark.parametrize("is_json", [True, False])
def test_the_short_way_writes_the_same_line(is_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that logs as ours do, in JSON and in text."""
    stream = io.StringIO()
    handler = BatchHandler(stream)
    handler.setFormatter(JsonFormatter("gateway-0") if is_json else logging.Formatter("%(name)s %(message)s"))
    log = logging.getLogger("tidegate.test_short")
    log.setLevel(logging.INFO)
    monkeypatch.setattr(logging.root, "handlers", [handler])
    with working_for("chatcmpl-1"):
        info(log, "100 % of it")
        log.info("%s", "100 % of it")
    handler.flush()
    one, other = stream.getvalue().splitlines()
    if is_json:
        told, ordinary = json.loads(one), json.loads(other)
        assert told.pop("time")[:16] == ordinary.pop("time")[:16]
        assert told == ordinary
    else:
        assert one == other == "tidegate.test_short 100 % of it"
    log.setLevel(logging.WARNING)
    info(log, "not asked for")
    handler.flush()
    assert "not asked for" not in stream.getvalue()


def test_the_short_way_raises_nothing_where_nobody_reads_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer that was given is not undone for want of its line."""
    stream = (tmp_path / "log").open("w")
    stream.close()
    handler = BatchHandler(stream)
    handler.EVERY_S, handler.MAX_CHARS = 3600.0, 10
    handler.setFormatter(JsonFormatter("gateway-0"))
    log = logging.getLogger("tidegate.test_closed")
    log.setLevel(logging.INFO)
    monkeypatch.setattr(logging.root, "handlers", [handler])
    info(log, "more than it keeps to itself")
    assert "closed file" in capsys.readouterr().err


def test_lines_are_written_together_and_a_warning_at_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        handler = BatchHandler(stream)
        handler.EVERY_S = 3600.0
        log = logging.getLogger("tidegate.test_batches")
        log.propagate = False
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        log.info("first")
        before = (tmp_path / "log").read_text()
        log.warning("second")
        log.removeHandler(handler)
    assert (before, (tmp_path / "log").read_text()) == ("", "first\nsecond\n")


def test_lines_that_gather_are_written_soon_and_all_of_them_at_the_end(tmp_path: Path) -> None:
    """In a process of its own: the end of one is what is asked about."""
    program = (
        "import logging, sys, pathlib, time\n"
        "from gateway.logs import BatchHandler\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "logging.basicConfig(level=logging.INFO, handlers=[BatchHandler(out.open('w'))])\n"
        "logging.info('soon')\n"
        "until = time.monotonic() + 30\n"
        "while not out.read_text() and time.monotonic() < until: time.sleep(0.01)\n"
        "print(out.read_text(), end='')\n"
        "logging.info('last')\n"
    )
    out = tmp_path / "log"
    ran = subprocess.run(
        [sys.executable, "-c", program, str(out)], capture_output=True, text=True, check=True
    )
    assert (ran.stdout, out.read_text()) == ("INFO:root:soon\n", "INFO:root:soon\nINFO:root:last\n")


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    handler = BatchHandler(open(writer, "w"))  # noqa: SIM115 - the handler keeps it
    log = logging.getLogger("tidegate.test_no_reader")
    log.propagate = False
    log.addHandler(handler)
    log.warning("nobody hears this")
    log.removeHandler(handler)
    assert "BrokenPipeError" in capfd.readouterr().err
