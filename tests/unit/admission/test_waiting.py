"""How often a waiter hears of its place."""

from __future__ import annotations

import pytest

from gateway.admission.waiting import told_again_s


@pytest.mark.parametrize(
    ("eta_s", "again_s"),
    [(-1.0, 1.0), (0.0, 1.0), (10.0, 1.0), (30.0, 3.0), (100.0, 10.0), (3600.0, 10.0)],
)
def test_whoever_is_near_hears_every_second_and_nobody_less_than_every_ten(
    eta_s: float, again_s: float
) -> None:
    assert told_again_s(eta_s) == again_s
