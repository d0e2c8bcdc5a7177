"""Filters over every vector store: each gives exactly what `filters.matches` says of the files' attributes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.filters import Filter, check, matches
from gateway.storage import attachments
from tests.contract.vector_stands import milvus_lite, stand
from tests.fakes.corpus import add_file, new_collection
from tests.fakes.vector_stores import Stand, find, unit

__all__ = ["milvus_lite", "stand"]

LONG = "long " * 80  # beyond what an expression tells apart
FILES: list[dict[str, Any]] = [
    {},
    {"year": 2019, "lang": "en", "draft": False},
    {"year": 2020.5, "lang": "de", "draft": True},
    {"year": "2020", "lang": "EN"},
    {"year": -3, "lang": ""},
    {"year": 0, "lang": "fr", "draft": 1},
    {"year": 2**53 + 1, "lang": LONG + "a"},
    {"year": 10**30, "lang": "huge"},
    {"year": 1e300, "lang": LONG + "b"},
    {"lang": 'say "hi" \\ or 1==1 or lang == "'},
    {"lang": "it's", "strange \"key'] or id > 0": "x", "": "nameless"},
    {"lang": "Ünïcode ✓", "日本": "東京"},
    {"given": "reserved", "id": 7, "tenant": "t2"},
]
FILTERS: dict[str, dict[str, Any]] = {
    "eq text": {"type": "eq", "key": "lang", "value": "en"},
    "eq number": {"type": "eq", "key": "year", "value": 2019},
    "eq number as float": {"type": "eq", "key": "year", "value": 2019.0},
    "eq true": {"type": "eq", "key": "draft", "value": True},
    "eq false": {"type": "eq", "key": "draft", "value": False},
    "eq one is not true": {"type": "eq", "key": "draft", "value": 1},
    "eq empty": {"type": "eq", "key": "lang", "value": ""},
    "eq missing": {"type": "eq", "key": "nothing", "value": "x"},
    "eq large": {"type": "eq", "key": "year", "value": 2**53},
    "eq larger": {"type": "eq", "key": "year", "value": 2**53 + 1},
    "eq long": {"type": "eq", "key": "lang", "value": LONG + "a"},
    "eq long of neither": {"type": "eq", "key": "lang", "value": LONG + "c"},
    "ne text": {"type": "ne", "key": "lang", "value": "en"},
    "ne long": {"type": "ne", "key": "lang", "value": LONG + "a"},
    "ne large": {"type": "ne", "key": "year", "value": 2**53},
    "ne missing": {"type": "ne", "key": "nothing", "value": 1},
    "ne true": {"type": "ne", "key": "draft", "value": True},
    "gt": {"type": "gt", "key": "year", "value": 2019},
    "gte": {"type": "gte", "key": "year", "value": 2019},
    "lt": {"type": "lt", "key": "year", "value": 0},
    "lte": {"type": "lte", "key": "year", "value": 0},
    "eq huge": {"type": "eq", "key": "year", "value": 1e30},
    "gt large": {"type": "gt", "key": "year", "value": 2**53},
    "lt large": {"type": "lt", "key": "year", "value": 2**53 + 1},
    "gt text": {"type": "gt", "key": "lang", "value": "en"},
    "lte text": {"type": "lte", "key": "lang", "value": "en"},
    "gt long": {"type": "gt", "key": "lang", "value": LONG + "a"},
    "lt number as text": {"type": "lt", "key": "year", "value": "3"},
    "in": {"type": "in", "key": "lang", "value": ["en", "fr", "xx"]},
    "in mixed": {"type": "in", "key": "year", "value": [2019, "2020", True]},
    "nin": {"type": "nin", "key": "lang", "value": ["en", "fr"]},
    "nin mixed": {"type": "nin", "key": "year", "value": [2019, "2020", 2**53]},
    "hostile value": {"type": "eq", "key": "lang", "value": 'say "hi" \\ or 1==1 or lang == "'},
    "hostile value of none": {"type": "eq", "key": "lang", "value": '" or 1==1 or lang == "'},
    "hostile quote": {"type": "eq", "key": "lang", "value": "it's"},
    "hostile key": {"type": "eq", "key": "strange \"key'] or id > 0", "value": "x"},
    "hostile key of none": {"type": "eq", "key": 'x"] > 0 or id > 0 or attributes["x', "value": "x"},
    "beyond ascii": {"type": "eq", "key": "日本", "value": "東京"},
    "gt beyond ascii": {"type": "gt", "key": "lang", "value": "Ünïcode"},
    "our own names": {"type": "eq", "key": "given", "value": "reserved"},
    "own field": {"type": "eq", "key": "tenant", "value": "t2"},
    "and": {
        "type": "and",
        "filters": [
            {"type": "gte", "key": "year", "value": 2019},
            {"type": "ne", "key": "lang", "value": "de"},
        ],
    },
    "or": {
        "type": "or",
        "filters": [{"type": "eq", "key": "lang", "value": "en"}, {"type": "lt", "key": "year", "value": 0}],
    },
    "or with one that an expression cannot say": {
        "type": "or",
        "filters": [
            {"type": "eq", "key": "lang", "value": "en"},
            {"type": "ne", "key": "lang", "value": LONG + "a"},
        ],
    },
    "nested": {
        "type": "or",
        "filters": [
            {
                "type": "and",
                "filters": [
                    {"type": "in", "key": "lang", "value": ["en", "EN"]},
                    {"type": "or", "filters": [{"type": "eq", "key": "draft", "value": False}]},
                ],
            },
            {"type": "eq", "key": "id", "value": 7},
        ],
    },
    "very many values": {
        "type": "or",
        "filters": [
            {
                "type": "in",
                "key": "lang",
                "value": [f"value {number} of {part}" for number in range(255)] + ["en"],
            }
            for part in range(8)
        ],
    },
}


def fill(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    for number, attributes in enumerate(FILES):
        vector = np.stack([unit(1, 0.01 * number)])
        add_file(stand.database, "t1", docs, [f"zygote {chr(97 + number)}"], vector, attributes=attributes)
    stand.settle()


def numbers(stand: Stand, wanted: Filter, **scope: Any) -> list[int]:
    found = find(stand.store, "t1", unit(1), "zygote", filters=wanted, k=20, **scope)
    return sorted(ord(each.text[-1]) - 97 for each in found)


def test_every_filter_gives_exactly_the_files_that_match(stand: Stand) -> None:
    fill(stand)
    for name, shape in FILTERS.items():
        wanted = msgspec.convert(shape, Filter)
        check(wanted, "filters")
        expected = [number for number, each in enumerate(FILES) if matches(wanted, each)]
        assert numbers(stand, wanted) == expected, name


@pytest.mark.parametrize("ranking", ["dense", "lexical"])
def test_a_filter_bounds_each_kind_of_evidence(stand: Stand, ranking: str) -> None:
    fill(stand)
    assert numbers(stand, Filter(type="eq", key="lang", value="de"), ranking=ranking) == [2]


def test_a_filter_that_one_in_hundreds_passes_still_finds_it(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    vectors = np.stack([unit(1, 0.001 * number) for number in range(300)])
    held = [f"Filler {chr(97 + n % 26)}{chr(97 + n // 26)} of no use. " for n in range(300)]
    add_file(stand.database, "t1", docs, held, vectors)
    rare = {"lang": LONG + "a", "rare": True}
    add_file(stand.database, "t1", docs, ["The needle."], np.stack([unit(0, 0, 1)]), attributes=rare)
    stand.settle()
    for wanted in (
        Filter(type="eq", key="rare", value=True),
        Filter(type="gte", key="lang", value=LONG + "a"),
    ):
        assert [each.text for each in find(stand.store, "t1", unit(1), filters=wanted)] == ["The needle."]


def test_changed_attributes_are_filtered_by_from_the_next_epoch(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    old = add_file(stand.database, "t1", docs, ["Herons."], np.stack([unit(1)]), attributes={"year": 2019})
    stand.settle()
    with stand.database.write() as conn:
        attachments.update_attributes(conn, "t1", docs, old, {"year": 2020})
    stand.settle()
    assert find(stand.store, "t1", unit(1), filters=Filter(type="eq", key="year", value=2019)) == []
    assert len(find(stand.store, "t1", unit(1), filters=Filter(type="eq", key="year", value=2020))) == 1


def test_one_file_in_two_collections_has_attributes_in_each(stand: Stand) -> None:
    first, second = new_collection(stand.database, "t1", "a"), new_collection(stand.database, "t1", "b")
    for docs, year in ((first, 2019), (second, 2020)):
        add_file(stand.database, "t1", docs, [f"In {docs}."], np.stack([unit(1)]), attributes={"year": year})
    stand.settle()
    found = find(stand.store, "t1", unit(1), filters=Filter(type="eq", key="year", value=2020))
    assert [each.collection_id for each in found] == [second]
