"""Schedules: the right number, the right times, and the same for a tenant whoever else is there."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from perf.load.arrivals import plan, times
from perf.load.scenario import Phase, Scenario, Source

MIXED = Scenario(
    title="",
    what="",
    sources=[Source("modest", share=19, num_tenants=19), Source("flooder", share=50, priority="batch")],
)


@pytest.mark.parametrize("kind", ["poisson", "burst", "even"])
def test_the_mean_rate_is_the_one_asked_for(kind: str) -> None:
    found = times(kind, 50.0, 400.0, random.Random(1), burst=10)  # type: ignore[arg-type]
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < 400.0
    assert len(found) == pytest.approx(20_000, rel=0.05)


def test_poisson_gaps_vary_as_much_as_they_are_long() -> None:
    found = times("poisson", 100.0, 200.0, random.Random(2), burst=1)
    gaps = [after - before for before, after in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation / mean == pytest.approx(1.0, abs=0.05)


def test_a_burst_comes_at_one_moment() -> None:
    assert set(Counter(times("burst", 40.0, 60.0, random.Random(3), burst=8)).values()) == {8}


def test_no_rate_is_no_requests() -> None:
    assert times("poisson", 0.0, 10.0, random.Random(1), burst=1) == []


def test_shares_and_tenants_are_held() -> None:
    planned, [window] = plan(MIXED, [Phase("flood", 400.0, rate=69.0)], 0.0, seed=1)
    by_source = Counter(each.source for each in planned)
    assert by_source["flooder"] / by_source["modest"] == pytest.approx(50 / 19, rel=0.05)
    assert len({each.tenant for each in planned}) == 20
    assert window.rate == pytest.approx(69.0)
    assert {each.priority for each in planned if each.source == "flooder"} == {"batch"}


def test_a_source_sends_at_the_same_moments_when_another_one_is_silent() -> None:
    both, _ = plan(MIXED, [Phase("p", 20.0, rate=69.0)], 0.0, seed=1)
    alone, [window] = plan(MIXED, [Phase("p", 20.0, rate=69.0, sources=["modest"])], 0.0, seed=1)
    assert [each.at_s for each in alone] == [each.at_s for each in both if each.source == "modest"]
    assert window.rate == pytest.approx(19.0)


def test_phases_follow_one_another_and_warm_up_does_not_count() -> None:
    scenario = msgspec.structs.replace(MIXED, sources=[Source("all")])
    first = Phase("one", 10.0, rate=10.0, arrivals="even", warm_s=4.0)
    planned, windows = plan(scenario, [first, Phase("two", 5.0, of_peak=2.0, arrivals="even")], 5.0, seed=1)
    assert [each.number for each in planned] == list(range(150))
    assert [(w.start_s, w.from_s, w.end_s, w.rate) for w in windows] == [(0, 4, 10, 10), (10, 10, 15, 10)]
    assert sum(each.is_counted for each in planned if each.phase == "one") == 60
