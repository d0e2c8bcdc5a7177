from __future__ import annotations

import pytest

from gateway.admission.experience import Experience


def test_a_guess_is_taken_as_it_is_until_something_is_known() -> None:
    assert Experience().expected("fast", "a", 500) == 500
    assert Experience().expected("fast", "a", 0) == 1


def test_a_tenant_is_known_by_its_own_requests_and_a_new_one_by_the_tiers() -> None:
    known = Experience()
    for _ in range(50):
        known.note("fast", "short", 1000, 100)
    assert known.expected("fast", "short", 1000) == 100
    assert known.expected("fast", "new", 1000) == 100
    assert known.expected("deep", "short", 1000) == 1000
    for _ in range(50):
        known.note("fast", "long", 1000, 900)
    assert known.expected("fast", "long", 1000) == pytest.approx(880, abs=40)
    assert known.expected("fast", "short", 1000) == pytest.approx(140, abs=60)


def test_one_odd_request_moves_little_and_nothing_moves_without_bound() -> None:
    known = Experience()
    for _ in range(50):
        known.note("fast", "a", 100, 50)
    known.note("fast", "a", 100, 10**9)
    assert known.expected("fast", "a", 100) < 100


def test_tenants_longest_not_seen_are_forgotten() -> None:
    known = Experience(max_tenants=2)
    for tenant in "abc":
        known.note("fast", tenant, 100, {"a": 10, "b": 100, "c": 100}[tenant])
    assert known.expected("fast", "a", 100) == known.expected("fast", "unknown", 100)
