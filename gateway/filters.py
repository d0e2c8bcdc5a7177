"""Metadata filters of a search, in OpenAI's vector-store shape. Pure: checked once, then matched against attributes.

A comparison of a missing attribute, or of values that cannot be compared (text with a number), is false; `ne` and
`nin` are then true. Booleans are compared only by `eq`, `ne`, `in` and `nin`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from gateway.errors import InvalidRequest

Value = str | float | int | bool

MAX_DEPTH = 8
MAX_COMPARISONS = 64
MAX_VALUES = 256  # of one `in`
MAX_KEY_CHARS = 64  # as OpenAI has it for attributes
MAX_VALUE_CHARS = 512

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


class Filter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A comparison (`key` with `value`) or a compound (`and`, `or` over `filters`)."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"]
    key: str = ""
    value: Value | list[Value] | None = None
    filters: list[Filter] = []


def check(given: Filter, param: str) -> None:
    """Raises: InvalidRequest that says which part of the filter is wrong; param: where the filter stands."""
    num_left = MAX_COMPARISONS
    waiting = [(given, param, 1)]
    while waiting:
        part, place, depth = waiting.pop()
        if part.type in ("and", "or"):
            _check_compound(part, place, depth)
            waiting += [
                (each, f"{place}.filters[{index}]", depth + 1) for index, each in enumerate(part.filters)
            ]
            continue
        _check_comparison(part, place)
        num_left -= 1
        if num_left < 0:
            raise InvalidRequest(f"{param} has more than {MAX_COMPARISONS} comparisons.", param=param)


def _check_compound(part: Filter, place: str, depth: int) -> None:
    if part.key or part.value is not None:
        raise InvalidRequest(f"{place}: `{part.type}` takes filters, not key and value.", param=place)
    if not part.filters:
        raise InvalidRequest(f"{place}.filters must hold at least one filter.", param=f"{place}.filters")
    if depth >= MAX_DEPTH:
        raise InvalidRequest(f"{place}: filters are nested deeper than {MAX_DEPTH}.", param=place)


def _check_comparison(part: Filter, place: str) -> None:
    if part.filters:
        raise InvalidRequest(f"{place}: `{part.type}` takes key and value, not filters.", param=place)
    if not 1 <= len(part.key) <= MAX_KEY_CHARS:
        raise InvalidRequest(f"{place}.key must have 1 to {MAX_KEY_CHARS} characters.", param=f"{place}.key")
    values = part.value if isinstance(part.value, list) else [part.value]
    if isinstance(part.value, list) != (part.type in ("in", "nin")):
        wanted = "a list of values" if part.type in ("in", "nin") else "one value"
        raise InvalidRequest(f"{place}.value: `{part.type}` takes {wanted}.", param=f"{place}.value")
    if not values or len(values) > MAX_VALUES:
        raise InvalidRequest(f"{place}.value must hold 1 to {MAX_VALUES} values.", param=f"{place}.value")
    for value in values:
        if value is None or (isinstance(value, str) and len(value) > MAX_VALUE_CHARS):
            raise InvalidRequest(
                f"{place}.value must be a number, a boolean or a text of at most {MAX_VALUE_CHARS} characters.",
                param=f"{place}.value",
            )
        if part.type in _ORDER and isinstance(value, bool):
            raise InvalidRequest(
                f"{place}.value: `{part.type}` cannot order booleans.", param=f"{place}.value"
            )


def matches(given: Filter, attributes: Mapping[str, Any]) -> bool:
    """Whether attributes satisfy a filter that `check` has let pass."""
    match given.type:
        case "and":
            return all(matches(each, attributes) for each in given.filters)
        case "or":
            return any(matches(each, attributes) for each in given.filters)
        case "eq":
            return _equal(attributes.get(given.key), given.value)
        case "ne":
            return not _equal(attributes.get(given.key), given.value)
        case "in" | "nin":
            values = given.value if isinstance(given.value, list) else []
            held = attributes.get(given.key)
            return any(_equal(held, value) for value in values) == (given.type == "in")
    return _ordered(_ORDER[given.type], attributes.get(given.key), given.value)


def _equal(held: Any, value: Any) -> bool:
    return held is not None and isinstance(held, bool) == isinstance(value, bool) and bool(held == value)


def _ordered(compare: Callable[[Any, Any], bool], held: Any, value: Any) -> bool:
    if isinstance(held, bool) or isinstance(value, bool):
        return False
    if isinstance(held, str) and isinstance(value, str):
        return compare(held, value)
    if isinstance(held, int | float) and isinstance(value, int | float):
        return compare(held, value)
    return False
