"""Metadata filters: what they match, and what is refused with its place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidRequest
from gateway.filters import MAX_COMPARISONS, MAX_DEPTH, Filter, check, matches

HELD = {"lang": "en", "year": 2021, "score": 0.5, "is_draft": False}


def made(raw: Any) -> Filter:
    return msgspec.convert(raw, Filter)


def compare(kind: str, key: str, value: Any) -> Filter:
    return made({"type": kind, "key": key, "value": value})


@pytest.mark.parametrize(
    ("kind", "key", "value", "expected"),
    [
        ("eq", "lang", "en", True),
        ("eq", "lang", "de", False),
        ("eq", "year", 2021.0, True),
        ("eq", "is_draft", False, True),
        ("eq", "is_draft", 0, False),
        ("eq", "absent", "x", False),
        ("ne", "lang", "de", True),
        ("ne", "absent", "x", True),
        ("gt", "year", 2020, True),
        ("gt", "year", 2021, False),
        ("gte", "year", 2021, True),
        ("lt", "score", 0.6, True),
        ("lte", "score", 0.5, True),
        ("lt", "lang", "f", True),
        ("gt", "lang", 3, False),
        ("gt", "absent", 0, False),
        ("gt", "is_draft", -1, False),
        ("in", "lang", ["de", "en"], True),
        ("in", "absent", ["de"], False),
        ("nin", "lang", ["de"], True),
        ("nin", "absent", ["de"], True),
    ],
    ids=str,
)
def test_comparison(kind: str, key: str, value: Any, expected: bool) -> None:
    given = compare(kind, key, value)
    check(given, "filters")
    assert matches(given, HELD) is expected


def test_compounds_nest() -> None:
    recent = {"type": "gte", "key": "year", "value": 2021}
    either = {"type": "or", "filters": [{"type": "eq", "key": "lang", "value": "de"}, recent]}
    given = made({"type": "and", "filters": [either, {"type": "ne", "key": "is_draft", "value": True}]})
    check(given, "filters")
    assert matches(given, HELD)
    assert not matches(given, HELD | {"year": 2020})


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "and", "filters": [{"type": "eq", "key": "", "value": 1}]}, "filters.filters[0].key"),
        ({"type": "eq", "key": "a", "value": None}, "filters.value"),
        ({"type": "eq", "key": "a", "value": [1]}, "filters.value"),
        ({"type": "in", "key": "a", "value": 1}, "filters.value"),
        ({"type": "in", "key": "a", "value": []}, "filters.value"),
        ({"type": "gt", "key": "a", "value": True}, "filters.value"),
        ({"type": "eq", "key": "a", "value": "x" * 513}, "filters.value"),
        ({"type": "eq", "key": "a", "value": 1, "filters": [{"type": "eq"}]}, "filters"),
        ({"type": "or", "key": "a", "filters": [{"type": "eq"}]}, "filters"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refusal_names_the_place(raw: Any, place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(made(raw), "filters")
    assert refused.value.param == place


def test_depth_and_number_are_bounded() -> None:
    leaf = {"type": "eq", "key": "a", "value": 1}
    deep: dict[str, Any] = leaf
    for _ in range(MAX_DEPTH):
        deep = {"type": "and", "filters": [deep]}
    with pytest.raises(InvalidRequest, match="nested deeper"):
        check(made(deep), "filters")
    with pytest.raises(InvalidRequest, match="more than"):
        check(made({"type": "or", "filters": [leaf] * (MAX_COMPARISONS + 1)}), "filters")
