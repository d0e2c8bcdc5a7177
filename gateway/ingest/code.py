"""Cuts source code into blocks at its definitions, by indentation and a few line patterns: no grammar of any language.

Code that is formatted as people format it (a body is indented deeper than its head) gets its definitions whole where
they fit, each under the path of the definitions around it. Anything else is cut at blank lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.ingest.blocks import Block, Kind, trimmed

_MAX_LINE_CHARS = 300  # a longer line defines nothing
_MAX_NAME_CHARS = 80
_TAB_SIZE = 4
_MAX_DEPTH = 8

# What may stand before the word that defines: visibility and the like.
_MODIFIERS = (
    r"(?:(?:export|default|declare|public|private|protected|internal|static|final|abstract|sealed|partial|override|"
    r"virtual|async|unsafe|extern|inline|constexpr|open|data|suspend|pub(?:\([^)]*\))?|local|const(?=\s+fn\b))\s+)*+"
)
_DEFINITIONS = tuple(
    re.compile(pattern)
    for pattern in (
        # Python, JavaScript, TypeScript, Rust, Go, Kotlin, Swift, Ruby, PHP, Lua, Scala, C's structs.
        _MODIFIERS
        + r"(?:def|class|interface|enum(?:\s+(?:class|struct))?|struct|trait|record|object|protocol|extension|module|"
        r"namespace|mod|fn|func|fun|function\s*\*?|type|union|contract|sub)\s+(?P<name>[A-Za-z_$][\w$:.]*[!?]?)",
        r"func\s*\([^)]*\)\s*(?P<name>\w+)\s*[(\[]",  # a method in Go
        r"(?:unsafe\s+)?impl\b(?:<[^{]*?>)?\s*(?P<name>[^{]+?)\s*(?:\bwhere\b|\{|$)",  # Rust
        r"(?:export\s+)?(?:const|let|var)\s+(?P<name>[A-Za-z_$][\w$]*)\s*(?::[^=]+)?=\s*(?:async\s*)?"
        r"(?:function\b|\([^)]*\)\s*(?::[^=]+)?=>|[A-Za-z_$][\w$]*\s*=>)",  # JavaScript's arrows
        r"(?i:create)\s+(?i:or\s+replace\s+)?(?i:table|view|function|procedure|trigger|type)\s+"
        r"(?i:if\s+not\s+exists\s+)?(?P<name>[\w.\"`]+)",
        r"(?P<name>[A-Za-z_][\w-]*)\s*\(\)\s*\{?\s*$",  # a shell
    )
)
# A function in C, C++, Java, C#: a type, a name, arguments, and no semicolon. `else if (…)` has the same form.
_FUNCTION = re.compile(
    r"(?:[\w:<>\[\],.&*@]+\s+)+[*&]*(?P<name>~?[A-Za-z_][\w:~]*)\s*\([^;{]*(?:\)[^;]*\{?|,)\s*$"
)
_METHOD = re.compile(r"(?:(?:async|static|get|set)\s+)*\*?(?P<name>#?[A-Za-z_$][\w$]*)\s*\([^;]*\)\s*\{\s*$")
_STATEMENT = re.compile(
    r"(?:if|else|for|foreach|while|switch|catch|return|do|try|with|when|new|throw|await|yield|case|match|loop|elif|"
    r"typedef|using|import|package|assert|not|and|or|in|is|echo|print|go|defer|select|synchronized|lock)\b"
)
# Lines that belong to the definition below them, and lines that belong to the one above though they are not indented.
_ABOVE = re.compile(r"(?:@|#\[|#|//|/\*|\*|--|\[\w|template\s*<|\"\"\"|'''|;;)")
_CLOSING = re.compile(
    r"[)\]}]|\{\s*$|(?:end|else|elif|except|finally|catch|rescue|ensure|fi|done|esac)\b|#endif"
)


@dataclass(slots=True)
class _Line:
    """indent: in columns. name: what it defines, or empty."""

    start: int
    end: int
    indent: int
    words: str
    name: str


@dataclass(slots=True)
class _Unit:
    """Lines first..last (exclusive) that belong together, under `path`. is_definition: of path's last name."""

    first: int
    last: int
    path: tuple[str, ...]
    is_definition: bool = False


def code_blocks(text: str, max_chars: int) -> Iterator[Block]:
    """Blocks in order: whole definitions up to max_chars; a longer one by the definitions inside it, then by its
    paragraphs. Longer paragraphs are left to the caller."""
    lines = _lines(text)
    yield from _blocks(text, lines, _Unit(0, len(lines), ()), max_chars)


def definition_of(line: str) -> str:
    """The name that a line of code defines, or empty. line: without its indentation."""
    if len(line) > _MAX_LINE_CHARS or not line:
        return ""
    for pattern in _DEFINITIONS:
        if found := pattern.match(line):
            return found["name"].rstrip(":.")[:_MAX_NAME_CHARS]
    if _STATEMENT.match(line):
        return ""
    found = _FUNCTION.match(line) or _METHOD.match(line)
    return found["name"][:_MAX_NAME_CHARS] if found else ""


def _lines(text: str) -> list[_Line]:
    out, at = [], 0
    for raw in text.split("\n"):
        words = raw.strip()
        indent = len(raw[: len(raw) - len(raw.lstrip())].expandtabs(_TAB_SIZE)) if words else 0
        out.append(_Line(at, at + len(raw), indent, words, definition_of(words)))
        at += len(raw) + 1
    return out


def _blocks(text: str, lines: list[_Line], unit: _Unit, max_chars: int) -> Iterator[Block]:
    start, end = trimmed(text, lines[unit.first].start, lines[unit.last - 1].end)
    if start >= end:
        return
    if end - start <= max_chars and (unit.path or not _has_definitions(lines, unit)):
        yield Block(start, end, unit.path, Kind.LINES, is_opening=unit.is_definition)
        return
    parts = list(_parts(lines, unit)) if len(unit.path) < _MAX_DEPTH else []
    if any(part.is_definition for part in parts):
        for part in parts:
            yield from _blocks(text, lines, part, max_chars)
    else:
        yield from _paragraphs(text, lines, unit)


def _has_definitions(lines: list[_Line], unit: _Unit) -> bool:
    return any(lines[index].name for index in range(unit.first, unit.last))


def _parts(lines: list[_Line], unit: _Unit) -> Iterator[_Unit]:
    """The unit cut at its outermost definitions (not at its own head); what lies between them keeps its path."""
    begin = unit.first
    index = _body_of(lines, unit)
    while index < unit.last:
        if not lines[index].name or not _is_outermost(lines, index, unit):
            index += 1
            continue
        first = _with_lines_above(lines, index, begin)
        last = _end_of(lines, index, unit.last)
        if begin < first:
            yield _Unit(begin, first, unit.path)
        yield _Unit(first, last, (*unit.path, lines[index].name), is_definition=True)
        begin = index = last
    if begin < unit.last:
        yield _Unit(begin, unit.last, unit.path)


def _body_of(lines: list[_Line], unit: _Unit) -> int:
    """The line after the unit's own head."""
    index = unit.first
    if unit.is_definition:
        while index < unit.last and lines[index].name != unit.path[-1]:
            index += 1
        index += 1
    return index


def _is_outermost(lines: list[_Line], index: int, unit: _Unit) -> bool:
    """At the top only what is not indented: a definition inside an `if` is no chapter of the file."""
    return bool(unit.path) or lines[index].indent == 0


def _with_lines_above(lines: list[_Line], index: int, floor: int) -> int:
    """Comments and decorators right above a definition are a part of it."""
    indent = lines[index].indent
    while index > floor:
        above = lines[index - 1]
        if not above.words or above.indent < indent or not _ABOVE.match(above.words):
            break
        index -= 1
    return index


def _end_of(lines: list[_Line], head: int, limit: int) -> int:
    """The line after the definition that begins at `head`: the first that is indented no deeper and closes nothing."""
    indent, last = lines[head].indent, head + 1
    for index in range(head + 1, limit):
        line = lines[index]
        if not line.words:
            continue
        if line.indent <= indent and (line.name or not _CLOSING.match(line.words)):
            break
        last = index + 1
    return last


def _paragraphs(text: str, lines: list[_Line], unit: _Unit) -> Iterator[Block]:
    first = unit.first
    is_opening = unit.is_definition
    for index in range(unit.first, unit.last + 1):
        if index < unit.last and lines[index].words:
            continue
        if index > first:
            start, end = trimmed(text, lines[first].start, lines[index - 1].end)
            if start < end:
                yield Block(start, end, unit.path, Kind.LINES, is_opening=is_opening)
                is_opening = False
        first = index + 1
