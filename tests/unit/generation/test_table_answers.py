"""Of a table, or of records, the row that is asked for is quoted, and no other: files as ingest reads them."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest

from gateway.generation.extractive import ReaderParams, answer
from gateway.ingest.parse import parse_file
from gateway.types import Passage

PRICES = {"nut": 1, "bolt": 2, "screw": 3, "washer": 4, "rivet": 5}
METALS = {"nut": "steel", "bolt": "brass", "screw": "iron", "washer": "steel", "rivet": "iron"}
ROWS = [{"name": name, "price": f"{price} euro", "metal": METALS[name]} for name, price in PRICES.items()]
CELLS = "".join(f"<tr><td>{row['name']}</td><td>{row['price']}</td></tr>" for row in ROWS)
FILES = {
    "a.csv": "name,price,metal\n" + "".join(f"{','.join(row.values())}\n" for row in ROWS),
    "a.json": json.dumps(ROWS),
    "a.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "a.html": f"<h2>Prices</h2><table><tr><th>Name</th><th>Price</th></tr>{CELLS}</table>",
    "a.md": "| name | price |\n|---|---|\n" + "".join(f"| {r['name']} | {r['price']} |\n" for r in ROWS),
}


def passage(text: str, heading: str = "") -> Passage:
    return Passage(
        chunk_id=1, collection_id="c", file_id="f", filename="a", ordinal=0, heading=heading,
        start=0, end=len(text), text=text, score=0.6, rank_score=0.8,
    )  # fmt: skip


def quoted(name: str, question: str, mode: str = "fast") -> list[str]:
    found = passage(parse_file(FILES[name].encode(), name).text, "Prices")

    def similarity(_: str, sentences: list[str]) -> npt.NDArray[np.float32]:
        return np.full(len(sentences), 0.5, np.float32)

    params = ReaderParams(mode="deep" if mode == "deep" else "fast")
    return [each.text for each in answer(question, [found], params, similarity).citations]


@pytest.mark.parametrize("mode", ["fast", "deep"])
@pytest.mark.parametrize("name", FILES)
def test_the_rows_beside_the_one_asked_for_are_not_quoted(name: str, mode: str) -> None:
    (row,) = quoted(name, "What is the price of a screw?", mode)
    assert "screw" in row
    assert "3 euro" in row


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
def test_a_record_that_shares_only_the_name_of_a_value_is_not_quoted(name: str) -> None:
    (row,) = quoted(name, "Which metal is the bolt made of?")
    assert "brass" in row


@pytest.mark.parametrize("name", ["a.csv", "a.md"])
def test_two_rows_that_are_asked_for_are_both_quoted(name: str) -> None:
    rows = quoted(name, "What is the price of a screw, and the price of a rivet?")
    assert len(rows) == 2
    assert any("screw" in row for row in rows)
    assert any("rivet" in row for row in rows)


def test_rows_that_hold_as_much_of_the_question_are_all_quoted() -> None:
    rows = quoted("a.csv", "Which name has the metal steel?")
    assert len(rows) == 2
    assert all("steel" in row for row in rows)


def test_a_sentence_beside_a_row_is_quoted_as_before() -> None:
    text = "| name | price |\n|---|---|\n| screw | 3 euro |\n\nThe price of a screw is fixed by the guild.\n"
    shown = [
        each.text
        for each in answer("What is the price of a screw?", [passage(text)], ReaderParams()).citations
    ]
    assert len(shown) == 2


def test_a_row_with_a_sentence_in_it_is_quoted_as_before() -> None:
    text = (
        "| part | what happens when it dies |\n|---|---|\n"
        "| the worker of ingest, which takes a file | it is restarted |\n"
        "| a worker | its lease runs out and the next one takes the file again, so that nobody sees half of it |\n"
    )
    question = "Who takes the file of an ingest worker?"
    shown = [each.text for each in answer(question, [passage(text)], ReaderParams()).citations]
    assert any("lease" in row for row in shown)


def test_nothing_weaker_comes_in_the_place_of_a_row() -> None:
    text = "| name | price |\n|---|---|\n| screw | 3 euro |\n| washer | 4 euro |\n\nEvery price may change.\n"
    params = ReaderParams(max_sentences=2)
    (row,) = answer("What is the price of a screw?", [passage(text)], params).citations
    assert "screw" in row.text
