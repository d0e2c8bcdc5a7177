"""The ladder in plain numbers: when steps are taken, when they are taken back, who is spared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.tiering.ladder import FLOORS, NO_STEP, STEPS, Ladder, Orders, Rule, Step, in_force
from gateway.tiering.ladders import BANDS, Ladders, Line
from gateway.tiering.pressure import SLOTS_TAKEN, Bearable, Reading, pressure_of

NONE = Orders()


def pressed(ladder: Ladder, pressure: float, seconds: float, start: float = 0.0) -> float:
    """Hold a pressure for some time, four readings a second; the time after."""
    for tick in range(int(seconds * 4)):
        ladder.update(pressure, start + tick / 4)
    return start + seconds


@pytest.mark.parametrize(
    ("pressure", "level"),
    [
        (0.0, 0),
        (0.49, 0),
        (0.5, 1),
        (0.7, 2),
        (1.0, 3),
        (1.4, 4),
        (1.7, 5),
        (2.0, 6),
        (3.9, 6),
        (4.0, 7),
        (99.0, 7),
    ],
    ids=str,
)
def test_a_pressure_that_stays_takes_the_ladder_to_its_level(pressure: float, level: int) -> None:
    ladder = Ladder()
    pressed(ladder, pressure, 10)
    assert ladder.level == level


def test_steps_are_taken_one_at_a_time() -> None:
    ladder = Ladder()
    assert [ladder.update(99.0, tick / 4) for tick in range(8)] == [1, 2, 3, 4, 5, 6, 7, 7]
    quick = Ladder()
    assert [quick.update(99.0, tick / 100) for tick in range(3)] == [1, 1, 1]


def test_a_step_is_taken_back_after_calm_and_not_before() -> None:
    ladder = Ladder()
    now = pressed(ladder, 1.0, 5)
    pressed(ladder, 0.0, 4.75, now)
    assert ladder.level == 3
    assert ladder.update(0.0, now + 5.0) == 2
    assert ladder.update(0.0, now + 9.9) == 2
    assert ladder.update(0.0, now + 10.0) == 1


def test_between_entering_and_leaving_nothing_moves() -> None:
    ladder = Ladder()
    now = pressed(ladder, 1.0, 5)
    pressed(ladder, 0.65, 60, now)  # below 1.0, but above 0.6 of it
    assert ladder.level == 3


def test_one_busy_moment_begins_the_calm_anew() -> None:
    ladder = Ladder()
    now = pressed(ladder, 0.5, 1)
    now = pressed(ladder, 0.0, 4.5, now)
    ladder.update(0.4, now)
    now = pressed(ladder, 0.0, 4.5, now + 0.25)
    assert ladder.level == 1


READINGS = st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 3)), max_size=60)


@given(READINGS)
def test_the_level_moves_by_one_within_its_bounds_and_falls_only_after_calm(
    readings: list[tuple[float, float]],
) -> None:
    rule, ladder, now = Rule(), Ladder(), 0.0
    busy_at = taken_at = float("-inf")
    for pressure, pause_s in readings:
        now += pause_s
        before = ladder.level
        after = ladder.update(pressure, now)
        assert 0 <= after <= len(STEPS)
        assert abs(after - before) <= 1
        if after > before:
            assert now - taken_at >= rule.rise_s
            taken_at = now
        if after < before:
            assert now - busy_at >= rule.fall_s
        if before and pressure >= rule.enter[before - 1] * rule.leave_share:
            busy_at = now


@given(st.floats(0, 10), st.floats(0, 10))
def test_more_pressure_never_gives_up_less(one: float, other: float) -> None:
    ladders = [Ladder(), Ladder()]
    for ladder, pressure in zip(ladders, sorted((one, other)), strict=True):
        pressed(ladder, pressure, 10)
    assert ladders[0].level <= ladders[1].level


@pytest.mark.parametrize(
    ("level", "orders", "floor", "steps"),
    [
        (0, NONE, "", []),
        (2, NONE, "", ["fewer_passages", "no_rerank"]),
        (7, NONE, "", list(STEPS)),
        (7, NONE, "none", []),
        (7, NONE, "no_rerank", ["fewer_passages", "no_rerank"]),
        (7, Orders(forbidden=[Step.REFUSE, Step.NO_RERANK]), "no_rerank", ["fewer_passages"]),
        (0, Orders(pinned=[Step.EXTRACTIVE_ONLY]), "", ["extractive_only"]),
        (1, Orders(pinned=[Step.EXTRACTIVE_ONLY]), "", ["fewer_passages", "extractive_only"]),
        (0, Orders(pinned=[Step.REFUSE]), "none", []),
        (0, Orders(pinned=[Step.NO_RERANK]), "fewer_passages", []),
    ],
    ids=["calm", "two", "all", "spared", "floor", "forbidden", "pinned", "pinned-and-level", "pin-none", "pin-floor"],
)  # fmt: skip
def test_what_is_in_force(level: int, orders: Orders, floor: str, steps: list[str]) -> None:
    assert in_force(level, orders, floor) == steps


@given(
    st.integers(0, 6),
    st.sets(st.sampled_from(STEPS)),
    st.sets(st.sampled_from(STEPS)),
    st.sampled_from(FLOORS),
)
def test_nothing_forbidden_and_nothing_below_the_floor_is_ever_in_force(
    level: int, pinned: set[Step], forbidden: set[Step], floor: str
) -> None:
    steps = in_force(level, Orders(sorted(pinned - forbidden), sorted(forbidden)), floor)
    assert not set(steps) & forbidden
    assert steps == [step for step in STEPS if step in steps]
    if floor == NO_STEP:
        assert steps == []
    elif floor:
        assert all(STEPS.index(step) <= STEPS.index(Step(floor)) for step in steps)


def test_orders_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="'refuse' is both pinned and forbidden"):
        Orders([Step.REFUSE], [Step.NO_RERANK, Step.REFUSE]).checked()
    assert Orders([Step.REFUSE, Step.NO_RERANK, Step.REFUSE]).checked().pinned == ["no_rerank", "refuse"]


@pytest.mark.parametrize(
    ("reading", "pressure"),
    [
        (Reading(), 0.0),
        (Reading(eta_s=5.0), 1.0),
        (Reading(eta_s=2.5, lag_s=1.0), 2.0),
        (Reading(share_in_use=1.0), SLOTS_TAKEN),
        (Reading(share_in_use=7.0), SLOTS_TAKEN),
        (Reading(eta_s=-1.0), 0.0),
    ],
    ids=["idle", "eta", "lag", "slots", "more-than-slots", "negative"],
)
def test_the_worst_signal_is_the_pressure(reading: Reading, pressure: float) -> None:
    assert pressure_of(reading, Bearable(eta_s=5.0, lag_s=0.5)) == pytest.approx(pressure)


def test_slots_alone_start_no_step_but_keep_the_first_one() -> None:
    ladder = Ladder()
    now = pressed(ladder, SLOTS_TAKEN, 60)
    assert ladder.level == 0
    now = pressed(ladder, 0.5, 1, now)
    pressed(ladder, SLOTS_TAKEN, 60, now)
    assert ladder.level == 1


def test_a_signal_of_zero_does_not_count() -> None:
    assert pressure_of(Reading(eta_s=99, lag_s=9), Bearable(0, 0)) == 0.0


def test_bands_and_tiers_go_down_by_themselves() -> None:
    ladders = Ladders(["fast", "deep"])
    for tick in range(40):
        ladders.observe({Line("fast", "batch"): Reading(eta_s=30.0)}, tick / 4)
    assert ladders.steps("fast", "batch") == list(STEPS)
    assert [ladders.steps("fast", band) for band in BANDS[:2]] == [[], []]
    assert ladders.steps("deep", "batch") == []


def test_orders_that_cannot_be_read_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ladders = Ladders(["fast"])
    ladders.obey(b'{"pinned":["no_rerank"],"forbidden":[]}')
    for body in (b"{", b'{"pinned":["dance"]}', b'{"pinned":["refuse"],"forbidden":["refuse"]}'):
        ladders.obey(body)
    assert ladders.orders == Orders([Step.NO_RERANK])
    assert len(caplog.records) == 3
