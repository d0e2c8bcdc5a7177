"""A worker's meters by themselves: leases, shares, settlement, what a caller is told. Time is a number."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.estimate import estimated_tokens
from gateway.admission.flow import BUSY_FROM, FLOW_S, Flow
from gateway.admission.limits import LEASE_S, Answer, Budget, Meter, Streams
from gateway.admission.standing import Standing, duration, month_of, rate_headers
from gateway.types import Limits

NOW = 1_800_000_000.0


def answered(meter: Meter, level: int, left: int, *, now: float = NOW, wait_s: float = 0.0) -> None:
    """The store gives a lease."""
    ask = meter.ask(now)
    meter.hear(ask, Answer(level=level, left=left, generation="g", wait_s=wait_s), now, now)


def test_a_lease_covers_until_it_is_spent_or_over() -> None:
    meter = Meter("tenant/requests", 100)
    assert not meter.covers(1, NOW)
    answered(meter, 2, 98)
    assert meter.covers(2, NOW)
    meter.take(1, NOW)
    assert meter.covers(1, NOW)
    assert not meter.covers(2, NOW)
    assert not meter.covers(1, NOW + LEASE_S)


def test_what_is_taken_while_the_store_is_asked_is_not_leased_twice() -> None:
    meter = Meter("tenant/requests", 100)
    answered(meter, 10, 90)
    ask = meter.ask(NOW)
    for _ in range(4):
        meter.take(1, NOW)
    assert ask.hold == 10
    meter.hear(ask, Answer(level=10, left=90, generation="g"), NOW, NOW)
    assert meter.lease == 6
    assert meter.remaining(NOW) == 96


def test_use_is_told_in_absolute_numbers_until_it_was_heard() -> None:
    meter = Meter("tenant/requests", 100)
    meter.take(3, NOW)
    assert meter.ask(NOW).used == [(int(NOW), 3)]
    meter.lose()
    meter.take(2, NOW)
    ask = meter.ask(NOW)
    assert ask.used == [(int(NOW), 5)]
    meter.hear(ask, Answer(generation="g"), NOW, NOW)
    assert meter.ask(NOW).used == []


def test_a_store_that_lost_its_count_is_told_the_whole_minute() -> None:
    meter = Meter("tenant/requests", 100)
    meter.take(3, NOW)
    answered(meter, 5, 92)
    meter.take(2, NOW + 10)
    ask = meter.ask(NOW + 10)
    meter.hear(ask, Answer(status="changed"), NOW + 10, NOW + 10)
    assert (meter.lease, meter.generation) == (0, "")
    assert meter.ask(NOW + 10).used == [(int(NOW), 3), (int(NOW) + 10, 2)]


def test_what_left_the_minute_is_forgotten() -> None:
    meter = Meter("tenant/requests", 100)
    meter.take(3, NOW)
    assert meter.used(NOW + 60) == 3
    assert meter.used(NOW + 61) == 0


def test_without_a_store_a_worker_has_its_share() -> None:
    meter = Meter("tenant/requests", 10)
    assert meter.share_covers(4, NOW, 3)
    assert not meter.share_covers(5, NOW, 3)
    meter.take(4, NOW)
    assert not meter.share_covers(1, NOW, 3)
    assert meter.share_covers(1, NOW + 61, 3)


def test_just_after_the_store_went_away_its_last_word_counts() -> None:
    meter = Meter("tenant/requests", 100)
    answered(meter, 0, 4)
    assert meter.share_covers(2, NOW + 1, 2)
    assert not meter.share_covers(3, NOW + 1, 2)
    assert meter.share_covers(50, NOW + 3, 2)


def test_a_refusal_stands_for_a_moment_for_as_much_or_more() -> None:
    meter = Meter("tenant/tokens", 100)
    meter.require(50)
    answered(meter, 0, 10, wait_s=12.0)
    assert meter.is_refused(50, NOW + 0.2)
    assert not meter.is_refused(10, NOW + 0.2)
    assert not meter.is_refused(50, NOW + 0.3)
    assert meter.wait_s(NOW) == 12.0


def test_what_is_held_ahead_goes_by_the_rate_and_its_spread() -> None:
    flow = Flow()
    assert flow.expected(NOW) == 0
    for second in range(10):
        for _ in range(20):
            flow.add(1, NOW + second)
    assert 1.25 * 20 < flow.expected(NOW + 9) <= 1.25 * 20 + 3 * 25**0.5 + 1
    assert flow.expected(NOW + 9 + FLOW_S + 1) == 0


def test_what_is_held_ahead_covers_the_last_seconds_peak() -> None:
    flow = Flow()
    for _ in range(500):
        flow.add(1, NOW)
    assert flow.expected(NOW + 1) == 500
    assert flow.expected(NOW + 3) < 150


def test_of_a_limit_with_few_requests_nothing_is_held_where_there_are_many_limits() -> None:
    flow = Flow()
    flow.add(100, NOW)
    assert flow.expected(NOW) >= 100
    assert flow.expected(NOW, least=2) == 0


def test_a_next_block_is_fetched_between_ticks_at_a_high_rate_only() -> None:
    meter = Meter("tenant/requests", 10_000)
    for _ in range(BUSY_FROM - 1):
        meter.take(1, NOW)
    answered(meter, 0, 9_000)
    assert not meter.is_low(NOW)
    meter.take(1, NOW)
    ask = meter.ask(NOW)
    assert ask.want >= BUSY_FROM
    assert meter.is_low(NOW)
    meter.hear(ask, Answer(level=ask.want, left=9_000, generation="g"), NOW, NOW)
    assert not meter.is_low(NOW)
    assert meter.is_low(NOW + LEASE_S - 0.4)  # it runs out


def test_a_tick_gives_back_what_the_rate_does_not_need() -> None:
    meter = Meter("tenant/requests", 10_000)
    answered(meter, 500, 9_500)
    assert meter.ask(NOW + 2, is_tick=True).hold == 0


def test_a_tick_keeps_no_more_than_a_fair_part_of_what_is_left() -> None:
    meter = Meter("tenant/requests", 100)
    for _ in range(BUSY_FROM):
        meter.take(1, NOW)
    answered(meter, 4, 4)
    assert meter.ask(NOW, is_tick=True, workers=2).hold == 2
    answered(meter, 2, 0)
    assert meter.ask(NOW, is_tick=True, workers=2).hold == 0


def test_below_a_busy_rate_nothing_is_held_ahead_of_a_limit_that_is_nearly_used() -> None:
    meter = Meter("tenant/requests", 100)
    meter.take(1, NOW)
    answered(meter, 0, 90)
    ahead = meter.ask(NOW, workers=2).want
    assert 1 < ahead <= 90 / 8
    answered(meter, 0, 10)
    assert meter.ask(NOW, workers=2).want == 0


def test_after_a_refusal_one_more_is_asked_for_not_all_that_were_refused() -> None:
    meter = Meter("tenant/tokens", 100)
    for _ in range(50):
        meter.wish(30)
    ask = meter.ask(NOW)
    assert (ask.need, ask.unit) == (30, 30)
    assert meter.ask(NOW).need == 0


def test_an_estimate_is_corrected_where_it_was_taken() -> None:
    meter = Meter("tenant/tokens", 1000)
    slot = meter.take(300, NOW)
    meter.settle(slot, 300, 120, NOW + 30)
    assert meter.ask(NOW + 30).used == [(int(NOW), 120)]
    meter.settle(slot, 120, 150, NOW + 40)
    assert meter.used(NOW + 40) == 150
    assert meter.used(NOW + 70) == 30  # what was beyond the estimate counts from when it was known


def test_what_was_given_back_is_left_at_once() -> None:
    meter = Meter("tenant/tokens", 1000)
    answered(meter, 300, 700)
    meter.settle(meter.take(300, NOW), 300, 120, NOW)
    assert meter.remaining(NOW) == 880


def test_what_settles_after_its_minute_changes_nothing() -> None:
    meter = Meter("tenant/tokens", 1000)
    slot = meter.take(300, NOW)
    meter.settle(slot, 300, 0, NOW + 90)
    assert meter.used(NOW + 90) == 0


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.floats(0, 90)), max_size=20))
def test_use_is_never_negative_and_is_what_was_settled(steps: list[tuple[int, int, float]]) -> None:
    meter = Meter("tenant/tokens", 1000)
    for taken, actual, later_s in steps:
        meter.settle(meter.take(taken, NOW), taken, actual, NOW + min(later_s, 59))
    assert meter.used(NOW + 59) == sum(actual for _, actual, _ in steps)


def test_streams_hold_places_and_give_them_back() -> None:
    streams = Streams("tenant/streams", 4)
    streams.require(1)
    answered(streams, 2, 2)
    streams.take(1, NOW)
    assert (streams.in_use, streams.lease, streams.remaining(NOW)) == (1, 1, 3)
    assert streams.ask(NOW).hold == 2
    streams.free(NOW, NOW + 1)
    assert (streams.in_use, streams.lease) == (0, 2)
    assert streams.ask(NOW + 1, is_tick=True).hold == 0  # too few are left for one that nobody uses


def test_places_for_streams_are_held_ahead_where_many_are_left() -> None:
    streams = Streams("tenant/streams", 100)
    answered(streams, 3, 97)
    for _ in range(3):
        streams.take(1, NOW)
    for _ in range(3):
        streams.free(NOW, NOW + 1)
    assert streams.ask(NOW + 1, is_tick=True, workers=2).want == 4  # as many as ran at once, and one
    assert streams.ask(NOW + 2 + FLOW_S, is_tick=True, workers=2).hold == 0


def test_a_budget_that_begins_anew_counts_only_what_the_ledger_lacks() -> None:
    budget = Budget("tenant/budget:2027-01", 1000, NOW + 100)
    done, running = budget.take(200, NOW), budget.take(300, NOW)
    budget.settle(done, 200, 150, NOW)
    ask = budget.ask(NOW)
    budget.hear(ask, Answer(status="unseeded"), NOW, NOW)
    assert budget.ask(NOW).used == [(0, 300)]
    budget.settle(running, 300, 10, NOW)
    assert budget.ask(NOW).used == [(0, 10)]


def test_a_budget_of_which_nothing_is_known_is_shared_from_its_seed() -> None:
    budget = Budget("tenant/budget:2027-01", 1000, NOW + 100)
    budget.seed = 900
    assert budget.share_covers(50, NOW, 2)
    assert not budget.share_covers(51, NOW, 2)
    assert budget.remaining(NOW) == 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.25, "250ms"), (1.5, "1.5s"), (20, "20s"), (59.9996, "60s"), (61, "1m1s"), (360, "6m0s")],
    ids=str,
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_only_what_is_limited_has_headers() -> None:
    headers = rate_headers({"requests": Standing(10, 3, 1.5), "streams": Standing(2, 1, 1.0)})
    assert headers == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "1.5s",
    }


@pytest.mark.parametrize(
    ("now", "name", "days"),
    [(1_796_083_199, "2026-11", 30), (1_796_083_200, "2026-12", 31), (1_803_859_200, "2027-03", 31)],
    ids=str,
)
def test_a_month_is_a_calendar_month(now: float, name: str, days: int) -> None:
    month = month_of(now)
    assert (month.name, month.ends_at - month.begins_at) == (name, days * 86_400)
    assert month.begins_at <= now < month.ends_at


def test_defaults_fill_what_is_not_set_and_zero_is_set() -> None:
    defaults = Limits(requests_per_minute=5, monthly_tokens=7)
    assert Limits(requests_per_minute=0).over(defaults) == Limits(requests_per_minute=0, monthly_tokens=7)
    assert Limits(requests_per_minute=0).is_unlimited
    assert not defaults.is_unlimited


BASE = {
    "question_chars": 400, "history_chars": 4000, "num_passages": 4, "chunk_chars": 900, "context_tokens": 0,
    "max_tokens": None, "tier_max_tokens": 512,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 100 + 900 + 200),
        ({"max_tokens": 50}, 100 + 900 + 50),
        ({"context_tokens": 8192}, 120 + 100 + 1000 + 900 + 512),
        ({"context_tokens": 8192, "max_tokens": 100}, 120 + 100 + 1000 + 900 + 100),
        ({"context_tokens": 1024, "max_tokens": 512}, 1024),
    ],
    ids=["quotes", "few quotes", "writes", "writes little", "no more than its context"],
)
def test_an_estimate_goes_by_the_tier(changes: dict[str, int], tokens: int) -> None:
    assert estimated_tokens(**(BASE | changes)).total == tokens  # type: ignore[arg-type]


def test_a_limits_numbers_fit_the_wire() -> None:
    ask = Meter("tenant/requests", 2**63 - 1).ask(NOW)
    assert msgspec.json.decode(msgspec.json.encode(ask))["limit"] == 2**63 - 1
