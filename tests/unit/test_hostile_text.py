"""No text makes a regular expression, or what is built on it, take more than linear time.

Each pattern is tried the way its module uses it (`.match`, `.search` …), on runs of one thing followed by something
that makes the whole fail. Time is the processor's, and what is compared is twice the text with once the text, so a
busy machine fails nothing.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gateway.generation
import gateway.ingest
import gateway.tiering
from gateway.generation.extractive import ReaderParams, answer, num_tokens
from gateway.ingest.chunking import Style, chunk_text
from gateway.ingest.parse import parse_file
from gateway.language import german, question, referent, sentences, support, terms
from gateway.language import pieces as pieces_module
from gateway.language.pieces import pieces
from gateway.language.sentences import split
from gateway.language.terms import stem, words
from gateway.retrieval import second_hop
from gateway.tiering.complexity import complexity_of
from gateway.types import Passage

NUM_CHARS = 32_000  # of the longest question
NUM_PATTERN_CHARS = 8_000  # a quadratic pattern takes half a second for them
BUDGET_S = 1.0
TOO_QUICK_TO_JUDGE_S = 0.06  # linear patterns take about 0.002 s
MAX_GROWTH = 3.0  # twice the text: 2 is linear, 4 quadratic

_UNITS = (
    *("a", "a ", "aa ", "a'", "a-", "a. ", "é", "潮", "。", "\u200b", "\U0001f642", "A", "A ", "Who "),
    *(" ", "\t", "\n", " \n", "\n\n", "\r", "\u2028", "\x00", "1", "1,", "1. ", "20", "1 a", "12:"),
    *("'", '"', "’", "'’", "\"'", "(", ")", "[", "]", "[1]", "[a", "{", "<a ", "> ", ")]", '.") '),
    *(".", ". ", "…", "!", "! ", "?", "? ", "?'", ",", ";", "-", "- ", "--", "*", "* ", "_", "`", "~"),
    *(
        "=",
        "= ",
        "#",
        "# ",
        "#\t",
        "| ",
        "|-",
        "|",
        "|---",
        ": ",
        "what ",
        "what is ",
        "which a ",
        "how much ",
    ),
    *(
        "how much is ",
        "what is the a ",
        "what does ",
        "in what ",
        "the ",
        "to ",
        "by ",
        "and ",
        "why ",
        "in ",
    ),
)
_STARTS = ("", "what is ", "a. ", "# ")
_ENDS = ("x", "! x")


# These travel as arguments to a function that calls `finditer`.
_PASSED_ON = {"_DATE", "_SHARE", "_MONEY", "_LINE_START", "_SENTENCE_START", "_WORD_START"}


def _texts(length: int) -> list[str]:
    return [
        start + unit * (length // len(unit)) + end for unit in _UNITS for start in _STARTS for end in _ENDS
    ]


_HALF, _WHOLE = _texts(NUM_PATTERN_CHARS // 2), _texts(NUM_PATTERN_CHARS)


def _patterns() -> Iterator[Any]:
    """(callable over a text) of every pattern and every method that its module calls on it."""
    packages = (gateway.generation, gateway.ingest, gateway.tiering)
    of_packages = [module for package in packages for module in _modules(package)]
    for module in [*of_packages, german, pieces_module, referent, second_hop, sentences, support, terms]:
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                called = sorted(set(re.findall(rf"\b{name}\.(\w+)\(", source)))
                called += ["finditer"] * (name in _PASSED_ON)
                for method in called:
                    yield pytest.param(value, method, id=f"{module.__name__[8:]}.{name}.{method}")
                assert called, f"{module.__name__}.{name} is used in a way this test does not see"
    for wanted, cue in question._COMPILED:
        yield pytest.param(cue, "search", id=f"language.question.{wanted}.search")
    for wanted, cue in german._CUES:
        yield pytest.param(cue, "search", id=f"language.german.{wanted}.search")
    for name in ("_CLAUSE", "_DATE", "_DEFINING", "_PLACING", "_TITLE_WORD"):
        yield pytest.param(getattr(question, name), "search", id=f"language.question.{name}.search")


def _modules(package: Any) -> Iterator[Any]:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def _tried(pattern: re.Pattern[Any], method: str, text: str) -> None:
    # Some read a file before its encoding is known.
    given = text if isinstance(pattern.pattern, str) else text.encode()
    if method == "finditer":
        for _ in pattern.finditer(given):
            pass
    elif method == "sub":
        pattern.sub(given[:0], given)
    else:
        getattr(pattern, method)(given)


@pytest.mark.parametrize(("pattern", "method"), list(_patterns()))
def test_a_pattern_takes_linear_time(pattern: re.Pattern[Any], method: str) -> None:
    for half, whole in zip(_HALF, _WHOLE, strict=True):
        _check(lambda text: _tried(pattern, method, text), half, whole)


def _passage(text: str) -> Passage:
    return Passage(
        chunk_id=1, collection_id="c", file_id="f", filename="f.md", ordinal=0, heading=text[:200],
        start=0, end=len(text), text=text, score=0.7,
    )  # fmt: skip


_FACT = "Copper conducts heat, and was found near the lake in 1843 by Anna Berg because of the rain. " * 5
_FUNCTIONS: dict[str, Callable[[str], object]] = {
    "question": question.read,
    "answer to it": lambda text: answer(text, [_passage(_FACT)], ReaderParams()),
    "answer from it": lambda text: answer("Who found copper?", [_passage(text[:20_000])], ReaderParams()),
    "sentences": split,
    "pieces": lambda text: pieces.__wrapped__(text, text[:500]),
    "stems": lambda text: [stem(word.text) for word in words(text)],
    "tokens": num_tokens,
    "tier": complexity_of,
    "chunks of Markdown": lambda text: _chunks(text, Style.MARKDOWN),
    "chunks of prose": lambda text: _chunks(text, Style.PROSE),
    "chunks of lines": lambda text: _chunks(text, Style.LINES),
    "headings": lambda text: _chunks("\n".join(text[at : at + 290] for at in range(0, len(text), 290))),
    "parsing": lambda text: parse_file(f"x{text.replace(chr(0), '')}".encode(), "a.md"),
}


def _chunks(text: str, style: Style = Style.MARKDOWN) -> object:
    return chunk_text(text, max_chars=900, overlap_chars=150, style=style)


@pytest.mark.parametrize("function", _FUNCTIONS.values(), ids=_FUNCTIONS)
@pytest.mark.parametrize("start", ["what is ", "# "])
def test_what_reads_text_takes_linear_time(function: Callable[[str], object], start: str) -> None:
    for unit in _UNITS:
        half, whole = (start + unit * (length // len(unit)) + "x" for length in (NUM_CHARS // 2, NUM_CHARS))
        _check(function, half, whole)


def _check(work: Callable[[str], object], half: str, whole: str) -> None:
    spent_s = _spent(work, whole)
    assert spent_s < BUDGET_S, repr(whole[:40])
    if spent_s < TOO_QUICK_TO_JUDGE_S:
        return
    # Best of several, and more than once before it counts: what else the processor did is not the pattern's fault.
    for _ in range(4):
        growth = min(_spent(work, whole) for _ in range(4)) / min(_spent(work, half) for _ in range(4))
        if growth < MAX_GROWTH:
            return
    pytest.fail(f"twice the text took {growth:.1f} times as long: {whole[:40]!r}")


def _spent(work: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    work(text)
    return time.process_time() - began
