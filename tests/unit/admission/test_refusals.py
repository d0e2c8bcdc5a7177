"""How long a refusal is remembered, and for whom."""

from __future__ import annotations

import pytest

from gateway.admission.refusals import RecentRefusals
from gateway.errors import Rejected


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def is_remembered(refusals: RecentRefusals, tenant: str = "acme", band: str = "batch", size: int = 0) -> bool:
    try:
        refusals.check(tenant, band, size)
    except Rejected:
        return True
    return False


@pytest.mark.parametrize(
    ("eta_s", "moment_s"), [(0.0, 0.05), (1.0, 0.05), (4.0, 0.2), (10.0, 0.5), (900.0, 0.5)]
)
def test_the_longer_the_wait_that_was_told_the_longer_it_holds(eta_s: float, moment_s: float) -> None:
    clock = Clock()
    refusals = RecentRefusals(clock)
    refusals.note("acme", "batch", "full", eta_s)
    clock.now += moment_s - 0.001
    assert is_remembered(refusals)
    clock.now += 0.002
    assert not is_remembered(refusals)


def test_it_holds_for_that_tenant_and_band_alone() -> None:
    refusals = RecentRefusals(Clock())
    refusals.note("acme", "batch", "full", 10.0)
    assert is_remembered(refusals)
    assert not is_remembered(refusals, band="interactive")
    assert not is_remembered(refusals, tenant="rival")


def test_it_says_the_wait_again() -> None:
    refusals = RecentRefusals(Clock())
    refusals.note("acme", "batch", "too_long", 42.0)
    with pytest.raises(Rejected, match="42 s") as refused:
        refusals.check("acme", "batch")
    assert refused.value.delay_s() == 42.0


def test_for_want_of_room_it_holds_for_what_is_as_large() -> None:
    refusals = RecentRefusals(Clock())
    refusals.note("acme", "batch", "large", 10.0, size=5000)
    assert [is_remembered(refusals, size=size) for size in (10, 4999, 5000, 9000)] == [
        False,
        False,
        True,
        True,
    ]
    refusals.note("acme", "batch", "full", 10.0, size=5000)
    assert is_remembered(refusals, size=10)
