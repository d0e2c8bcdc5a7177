"""The worker's own level: its bounds, what a scan does to it, and that one tenant does not push out another."""

from __future__ import annotations

import random
from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.caching.local import LocalStore, Shelf

SIZE = 4096  # bytes, as an answer has


def zipf(num_keys: int, count: int, seed: int, shift: int = 0) -> list[str]:
    weights = [1 / rank for rank in range(1, num_keys + 1)]
    chosen = random.Random(seed).choices(range(num_keys), weights, k=count)
    return [str((number + shift) % num_keys) for number in chosen]


def hits(shelf: Shelf[int], trace: list[str]) -> float:
    found = 0
    for key in trace:
        if shelf.get(key) is None:
            shelf.put(key, 1, SIZE)
        else:
            found += 1
    return found / len(trace)


def lru_hits(max_entries: int, trace: list[str]) -> float:
    kept: OrderedDict[str, None] = OrderedDict()
    found = 0
    for key in trace:
        found += key in kept
        kept[key] = None
        kept.move_to_end(key)
        if len(kept) > max_entries:
            kept.popitem(last=False)
    return found / len(trace)


def test_a_scan_leaves_the_hot_ones_alone() -> None:
    shelf = Shelf[int](100 * SIZE)
    hot = [f"hot{number}" for number in range(50)]
    for key in hot * 4:
        if shelf.get(key) is None:
            shelf.put(key, 1, SIZE)
    for number in range(5000):
        if shelf.get(f"scan{number}") is None:
            shelf.put(f"scan{number}", 1, SIZE)
    assert sum(shelf.get(key) is not None for key in hot) >= 45  # those asked for twice before it came


def test_it_keeps_more_of_a_zipf_trace_than_lru_and_follows_a_shift() -> None:
    steady = zipf(5000, 40_000, 1)
    shelf = Shelf[int](250 * SIZE)
    assert hits(shelf, steady) > lru_hits(250, steady) + 0.03
    shifted = zipf(5000, 40_000, 2, shift=2500)
    assert hits(shelf, shifted) > lru_hits(250, shifted)


def moving(num_keys: int, phases: int, asked: int) -> list[str]:
    """What is asked most changes, as often as there are phases."""
    return [
        key
        for phase in range(phases)
        for key in zipf(num_keys, asked // phases, phase, shift=phase * num_keys // phases)
    ]


def test_where_the_head_moves_and_most_of_it_fits_it_is_not_behind_lru() -> None:
    trace = moving(3000, 8, 40_000)
    for max_entries in (300, 900):
        assert hits(Shelf[int](max_entries * SIZE), trace) > lru_hits(max_entries, trace) - 0.01
        assert (
            hits(Shelf[int](max_entries * SIZE, is_adaptive=False), trace)
            < lru_hits(max_entries, trace) - 0.02
        )


def test_it_goes_back_to_frequency_when_the_head_stands_still_again() -> None:
    shelf = Shelf[int](300 * SIZE)
    hits(shelf, moving(3000, 8, 40_000))
    assert shelf.is_by_age
    steady = zipf(3000, 60_000, 3)
    hits(shelf, steady[:30_000])
    assert not shelf.is_by_age
    assert hits(shelf, steady[30_000:]) > lru_hits(300, steady[30_000:]) + 0.02


def test_a_look_without_being_asked_changes_nothing() -> None:
    shelf = Shelf[int](3 * SIZE, is_adaptive=False)
    shelf.put("a", 1, SIZE)
    before = list(shelf.items())
    assert (shelf.peek("a"), shelf.peek("b")) == (1, None)
    assert list(shelf.items()) == before
    store = LocalStore[int](100 * SIZE)
    assert store.peek("t", "a") is None
    store.put("t", "a", 1, SIZE)
    assert store.peek("t", "a") == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 60), st.booleans()), max_size=200))
def test_the_bound_holds_and_the_bytes_add_up(steps: list[tuple[int, int, bool]]) -> None:
    gone: list[str] = []
    shelf = Shelf[int](200, gone.append)
    for number, size, is_put in steps:
        if is_put:
            shelf.put(str(number), size, size)
        else:
            shelf.get(str(number))
        assert shelf.num_bytes <= 200
        assert shelf.num_bytes == sum(value for _, value in shelf.items())
        assert len({key for key, _ in shelf.items()}) == len(shelf)
    assert all(isinstance(key, str) for key in gone)


def test_every_entry_that_goes_is_told_of() -> None:
    gone: list[tuple[str, str]] = []
    store = LocalStore[int](1000, dropped=lambda tenant, key: gone.append((tenant, key)))
    for number in range(100):
        store.put("a", str(number), number, 40)
    assert len(store) + len(gone) == 100
    assert store.num_bytes <= 1000


def test_one_tenant_cannot_push_out_the_others() -> None:
    store = LocalStore[int](10_000, 1.0)
    for number in range(20):
        store.put("small", str(number), number, 50)
    for number in range(10_000):
        store.put("greedy", str(number), number, 50)
        store.get("greedy", str(number))
    assert sum(store.holds("small", str(number)) for number in range(20)) == 20
    assert store.num_bytes <= 10_000


def test_a_tenants_share_is_its_bound() -> None:
    store = LocalStore[int](10_000, 0.25)
    for number in range(1000):
        store.put("one", str(number), number, 50)
    assert store.num_bytes <= 2500


def test_what_is_too_large_is_not_kept() -> None:
    store = LocalStore[int](10_000)
    store.put("t", "a", 1, 5000)
    assert store.get("t", "a") is None


def test_a_new_value_takes_the_place_of_the_old_one() -> None:
    store = LocalStore[int](10_000)
    store.put("t", "a", 1, 50)
    store.put("t", "a", 2, 60)
    assert (store.get("t", "a"), store.num_bytes) == (2, 60)
