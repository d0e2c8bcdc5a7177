"""When a start is given up, and what is then shown."""

from __future__ import annotations

from typing import Any

from gateway.supervise.readiness import MAX_DEATHS, DeathWatch, Part


def info(start: int, state: str = "STARTING") -> dict[str, dict[str, Any]]:
    return {"redis": {"name": "redis", "start": start, "statename": state}}


def test_a_program_that_dies_again_and_again_is_named() -> None:
    watch = DeathWatch()
    seen = [watch.look(info(start)) for start in range(1, MAX_DEATHS + 2)]
    assert seen == [""] * MAX_DEATHS + ["redis"]


def test_a_program_that_runs_is_not_counted() -> None:
    watch = DeathWatch()
    assert [watch.look(info(1, "RUNNING")) for _ in range(50)] == [""] * 50


def test_a_program_given_up_by_the_supervisor_is_named_at_once() -> None:
    assert DeathWatch().look(info(1, "FATAL")) == "redis"


def test_a_part_becomes_ready_once() -> None:
    answers = ["starting", "loading", ""]
    part = Part("triton-0", lambda: answers.pop(0))
    assert [part.ask() for _ in range(4)] == [False, False, True, False]
    assert part.ready_s >= 0
