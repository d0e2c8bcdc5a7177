"""What a search may see, as a Milvus expression. Pure.

No text of a caller ever stands in an expression: names and texts are hashed or written as hexadecimal digits, so
there is nothing to escape and nothing to inject. For attributes an expression is a necessary condition only: whoever
searches still asks `filters.matches` of what was found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.filters import Filter, Value

MAX_ID_CHARS = 64  # as in SQL: what is longer names nothing
MAX_TEXT_BYTES = 256  # of a text attribute that an expression can tell apart
MAX_EXPRESSION_CHARS = 32_000  # of one filter; what is longer is only matched afterwards
MAX_EXCLUSIONS = 64  # of one expression; further ones are only matched afterwards
EXACT_BELOW = 2.0**53  # whole numbers from here on share a float
LARGEST = 1e300

NOTHING = "id < 0"

_PLAIN = re.compile(r"[A-Za-z0-9_.:-]+")
_ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

Removals = Mapping[
    tuple[str, str], Mapping[str | None, int]
]  # (tenant, collection) -> file, None = all -> epoch


def key(text: str) -> str:
    """An id as it is stored and asked for: itself when it is plain, else hexadecimal behind a mark."""
    return text if _PLAIN.fullmatch(text) else "~" + _hexadecimal(text.encode("utf-8", "surrogatepass"))


def unkey(stored: str) -> str:
    """Inverse of `key`."""
    return bytes.fromhex(stored[1:]).decode("utf-8", "surrogatepass") if stored.startswith("~") else stored


def visible(tenant_id: str, collections: Iterable[str], epoch: int, removals: Removals) -> str:
    """The rows of a tenant at an epoch, of these collections; none given = all. removals: those still to be deleted."""
    asked = list(collections)
    named = [each for each in asked if len(each) <= MAX_ID_CHARS]
    if len(tenant_id) > MAX_ID_CHARS or (asked and not named):
        return NOTHING
    parts = [f"tenant == {_quoted(tenant_id)}", f"epoch <= {epoch}"]
    if named:
        parts.append(f"collection in {_list(dict.fromkeys(named))}")
    exclusions = _exclusions(tenant_id, set(named), epoch, removals)
    return " and ".join([*parts, *exclusions[:MAX_EXCLUSIONS]])


def _exclusions(tenant_id: str, named: set[str], epoch: int, removals: Removals) -> list[str]:
    found = []
    for (tenant, collection_id), files in removals.items():
        if tenant != tenant_id or (named and collection_id not in named):
            continue
        together: dict[int, list[str]] = {}
        for file_id, removed in files.items():
            if removed > epoch:
                continue
            if file_id is None:
                found.append(f"not (collection == {_quoted(collection_id)} and epoch < {removed})")
            else:
                together.setdefault(removed, []).append(file_id)
        found += [
            f"not (collection == {_quoted(collection_id)} and file in {_list(ids)} and epoch < {removed})"
            for removed, ids in together.items()
        ]
    return found


def removed(collection_id: str, file_id: str | None, tenant_id: str, epoch: int) -> str:
    """The rows that a removal at an epoch took away. file_id None = all of the collection."""
    parts = [f"tenant == {_quoted(tenant_id)}", f"collection == {_quoted(collection_id)}", f"epoch < {epoch}"]
    if file_id is not None:
        parts.append(f"file == {_quoted(file_id)}")
    return " and ".join(parts)


def stored_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a file's attributes: themselves, and one comparable entry for each."""
    stored: dict[str, Any] = {
        "given": json.dumps(attributes)
    }  # a text: numbers of any size come back as they were
    for name, value in attributes.items():
        if isinstance(value, bool):
            stored[_entry("b", name)] = value
        elif isinstance(value, int | float):
            stored[_entry("n", name)] = _number(value)
        elif isinstance(value, str):
            stored[_entry("s", name)] = _text(value)
    return stored


def given_attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `stored_attributes`."""
    given: dict[str, Any] = json.loads(stored.get("given", "{}"))
    return given


def expression(given: Filter | None) -> str:
    """A condition that all rows fulfil whose attributes match; "" = it would leave out nothing, or be too long."""
    condition = _condition(given) if given is not None else None
    return condition if condition and len(condition) <= MAX_EXPRESSION_CHARS else ""


def _condition(given: Filter) -> str | None:
    """None = every row may match."""
    values = given.value if isinstance(given.value, list) else [given.value]
    compared = [value for value in values if value is not None]
    match given.type:
        case "and":
            return _all([_condition(each) for each in given.filters])
        case "or":
            return _any([_condition(each) for each in given.filters])
        case "eq" | "in":
            return _any([_equal(given.key, value) for value in compared])
        case "ne" | "nin":
            return _all([_unequal(given.key, value) for value in compared])
    return _ordered(given.type, given.key, compared[0])


def _all(conditions: list[str | None]) -> str | None:
    said = [each for each in conditions if each is not None]
    return f"({' and '.join(said)})" if said else None


def _any(conditions: list[str | None]) -> str | None:
    said = [each for each in conditions if each is not None]
    return f"({' or '.join(said)})" if said and len(said) == len(conditions) else None


def _equal(name: str, value: Value) -> str:
    path, literal, _ = _compared(name, value)
    return f"{path} == {literal}"


def _unequal(name: str, value: Value) -> str | None:
    path, literal, is_exact = _compared(name, value)
    return f"(not (exists {path}) or {path} != {literal})" if is_exact else None


def _ordered(kind: str, name: str, value: Value) -> str:
    if isinstance(value, bool):
        return NOTHING
    path, literal, is_exact = _compared(name, value)
    sign = _ORDER[kind] if is_exact else _ORDER[kind][0] + "="
    return f"{path} {sign} {literal}"


def _compared(name: str, value: Value) -> tuple[str, str, bool]:
    """The path of an attribute, a literal for the value, and whether different values have different literals."""
    if isinstance(value, bool):
        return _path("b", name), str(value).lower(), True
    if isinstance(value, str):
        is_whole = len(value.encode("utf-8", "surrogatepass")) < MAX_TEXT_BYTES
        return _path("s", name), f'"{_text(value)}"', is_whole
    number = _number(value)
    return _path("n", name), repr(number), abs(number) < EXACT_BELOW


def _path(kind: str, name: str) -> str:
    return f'attributes["{_entry(kind, name)}"]'


def _entry(kind: str, name: str) -> str:
    return kind + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _number(value: float) -> float:
    return float(max(-LARGEST, min(LARGEST, value)))


def _text(value: str) -> str:
    """Hexadecimal digits of UTF-8: they have the order of the characters."""
    return _hexadecimal(value.encode("utf-8", "surrogatepass")[:MAX_TEXT_BYTES])


def _hexadecimal(data: bytes) -> str:
    return data.hex()


def _quoted(text: str) -> str:
    return f'"{key(text)}"'


def _list(ids: Iterable[str]) -> str:
    return f"[{', '.join(_quoted(each) for each in ids)}]"
