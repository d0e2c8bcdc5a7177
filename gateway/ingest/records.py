"""Tables and JSON as text that can be searched and quoted: each record stands for itself, with the names of its values.

`nut,1` says nothing alone; `- name: nut; price: 1` does. Pure.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator

from gateway.errors import Unprocessable
from gateway.ingest.blocks import heading_of, opened_fence
from gateway.ingest.detect import delimiter_of

_RECORD_CHARS = 800  # a longer object is told by its parts, each under its key
_LINE_CHARS = 240  # a record up to here stands on one line
_MAX_DEPTH = 100
_MAX_HEADING_LEVEL = 6
_MAX_NAME_CHARS = 80
_TITLE_KEYS = ("title", "name", "heading", "question", "subject", "label", "id")
_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"[-+]?(?=[.,\s]*+\d)[\d.,%\s]++$")

Json = object  # what json.loads gives
Field = tuple[str, str]  # a value's name and the value


def table_to_text(text: str) -> str:
    """One line for each row; a newline inside a cell becomes a space, an empty cell is left out.

    The first row names the columns where it looks like names, and none of them stands in its column again; else the
    cells stand side by side.
    """
    rows = [[_one_line(cell) for cell in row] for row in _rows(text)]
    rows = [row for row in rows if any(row)]
    if len(rows) < 2 or not _are_names(rows[0], rows[1]):
        return _side_by_side(rows)
    names = rows[0]
    body = [row for row in rows[1:] if row != names]  # two tables in one file say their names twice
    if not body or _comes_again(names, body):
        return _side_by_side(rows)
    return "".join(f"- {'; '.join(_named(names, row))}\n" for row in body)


def _side_by_side(rows: list[list[str]]) -> str:
    return "".join(f"{' | '.join(row)}\n" for row in rows)


def _rows(text: str) -> list[list[str]]:
    delimiter = delimiter_of(text, is_named=True) or ","
    csv.field_size_limit(max(len(text), 131072))
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:  # a quote that nobody closes: then quotes are letters
        return list(csv.reader(text.splitlines(), delimiter=delimiter, quoting=csv.QUOTE_NONE))


def _are_names(first: list[str], second: list[str]) -> bool:
    """All cells are short, different words and no numbers, and the rows are about equally wide."""
    filled = [cell for cell in first if cell]
    return (
        len(filled) >= max(1, len(first) - 1)
        and len(set(filled)) == len(filled)
        and all(len(cell) <= _MAX_NAME_CHARS and not _NUMBER.match(cell) for cell in filled)
        and abs(len(first) - len(second)) <= 1
    )


def _comes_again(first: list[str], body: list[list[str]]) -> bool:
    """Whether a cell of the first row is a value of its column: what a name of the column never is."""
    return any(cell and cell == name for row in body for cell, name in zip(row, first, strict=False))


def _named(names: list[str], row: list[str]) -> Iterator[str]:
    for index, cell in enumerate(row):
        name = names[index] if index < len(names) else ""
        if cell:
            yield f"{name}: {cell}" if name else cell


def _one_line(cell: str) -> str:
    return _SPACE.sub(" ", cell).strip()


def json_to_markdown(text: str) -> str:
    """Objects as lists of `key: value`, each whole; keys of what is larger become headings.

    Raises: ValueError when it is not JSON; Unprocessable `file_too_complex` when it is nested too deep.
    """
    try:
        value = _loaded(text)
    except RecursionError:
        raise _too_deep() from None
    return "\n".join(_told(value, (), 0)).strip() + "\n"


def json_lines_to_markdown(text: str) -> str:
    """A record for each line; a line that is not JSON stays as it is. Raises: as json_to_markdown."""
    out: list[str] = []
    for line in text.split("\n"):
        if line.strip():
            try:
                out += _told(_loaded(line), (), 0)
            except ValueError:
                out += [_plain(line.strip()), ""]
            except RecursionError:
                raise _too_deep() from None
    return "\n".join(out).strip() + "\n"


def _loaded(text: str) -> Json:
    """Fractions as they are written: 19.90 stays 19.90."""
    value: Json = json.loads(text, parse_float=str)
    return value


def _told(value: Json, path: tuple[str, ...], depth: int) -> Iterator[str]:
    """Lines of a value that stands under the headings `path`; an empty one after each record."""
    if depth > _MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value:
            yield from _told(item, path, depth + 1)
        return
    fields = _flat(value, "", depth)
    is_small = sum(len(name) + len(words) for name, words in fields) <= _RECORD_CHARS
    if is_small or not isinstance(value, dict):
        yield from _record(fields)
        return
    title = next((str(value[key]) for key in _TITLE_KEYS if isinstance(value.get(key), str | int)), "")
    if title and path:
        yield from _heading(path := (*path, _one_line(title)))
    parts = {key: part for key, part in value.items() if _is_large(part, depth)}
    yield from _record(
        [field for key, part in value.items() if key not in parts for field in _flat(part, key, depth)]
    )
    for key, part in parts.items():
        inner = (*path, _one_line(str(key)) or "-")
        yield from _heading(inner)
        yield from _told(part, inner, depth + 1)


def _is_large(part: Json, depth: int) -> bool:
    if not isinstance(part, dict | list):
        return False
    return sum(len(name) + len(words) for name, words in _flat(part, "", depth)) > _RECORD_CHARS // 4


def _heading(path: tuple[str, ...]) -> Iterator[str]:
    yield f"{'#' * min(len(path), _MAX_HEADING_LEVEL)} {path[-1][:_MAX_NAME_CHARS]}"
    yield ""


def _flat(value: Json, name: str, depth: int) -> list[Field]:
    """Names and values of all leaves; `address.city`. A list of plain values is one value."""
    if depth > _MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, dict):
        pairs = ((f"{name}.{key}" if name else str(key), part) for key, part in value.items())
        return [field for key, part in pairs for field in _flat(part, key, depth + 1)]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [field for item in value for field in _flat(item, name, depth + 1)]
    words = ", ".join(map(_words, value)) if isinstance(value, list) else _words(value)
    return [(name, words)] if words else []


def _words(value: Json) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _record(fields: list[Field]) -> Iterator[str]:
    """A list item: on one line when it is short, else a line for each value."""
    pairs = [f"{_one_line(name)}: {words}" if name else words for name, words in fields]
    if not pairs:
        return
    whole = "; ".join(pairs)
    if len(whole) <= _LINE_CHARS and "\n" not in whole:
        yield f"- {whole}"
    else:
        for index, pair in enumerate(pairs):
            yield f"{'- ' if index == 0 else '  '}{_plain(pair)}"
    yield ""


def _plain(words: str) -> str:
    """No line of it is a heading, a fence or empty: a record is one block."""
    first, *rest = [line for line in words.split("\n") if line.strip()]
    lines = [f"    {line}" if heading_of(line) or opened_fence(line) else line for line in rest]
    return "\n".join([first, *lines])


def _too_deep() -> Unprocessable:
    return Unprocessable(
        f"The JSON is nested deeper than {_MAX_DEPTH} levels.", code="file_too_complex", detail="json"
    )
