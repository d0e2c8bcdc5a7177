"""The event loop's lateness, with time as an argument."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.lag import EVERY_S, LoopLag


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_worst_of_the_last_seconds_is_told_and_then_forgotten() -> None:
    clock = Clock()
    lag = LoopLag(clock)
    lag.note(0.3)
    lag.note(0.01)
    assert lag.worst_s() == 0.3
    clock.now += 1.0
    lag.note(0.02)
    assert lag.worst_s() == 0.3
    clock.now += 1.0
    assert lag.worst_s() == 0.02
    clock.now += 1.0
    assert lag.worst_s() == 0.0


def test_after_a_long_silence_nothing_old_is_told() -> None:
    clock = Clock()
    lag = LoopLag(clock)
    lag.note(5.0)
    clock.now += 60
    assert lag.worst_s() == 0.0


def test_before_it_runs_there_is_no_lag() -> None:
    assert LoopLag(Clock()).worst_s() == 0.0


def test_a_blocked_loop_is_late_by_as_long_as_it_was_blocked() -> None:
    async def measured() -> tuple[float, float]:
        lag = LoopLag()
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(0)
        began = time.monotonic()
        time.sleep(EVERY_S + 0.05)  # noqa: ASYNC251 - the fault that is measured
        during, blocked_s = lag.worst_s(), time.monotonic() - began
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        after = lag.worst_s()
        task.cancel()
        assert after >= during * 0.9
        return during, blocked_s

    lag_s, blocked_s = asyncio.run(measured())
    assert lag_s == pytest.approx(blocked_s - EVERY_S, abs=0.045)
