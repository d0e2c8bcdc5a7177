"""Expected waits against lines that are played through."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from gateway.admission.drain import Drain, Left, Slot, fluid_ms
from gateway.admission.line import Ask, FairLine


def play(limit: int, hold_of: Callable[[random.Random], float], num_waiting: int, seed: int) -> list[float]:
    """Wait of the newest / what it was told, for each that waited in a line that is kept full."""
    draw = random.Random(seed)
    line = FairLine(limit, 10_000, 10**9)
    ends: list[tuple[float, str]] = []
    entered: dict[str, tuple[float, float]] = {}
    since: dict[str, float] = {}
    ratios: list[float] = []
    now = 0.0

    def began(name: str) -> None:
        since[name] = now
        heapq.heappush(ends, (now + hold_of(draw), name))

    for number in range(3000):
        while len(line) < num_waiting:
            name = f"{number:06d}-{len(entered):06d}"
            found = line.enter(name, Ask("t", 0, 10, 0, 10**12), int(now))
            entered[name] = now, found.eta_ms
            if found.status == "granted":
                began(name)
        now, name = heapq.heappop(ends)
        line.settle("t", 0, -5)
        line.release(name, now - since[name], int(now))
        for moved in line.moves().granted:
            at, eta_ms = entered[moved]
            if number > 500 and now > at:
                ratios.append(eta_ms / (now - at))
            began(moved)
    return ratios


def share_within(ratios: list[float], slack: float) -> float:
    return sum(1 / (1 + slack) <= ratio <= 1 / (1 - slack) for ratio in ratios) / len(ratios)


@pytest.mark.parametrize("num_waiting", [3, 16, 40])
def test_slots_in_step_are_read_off_their_clocks(num_waiting: int) -> None:
    assert share_within(play(16, lambda _: 1300.0, num_waiting, 1), 0.05) > 0.98


@pytest.mark.parametrize("num_waiting", [16, 40])
def test_holds_that_vary_a_little_keep_most_forecasts_close(num_waiting: int) -> None:
    assert share_within(play(16, lambda draw: draw.uniform(1100, 1500), num_waiting, 2), 0.25) > 0.9


def test_holds_without_memory_are_right_in_the_mean() -> None:
    ratios = play(16, lambda draw: draw.expovariate(1 / 1300), 48, 3)
    assert 0.8 < sum(ratios) / len(ratios) < 1.3


def test_unmeasured() -> None:
    assert Drain().forecast([3, 0, 0], 0, Left([0.0], -1), 2, 100).usual_ms == -1
    assert fluid_ms(3, -1, 2) == -1


def test_bands_that_go_first_take_their_part_of_the_slots() -> None:
    drain = Drain()
    for number in range(200):  # half of two slots by interactive holds
        drain.note(0, 500, number * 500)
        drain.note(2, 1000, number * 500)
    now = 200 * 500
    slots = [Slot(2, now), Slot(2, now)]
    batch = drain.forecast([0, 0, 4], 2, drain.left(slots, now), 2, now).usual_ms
    alone = drain.forecast([0, 0, 4], 0, drain.left(slots, now), 2, now).usual_ms
    assert batch == pytest.approx(2 * alone, rel=0.15)


def test_light_tenants_take_their_part_of_the_slots() -> None:
    drain = Drain()
    for number in range(200):
        drain.note(0, 500, number * 500, is_line=True, is_light=True)
        drain.note(0, 500, number * 500, is_line=True)
    now = 200 * 500
    found = drain.forecast([4, 0, 0], 0, drain.left([Slot(0, now)], now), 2, now)
    assert found.lighter == pytest.approx(2, rel=0.1)
    assert found.slower == 1
    below = drain.forecast([0, 0, 4], 2, drain.left([Slot(2, now)], now), 2, now)
    assert below.lighter == 1  # a better band is counted as a band
    later = drain.forecast([4, 0, 0], 0, drain.left([Slot(0, now)], now), 2, now + 60_000)
    assert later.lighter == found.lighter  # an engine that stands still says nothing


def test_slots_that_nobody_waited_for_tell_of_nobody_who_overtakes() -> None:
    drain = Drain()
    for number in range(200):
        drain.note(0, 500, number * 500, is_light=True)
    now = 200 * 500
    assert drain.forecast([4, 0, 0], 0, drain.left([Slot(0, now)], now), 2, now).lighter == 1
    drain.note(0, 500, now, is_line=True, is_light=True)  # one is not many
    assert drain.forecast([4, 0, 0], 0, drain.left([Slot(0, now)], now), 16, now).lighter < 1.2


def test_who_is_ahead_counts_by_its_own_bands_holds() -> None:
    drain = Drain()
    for number in range(50):
        drain.note(0, 100, number)
        drain.note(2, 2000, number)
    slots = [Slot(0, 10**6)]
    short = drain.forecast([4, 0, 0], 0, drain.left(slots, 10**6), 1, 10**6).usual_ms
    long = drain.forecast([0, 0, 4], 0, drain.left(slots, 10**6), 1, 10**6).usual_ms
    assert short == pytest.approx(500, rel=0.05)
    assert long == pytest.approx(8100, rel=0.05)


def test_what_was_busy_long_ago_takes_nothing() -> None:
    drain = Drain()
    drain.note(0, 10_000, 0)
    assert drain.forecast([0, 0, 0], 2, drain.left([], 10**6), 1, 10**6).usual_ms == pytest.approx(0, abs=1)
    assert drain.forecast([0, 0, 1], 2, drain.left([Slot(0, 0)], 0), 1, 0).usual_ms > 15_000
