"""The threshold keeps to the budget with confidence, in both directions: what is closed opens again by shadows."""

from __future__ import annotations

import random

import pytest

from gateway.caching.threshold import (
    FADE_AT,
    MAX_TOPICS,
    NEVER,
    PRIOR_SIMILARITY,
    Thresholds,
    Topic,
    lower_bound,
    upper_bound,
)

A, B = Topic("acme", "fast"), Topic("rival", "fast")


def wrong_hits(thresholds: Thresholds, similarity: float, count: int = 2, topic: Topic = A) -> None:
    for _ in range(count):
        thresholds.observe(topic, similarity, was_right=False)


def shadows(thresholds: Thresholds, similarity: float, count: int, topic: Topic = A) -> None:
    for _ in range(count):
        thresholds.observe(topic, similarity, was_right=True, was_given=False)


def test_the_bounds_in_plain_numbers() -> None:
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(0, 600) == pytest.approx(0.00498, abs=1e-4)
    assert upper_bound(1, 600) > 0.005
    assert upper_bound(5, 5000) < 0.0025
    assert lower_bound(0, 0) == lower_bound(0, 100) == 0.0
    assert lower_bound(2, 100) > 0.005 > lower_bound(2, 140)


def test_half_a_wrong_one_is_never_better_than_none() -> None:
    for count in (100, 600, 4000):
        assert upper_bound(0, count) <= upper_bound(0.1, count) <= upper_bound(0.5, count)


def test_a_topic_starts_where_delivery_was_checked() -> None:
    assert Thresholds(0.005).of(A) == PRIOR_SIMILARITY
    assert Thresholds(0.0).of(A) == NEVER
    assert Thresholds(0.001).of(A) == NEVER  # a thousand checks do not bear that out


def test_wrong_hits_raise_it_above_themselves_in_their_own_topic_only() -> None:
    thresholds = Thresholds(0.005)
    wrong_hits(thresholds, 0.85)
    assert 0.85 < thresholds.of(A) < 1.0
    assert thresholds.of(B) == thresholds.of(Topic("acme", "deep")) == PRIOR_SIMILARITY


def test_wrong_hits_among_the_nearest_close_it_and_shadows_open_it_again() -> None:
    """As in a measured day: the first two checks were wrong, and there was no hit any more to be checked."""
    thresholds = Thresholds(0.005)
    wrong_hits(thresholds, 0.98)
    assert (thresholds.of(A), thresholds.num_closed) == (NEVER, 1)
    shadows(thresholds, 0.97, 150)
    assert thresholds.of(A) == NEVER  # 1,152 compared, two wrong: the bound is still over the budget
    shadows(thresholds, 0.97, 150)
    assert (thresholds.of(A), thresholds.num_closed) == (PRIOR_SIMILARITY, 0)
    assert (thresholds.checked.num_wrong, thresholds.shadows.num_compared) == (2, 300)


def test_shadows_alone_can_close_it_before_any_hit_was_wrong() -> None:
    thresholds = Thresholds(0.005)
    for _ in range(2):
        thresholds.observe(A, 0.99, was_right=False, was_given=False)
    assert thresholds.of(A) == NEVER
    assert thresholds.checked.num_compared == 0


def test_it_is_never_open_where_the_bound_is_over_the_budget() -> None:
    chance, thresholds = random.Random(5), Thresholds(0.005)
    for _ in range(6000):
        thresholds.observe(A, chance.uniform(0.6, 1.0), was_right=chance.random() > 0.004, was_given=False)
        (told,) = thresholds.topics(1)
        assert told.threshold == NEVER or told.bound <= 0.005
        assert told.threshold == thresholds.of(A)


def test_a_bad_region_stays_closed_however_much_is_right_above_it() -> None:
    thresholds = Thresholds(0.005)
    for number in range(6000):
        thresholds.observe(A, 0.82, was_right=number % 50 > 0, was_given=False)
        shadows(thresholds, 0.95, 20 if number < 500 else 1)
        if number > 500:
            assert thresholds.of(A) > 0.82
    assert thresholds.of(A) <= 0.92


def test_below_the_prior_each_step_has_to_show_its_own() -> None:
    thresholds = Thresholds(0.005)
    shadows(thresholds, 0.95, 3000)
    assert thresholds.of(A) == PRIOR_SIMILARITY
    shadows(thresholds, 0.78, 500)
    assert thresholds.of(A) == PRIOR_SIMILARITY
    shadows(thresholds, 0.78, 400)
    assert thresholds.of(A) == pytest.approx(0.76)


def test_what_is_old_fades() -> None:
    """A corpus that made many answers wrong was replaced."""
    thresholds = Thresholds(0.005)
    wrong_hits(thresholds, 0.98, 100)
    needed = 0
    while thresholds.of(A) == NEVER:
        shadows(thresholds, 0.98, 100)
        needed += 100
        assert needed < 4 * FADE_AT
    assert needed > FADE_AT / 2  # but not at once
    (told,) = thresholds.topics(1)
    assert told.num_compared < FADE_AT


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_of_all_near_questions_few_get_a_wrong_answer_while_it_learns(rate: float) -> None:
    chance, thresholds = random.Random(3), Thresholds(0.005)
    wrong = 0
    for _ in range(20_000):
        similarity, is_right = chance.uniform(0.8, 1.0), chance.random() > rate
        is_given = similarity >= thresholds.of(A)
        wrong += is_given and not is_right
        if not is_given or chance.random() < (0.2 if thresholds.is_young(A) else 0.05):
            thresholds.observe(A, similarity, was_right=is_right, was_given=is_given)
    assert wrong / 20_000 < 0.01


def test_the_share_of_wrong_hits_stays_within_the_budget() -> None:
    """Questions below 0.9 are wrong one time in twenty: hits there have to end."""
    chance, thresholds = random.Random(3), Thresholds(0.005)
    wrong = given = 0
    for _ in range(20_000):
        similarity = chance.uniform(0.8, 1.0)
        is_right = similarity >= 0.9 or chance.random() > 0.05
        is_given = similarity >= thresholds.of(A)
        given += is_given
        wrong += is_given and not is_right
        thresholds.observe(A, similarity, was_right=is_right, was_given=is_given)
    assert given > 5000
    assert wrong / given < 0.005
    assert thresholds.of(A) >= 0.88


def test_one_tenant_cannot_make_the_topics_of_others_forgotten() -> None:
    thresholds = Thresholds(0.005)
    wrong_hits(thresholds, 0.98, topic=B)
    for number in range(MAX_TOPICS + 50):
        thresholds.observe(Topic("acme", "fast", (f"vs_{number}",)), 0.9, was_right=True)
    assert thresholds.num_topics == MAX_TOPICS
    assert thresholds.of(B) == NEVER
    assert [each.topic.collections for each in thresholds.topics(2)] == [("vs_4145",), ("vs_4144",)]
