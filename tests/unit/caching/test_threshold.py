"""The threshold keeps to the budget with confidence, and one wrong hit moves it at once."""

from __future__ import annotations

import random

import pytest

from gateway.caching.threshold import NEVER, PRIOR_SIMILARITY, Thresholds, upper_bound


def test_the_bound_in_plain_numbers() -> None:
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(0, 600) == pytest.approx(0.00498, abs=1e-4)
    assert upper_bound(1, 600) > 0.005
    assert upper_bound(5, 5000) < 0.0025


def test_a_topic_starts_where_delivery_was_checked() -> None:
    assert Thresholds(0.005).of("any") == PRIOR_SIMILARITY
    assert Thresholds(0.0).of("any") == NEVER
    assert Thresholds(0.001).of("any") == NEVER  # a thousand checks do not bear that out


def test_a_wrong_hit_raises_it_above_itself_in_its_own_topic_only() -> None:
    thresholds = Thresholds(0.005)
    for _ in range(2):
        thresholds.observe("a", 0.85, was_right=False)
    assert thresholds.of("a") > 0.85
    assert thresholds.of("b") == PRIOR_SIMILARITY


def test_many_right_ones_win_it_back() -> None:
    thresholds = Thresholds(0.005)
    for _ in range(2):
        thresholds.observe("a", 0.85, was_right=False)
    for _ in range(2000):
        thresholds.observe("a", 0.87, was_right=True)
    assert thresholds.of("a") <= 0.86


def test_the_share_of_wrong_hits_stays_within_the_budget() -> None:
    """Questions below 0.9 are wrong one time in twenty: hits there have to end."""
    chance, thresholds = random.Random(3), Thresholds(0.005)
    wrong = given = 0
    for _ in range(20_000):
        similarity = chance.uniform(0.8, 1.0)
        is_right = similarity >= 0.9 or chance.random() > 0.05
        if similarity < thresholds.of("t"):
            continue
        given += 1
        wrong += not is_right
        thresholds.observe("t", similarity, was_right=is_right)
    assert given > 5000
    assert wrong / given < 0.005
    assert thresholds.of("t") >= 0.88
