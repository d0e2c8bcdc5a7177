"""What overtaking makes of an expected wait: the maths, and crowds that are played through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.drain import Drain, Forecast
from gateway.admission.line import Ask, FairLine
from gateway.admission.pace import MOST, SURE_SHARE, Band, Paces
from tests.unit.admission.crowd import GOODPUT, HOLD_MS, SLOTS, Caller, Crowd, Source, arrivals, share_near

QUEUE = 64
FLOOD = [Source("flooder", 50), Source("modest", 19, num_tenants=19)]
PRIORITIES = [Source("people", 20, tokens=16), Source("jobs", 80, band=2, tokens=96)]
STEADY = (5_000, 40_000)  # who came then was served while the load lasted, which goes on until:
GROWN = (12_000, 40_000)  # when the line was as long as it may be
LOAD_MS = 60_000


def played(sources: list[Source], times: float, seed: int, *, headroom: float = 0.0) -> list[Caller]:
    """times: the load, over what can be done."""
    line = FairLine(SLOTS, QUEUE, 10**9, headroom)
    return Crowd(line).play(arrivals(sources, times * GOODPUT, LOAD_MS, seed))


def test_beside_a_flood_nine_of_ten_are_told_what_comes() -> None:
    runs = [played(FLOOD, 1.38, seed) for seed in range(5)]
    assert sum(share_near(callers, of_ms=STEADY) for callers in runs) / len(runs) >= 0.9
    for callers in runs:
        assert share_near(callers, "flooder", of_ms=GROWN) >= 0.9  # who is overtaken
        assert share_near(callers, "modest", of_ms=STEADY) >= 0.98


def test_a_flood_that_begins_is_told_of_those_who_will_overtake_it() -> None:
    """Before anything was measured of its line: what light tenants asked for before it came counts."""
    first, all_of_it = [], []
    for seed in range(6):
        both = arrivals(FLOOD, 1.38 * GOODPUT, LOAD_MS, seed)
        callers = Crowd(FairLine(SLOTS, QUEUE, 10**9)).play(
            each for each in both if each.at_ms >= 20_000 or each.source == "modest"
        )
        first.append(share_near(callers, "flooder", of_ms=(20_000, 26_000)))
        all_of_it.append(share_near(callers, of_ms=(20_000, 45_000)))
    assert sum(first) / len(first) >= 0.65
    assert sum(all_of_it) / len(all_of_it) >= 0.9


@pytest.mark.parametrize("seed", [1, 2])
def test_below_better_bands_nine_of_ten_are_told_what_comes(seed: int) -> None:
    callers = played(PRIORITIES, 10, seed)
    assert share_near(callers, of_ms=STEADY) >= 0.9
    assert share_near(callers, "jobs", of_ms=STEADY) >= 0.9


def test_a_tenant_that_leaves_slots_free_is_told_so() -> None:
    assert share_near(played(FLOOD, 1.38, 1, headroom=0.25), "flooder", of_ms=STEADY) >= 0.85


@pytest.mark.parametrize("times", [4, 10])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_lone_tenant_is_told_what_comes(times: float, seed: int) -> None:
    assert share_near(played([Source("one", 1)], times, seed), of_ms=STEADY) == 1.0


def test_tenants_that_are_alike_are_told_what_comes() -> None:
    """Who of them overtakes whom is chance, so a few waits are off."""
    alike = [Source("alike", 1, num_tenants=20)]
    shares = [share_near(played(alike, times, seed), of_ms=STEADY) for times in (2, 4) for seed in (1, 2, 3)]
    assert sum(shares) / len(shares) >= 0.99


@pytest.mark.parametrize("queue", [8, 16, 24])
@pytest.mark.parametrize("times", [2, 4, 10])
def test_in_a_short_line_all_are_told_what_comes(queue: int, times: float) -> None:
    """Of slots that come free all at once, too: many ends at one look, and few at others, say nothing of overtaking."""
    for seed in range(3):
        line = FairLine(SLOTS, queue, 10**9)
        callers = Crowd(line).play(arrivals([Source("one", 1)], times * GOODPUT, LOAD_MS, seed))
        assert share_near(callers, of_ms=STEADY) >= 0.95


def test_a_surge_that_ends_is_forgotten() -> None:
    """The flooder goes on alone; after a while it is told what it was told before anybody overtook it."""
    line = FairLine(SLOTS, QUEUE, 10**9)
    both = list(arrivals(FLOOD, 1.38 * GOODPUT, 30_000, 1))
    alone = arrivals([Source("flooder", 1)], 1.38 * GOODPUT, 80_000, 2)
    callers = Crowd(line).play(iter([*both, *(each for each in alone if each.at_ms >= 30_000)]))
    assert share_near(callers, of_ms=(50_000, 80_000)) >= 0.95


def told_in_a_stall(now_ms: int) -> list[float]:
    """What the last in line is told while nothing ends any more."""
    line = flooded()
    name = line.waiting_names()[-1]
    told = []
    for at_ms in range(now_ms, now_ms + 60_000, 500):
        line.measure(at_ms)
        told.append(line.where(name, line.left(at_ms), at_ms)[1])
    return told


def flooded(until_ms: int = 20_000) -> FairLine:
    """A line in which a flooder was overtaken by half of those who came, for so long."""
    line, ends = FairLine(2, 1000, 10**9), {}
    for number in range(500):
        line.enter(f"f{number:05d}", Ask("flooder", 0, 100, 0, 10**9), 0)
    for at_ms in range(0, until_ms, 100):
        if at_ms % 200 == 0:
            line.enter(f"m{at_ms:05d}", Ask(f"modest-{at_ms}", 0, 100, 0, 10**9), at_ms)
        for name in [name for name, end_ms in ends.items() if end_ms <= at_ms]:
            line.release(name, 200, at_ms)
        ends = {name: ends.get(name, at_ms + 200) for name in line.held}
        line.measure(at_ms)
    return line


def test_an_engine_that_stands_still_changes_nothing() -> None:
    told = told_in_a_stall(20_000)
    assert min(told) > 0
    assert max(told) == pytest.approx(min(told), rel=0.05)  # the holds that run now have a rest, at first


def test_what_a_stall_lasted_is_not_held_against_the_line() -> None:
    line = flooded()
    name = line.waiting_names()[-1]
    before = line.where(name, line.left(20_000), 20_000)[1]
    for held in list(line.held):
        line.release(held, 200, 80_000)
    line.measure(80_000)
    after = line.where(name, line.left(80_000), 80_000)[1]
    assert after <= before * 1.05


def test_half_the_speed_doubles_the_wait() -> None:
    line = flooded()
    position, told_ms = line.where(line.waiting_names()[-1], line.left(20_000), 20_000)
    assert told_ms == pytest.approx(2 * position * 200 / 2, rel=0.1)


def test_who_is_before_the_flood_is_not_told_of_overtaking() -> None:
    line = flooded()
    entered = line.enter("new", Ask("new", 0, 100, 0, 10**9), 20_000)
    assert entered.status == "waiting"
    assert entered.eta_ms <= 200


def test_a_deadline_is_refused_by_what_is_sure() -> None:
    """An overtaken one whose deadline is a little before what it would be told may still be in time."""
    line = flooded()
    told_ms = line.enter("a", Ask("flooder", 0, 100, 0, 10**9), 20_000).eta_ms

    def status(left_ms: float) -> str:
        ask = Ask("flooder", 0, 100, 0, 10**9, finish_ms=20_000 + int(left_ms))
        name = f"b{left_ms:09.1f}"
        found = line.enter(name, ask, 20_000).status
        line.leave(name, 20_000)
        return found

    assert status(told_ms * 0.9 + 200) == "waiting"
    assert status(told_ms * 0.75 + 200) == "infeasible"


def test_no_feasible_deadline_of_a_flooder_is_refused() -> None:
    """Some have a deadline that may just be met. Who is refused would have been late, or nearly so."""
    real = {each.at_ms: each.waited_ms for each in played(FLOOD, 1.38, 4) if each.outcome == "served"}

    def hurried(callers: list[Caller]) -> list[Caller]:
        for number, caller in enumerate(callers):
            if caller.source == "flooder" and number % 20 == 0:  # few, so that the line is as it was
                caller.ask = caller.ask._replace(finish_ms=caller.at_ms + 7_000)
        return callers

    crowd = Crowd(FairLine(SLOTS, QUEUE, 10**9))
    callers = crowd.play(iter(hurried(list(arrivals(FLOOD, 1.38 * GOODPUT, LOAD_MS, 4)))))
    refused = [each.at_ms for each in callers if each.outcome == "infeasible" and each.at_ms in real]
    assert len(refused) >= 5
    needed_ms = [real[at_ms] + HOLD_MS for at_ms in refused]
    assert min(needed_ms) > 0.9 * 7_000
    assert sum(each > 7_000 for each in needed_ms) >= 0.8 * len(refused)


# ---- the maths alone

FORECAST = Forecast(4000.0, 4000.0, 1.0)


def looks(advance: Callable[[int], int], *, num: int = 60, waiting: int = 50, every_ms: int = 500) -> Paces:
    """num looks, at each of which band 0 has come on by so many tokens and four slots have come free."""
    paces, drain, at = Paces(), Drain(), 0
    for look in range(num):
        now_ms = look * every_ms
        for _ in range(4):
            drain.note(0, 1000, now_ms)
        at += advance(look)
        paces.look([Band(waiting, at, 100), Band(0), Band(0)], drain, SLOTS, now_ms)
    return paces


def told(paces: Paces, gap: int, forecast: Forecast = FORECAST, band: int = 0) -> float:
    return paces.expected(band, gap, forecast, 1000.0, SLOTS).told_ms


def test_the_way_at_the_speed_of_late_is_the_wait() -> None:
    paces = looks(lambda _: 200)  # 0.4 tokens/ms
    assert told(paces, 3250) == pytest.approx(3200 / 0.4, rel=0.1)
    assert told(paces, 1000) == 4000  # which is the least, as those in line take so long


def test_what_is_not_known_is_as_it_was_without() -> None:
    assert told(Paces(), 10_000) == 4000
    assert told(looks(lambda _: 200, num=4), 10_000) == 4000  # for too short a time
    assert told(looks(lambda _: 200, waiting=7), 10_000) == 4000  # the line may have run dry
    assert told(looks(lambda _: 200), 10_000, band=2) == 4000  # another band
    assert told(looks(lambda _: 200), 10_000, Forecast(-1.0, -1.0, 1.0)) == -1
    assert told(looks(lambda _: 200), 10_000, Forecast(0.0, 0.0, 1.0)) == 0


def test_better_bands_part_is_counted_once() -> None:
    paces = looks(lambda _: 200)
    assert told(paces, 3250, Forecast(4000.0, 4000.0, 2.0)) == pytest.approx(3200 / 0.4, rel=0.05)
    assert told(paces, 1000, Forecast(4000.0, 4000.0, 2.0)) == 8000


def test_light_tenants_part_is_expected_until_more_is_known() -> None:
    lighter = Forecast(4000.0, 4000.0, 1.0, lighter=1.5)
    paces = Paces(costs=[100.0, 100.0, 100.0])
    assert told(paces, 10_000, lighter) == 6000
    assert told(paces, 40, lighter) == 4000  # whoever is at the head is overtaken by nobody
    assert told(looks(lambda _: 200), 3250, lighter) == pytest.approx(3200 / 0.4, rel=0.1)


def test_tags_that_move_under_all_who_wait_bring_nobody_on() -> None:
    """The tenant turns out to cost half: its tags go back at every end, and still it comes on by what was thought."""
    line, ends = FairLine(1, 1000, 10**9), 0
    for number in range(400):
        line.enter(f"{number:04d}", Ask("a", 0, 1000, 0, 10**9), 0)
    for ends in range(200):
        line.settle("a", 0, -500)
        line.release(f"{ends:04d}", 100, (ends + 1) * 100)
        if ends % 5 == 0:
            line.measure((ends + 1) * 100)
    position, told_ms = line.where("0399", line.left(20_000), 20_000)
    assert told_ms == pytest.approx(position * 100, rel=0.1)


@given(
    advances=st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=80),
    gap=st.integers(-1000, 2**50),
    least_ms=st.floats(0, 1e9),
    slower=st.floats(1, 10),
)
def test_a_wait_is_finite_and_never_less_than_the_line_takes(
    advances: list[int], gap: int, least_ms: float, slower: float
) -> None:
    paces = looks(lambda look: advances[look], num=len(advances))
    forecast = Forecast(least_ms, least_ms, slower)
    found = paces.expected(0, gap, forecast, 1000.0, SLOTS)
    assert least_ms <= found.sure_ms <= found.told_ms <= least_ms * MOST
    assert found.sure_ms >= found.told_ms * SURE_SHARE
    assert found.told_ms >= min(forecast.usual_ms, least_ms * MOST)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_who_is_further_back_never_waits_less(one: int, other: int) -> None:
    paces = looks(lambda _: 200)
    assert (told(paces, one) <= told(paces, other)) or one > other
