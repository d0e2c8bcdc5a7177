"""Expressions are checked for what they can hold; what they mean is held by the contract suite over a real server."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from gateway.filters import Filter
from gateway.retrieval.milvus_filter import (
    NOTHING,
    expression,
    given_attributes,
    key,
    removed,
    stored_attributes,
    unkey,
    visible,
)

HOSTILE = ['" or 1==1 or id == "', "'", "\\", '\\" or true', "a\nb", "attributes", "x'y\"z", "é", "\0", ""]
# All that may stand between the quotes of an expression, and all that may stand outside of them.
QUOTED = re.compile(r'"([A-Za-z0-9_.:~-]*)"')
BARE = re.compile(
    r"(?:tenant|collection|file|epoch|id|attributes|and|or|not|in|exists|true|false|[\d.e+-]+|[\s()\[\],<>=!])*"
)


def assert_plain(text: str) -> None:
    assert BARE.fullmatch(QUOTED.sub("", text)), text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_caller_stands_in_an_expression(text: str) -> None:
    assert_plain(visible(text, [text, "vs_1"], 7, {(text, text): {text: 3, None: 2}}))
    assert_plain(removed(text, text, text, 3))
    for kind, value in (("eq", text), ("gt", text), ("in", [text]), ("nin", [text]), ("ne", text)):
        assert_plain(expression(Filter(type=kind, key=text or "k", value=value)))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [*HOSTILE, "vs_06ab", "file-1", "~", "~6162", "a.b:c"])
def test_a_key_gives_its_text_back_and_no_two_texts_share_one(text: str) -> None:
    assert unkey(key(text)) == text
    assert len({key(each) for each in {*HOSTILE, text}}) == len({*HOSTILE, text})


def test_what_is_visible_names_tenant_epoch_and_collections() -> None:
    assert visible("t1", [], 7, {}) == 'tenant == "t1" and epoch <= 7'
    assert visible("t1", ["b", "a", "b"], 7, {}) == (
        'tenant == "t1" and epoch <= 7 and collection in ["b", "a"]'
    )


def test_ids_too_long_to_exist_leave_nothing_rather_than_everything() -> None:
    assert visible("t1", ["x" * 65], 7, {}) == NOTHING
    assert visible("x" * 65, [], 7, {}) == NOTHING


def test_removals_up_to_the_epoch_are_left_out_and_no_others() -> None:
    removals: dict[tuple[str, str], dict[str | None, int]] = {
        ("t1", "a"): {"f": 5, "g": 5, "late": 9},
        ("t1", "b"): {None: 6},
        ("t2", "a"): {"foreign": 5},
    }
    text = visible("t1", ["a"], 7, removals)
    assert text.endswith(' and not (collection == "a" and file in ["f", "g"] and epoch < 5)')
    everything = visible("t1", [], 7, removals)
    assert 'not (collection == "b" and epoch < 6)' in everything
    assert "late" not in everything
    assert "foreign" not in everything


def test_an_expression_stays_short_however_many_removals_there_are() -> None:
    removals: dict[tuple[str, str], dict[str | None, int]] = {
        ("t1", "a"): {f"f{number}": number for number in range(1000)}
    }
    assert visible("t1", [], 2000, removals).count("not (") == 64


def test_stored_attributes_give_back_what_was_given() -> None:
    given: dict[str, Any] = {"a": 1, "b": "x", "c": True, "d": 2.5, "given": "y", "e": None, "f": [1]}
    assert given_attributes(stored_attributes(given)) == given
    assert given_attributes({}) == {}


def test_stored_numbers_are_finite_floats() -> None:
    stored = stored_attributes({"a": 10**400, "b": -(10**400), "c": 3})
    numbers = [value for name, value in stored.items() if name != "given"]
    assert numbers == [1e300, -1e300, 3.0]
    assert all(isinstance(each, float) for each in numbers)


@pytest.mark.parametrize(
    "shape",
    [
        {"type": "ne", "key": "k", "value": "x" * 300},
        {"type": "ne", "key": "k", "value": 2**53},
        {"type": "or", "filters": [{"type": "eq", "key": "k", "value": 1}, {"type": "ne", "key": "k", "value": 2**60}]},
        {"type": "and", "filters": [{"type": "nin", "key": "k", "value": [2**60]}]},
        {"type": "or", "filters": [{"type": "in", "key": "k", "value": ["x" * 99 + str(n) for n in range(256)]}]},
    ],
    ids=["long text", "large number", "or", "and", "too long"],
)  # fmt: skip
def test_what_an_expression_cannot_say_is_left_to_be_matched_afterwards(shape: dict[str, Any]) -> None:
    assert expression(msgspec.convert(shape, Filter)) == ""


def test_no_filter_is_no_condition() -> None:
    assert expression(None) == ""


def test_order_against_a_boolean_finds_nothing() -> None:
    assert expression(Filter(type="gt", key="k", value=True)) == NOTHING
