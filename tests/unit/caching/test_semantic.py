"""The nearest questions of one scope, whatever was added and removed before."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.caching import semantic
from gateway.caching.key import Key
from gateway.caching.semantic import SemanticIndex
from tests.fakes.engines import vectors


def key(digest: str, scope: str = "s", tenant: str = "t") -> Key:
    return Key(tenant, scope, digest)


def test_the_nearest_come_first_and_none_below_the_floor() -> None:
    index, rows = SemanticIndex(), vectors(["a", "b", "c"])
    for name, row in zip("abc", rows, strict=True):
        index.add(key(name), row)
    assert [found.digest for found in index.nearest("s", rows[1], floor=0.9)] == ["b"]
    assert index.nearest("other", rows[1], floor=0.0) == []


def test_a_vector_of_another_length_or_with_no_numbers_is_left_out() -> None:
    index, row = SemanticIndex(), vectors(["a"])[0]
    index.add(key("a"), row)
    index.add(key("b"), row[:100])
    index.add(key("c"), row * np.nan)
    assert len(index) == 1
    assert index.nearest("s", row[:100], floor=0) == []


def test_a_scope_is_bounded() -> None:
    index, row = SemanticIndex(), vectors(["a"])[0]
    for number in range(semantic.MAX_QUESTIONS + 10):
        index.add(key(str(number)), row)
    assert len(index) == semantic.MAX_QUESTIONS


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.booleans()), max_size=80))
def test_what_is_there_is_found_and_what_is_gone_is_not(steps: list[tuple[str, bool]]) -> None:
    index, there = SemanticIndex(), set[str]()
    rows = dict(zip("abcdefghijklmnopqrstuvwxyz", vectors(list("abcdefghijklmnopqrstuvwxyz")), strict=True))
    for name, is_added in steps:
        if is_added:
            index.add(key(name), rows[name])
            there.add(name)
        else:
            index.remove("t", name)
            there.discard(name)
    assert len(index) == len(there)
    for name, row in rows.items():
        found = [each.digest for each in index.nearest("s", row, floor=0.99)]
        assert found == ([name] if name in there else [])
