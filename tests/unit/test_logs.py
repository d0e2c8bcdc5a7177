"""Log lines as JSON, with the id of the request that they belong to."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

from gateway.logs import JsonFormatter
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
