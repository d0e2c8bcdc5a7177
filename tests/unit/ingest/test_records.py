"""Tables and JSON: every record stands for itself, with the names of its values."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from gateway.errors import Unprocessable
from gateway.ingest.blocks import Style
from gateway.ingest.chunking import chunk_text
from gateway.ingest.records import json_lines_to_markdown, json_to_markdown, table_to_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,price\nnut,1\nbolt,\n", "- name: nut; price: 1\n- name: bolt\n"),
        ("name;price\nnut;1,5\n", "- name: nut; price: 1,5\n"),
        ("name\tprice\nnut\t1\n", "- name: nut; price: 1\n"),
        ('name,note\nnut,"a, b\nand c"\n', "- name: nut; note: a, b and c\n"),
        ('name,note\nnut,"he said ""no"""\n', '- name: nut; note: he said "no"\n'),
        ("1,2\n3,4\n", "1 | 2\n3 | 4\n"),
        ("a,a\n1,2\n", "a | a\n1 | 2\n"),
        ("name,price\n", "name | price\n"),
        ("name,price\nnut,1,red\n", "- name: nut; price: 1; red\n"),
        ("name,price\n\nnut,1\n,,\n", "- name: nut; price: 1\n"),
        (
            "Lyon,France,city\nParis,France,capital\nBonn,Germany,city\n",
            "Lyon | France | city\nParis | France | capital\nBonn | Germany | city\n",
        ),
        (
            "name,kind\nnut,part\nname,kind\nbolt,part\n",
            "- name: nut; kind: part\n- name: bolt; kind: part\n",
        ),
        (
            'name,note\nnut,"never closed\nbolt,2\n',
            '- name: nut; note: "never closed\n- name: bolt; note: 2\n',
        ),
    ],
    ids=[
        *("comma", "semicolon", "tab", "newline in a cell", "quotes", "no names", "no different names"),
        *("names only", "a cell too many", "empty rows", "words but no names", "names twice", "open quote"),
    ],
)
def test_a_row_is_one_line_with_the_names_of_its_columns(text: str, expected: str) -> None:
    assert table_to_text(text) == expected


def test_a_cell_may_be_longer_than_the_library_allows_by_default() -> None:
    assert table_to_text(f'name,note\nnut,"{"x" * 200_000}"\n').endswith("x" * 200_000 + "\n")


def test_rows_stay_whole_in_chunks() -> None:
    rows = "".join(f"part {number},It is {number}. No more. Made of steel.\n" for number in range(200))
    text = table_to_text("name,note\n" + rows)
    for chunk in chunk_text(text, max_chars=300, overlap_chars=60, style=Style.LINES):
        assert all(line.startswith("- name: part ") for line in chunk.text.split("\n"))
        assert chunk.text.endswith("steel.")


def test_small_objects_are_list_items() -> None:
    text = json_to_markdown(
        '[{"name": "nut", "size": {"d": 3, "tags": ["a", "b"]}}, {"name": null, "ok": true}]'
    )
    assert text == "- name: nut; size.d: 3; size.tags: a, b\n\n- ok: true\n"


def test_keys_of_large_objects_are_headings() -> None:
    value = {
        "version": 2,
        "gate": {"opens": "at dawn", "rules": "Keep it shut. " * 40},
        "keeper": {"name": "Ann", "hours": "All night long. " * 40},
    }
    text = json_to_markdown(json.dumps(value))
    assert text.startswith("- version: 2\n\n# gate\n\n- opens: at dawn\n  rules: Keep it shut.")
    headings = {
        chunk.heading for chunk in chunk_text(text, max_chars=900, overlap_chars=0, style=Style.MARKDOWN)
    }
    assert headings == {"gate", "keeper"}


def test_a_large_record_in_a_list_stands_under_its_title() -> None:
    articles = [{"title": f"Gate {n}", "text": f"It is number {n}. " * 80} for n in range(2)]
    text = json_to_markdown(json.dumps({"articles": articles}))
    chunks = chunk_text(text, max_chars=900, overlap_chars=0, style=Style.MARKDOWN)
    assert {chunk.heading for chunk in chunks} == {"articles > Gate 0", "articles > Gate 1"}


def test_each_line_of_json_lines_is_a_record() -> None:
    lines = '{"q": "Who?", "a": "Ann\\n\\n# no heading\\n```"}\n\nnot json\n[1, 2]\n'
    assert json_lines_to_markdown(lines) == (
        "- q: Who?\n  a: Ann\n    # no heading\n    ```\n\nnot json\n\n- 1, 2\n"
    )


def test_records_stay_whole_in_chunks() -> None:
    lines = "\n".join(json.dumps({"id": n, "text": f"It is {n}. Nothing more."}) for n in range(100))
    for chunk in chunk_text(
        json_lines_to_markdown(lines), max_chars=300, overlap_chars=50, style=Style.MARKDOWN
    ):
        assert chunk.text.startswith("- id: ")
        assert chunk.text.endswith("more.")


@pytest.mark.parametrize("tell", [json_to_markdown, json_lines_to_markdown])
def test_numbers_stay_as_they_are_written(tell: Callable[[str], str]) -> None:
    value = '{"price": 19.90, "size": 1e3, "id": 12345678901234567890.50, "count": 7}'
    assert tell(value) == "- price: 19.90; size: 1e3; id: 12345678901234567890.50; count: 7\n"


@pytest.mark.parametrize("value", ["3", '"words"', "null", "[]", "{}", "[[[]]]"])
def test_json_without_objects_is_read_too(value: str) -> None:
    assert json_to_markdown(value).strip() in {"- 3", "- words", ""}


@pytest.mark.parametrize("depth", [150, 100_000])
@pytest.mark.parametrize("pair", ["[]", "{}"], ids=["lists", "objects"])
def test_json_nested_too_deep_is_refused(depth: int, pair: str) -> None:
    opening = pair[0] if pair == "[]" else '{"a":'
    with pytest.raises(Unprocessable, match="nested deeper than 100 levels") as caught:
        json_to_markdown(opening * depth + "1" + pair[1] * depth)
    assert caught.value.code == "file_too_complex"
