"""Labelled questions for `tidegate eval`: the file's format, its checks, and which documents are left out. Pure but
for reading the file and the documents that it names.

Two formats are read: ours (docs/evaluation.md) and SQuAD's, in both of its versions.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.cli.terminal import CommandFailed, ExitCode

MAX_NAME_CHARS = 120  # of a file name made from an id
_NO_MARKS = str.maketrans("", "", "`*")


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document of the set. filename: its name in the scratch collection, unique in the set."""

    id: str
    filename: str
    content: bytes


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """documents: ids, each of which holds the answer. Without answers the documents hold none: it must be refused."""

    text: str
    documents: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def is_answerable(self) -> bool:
        return bool(self.answers)


class LabelledSet(msgspec.Struct, frozen=True, kw_only=True):
    """What a labelled file holds. sha256: of documents and questions, which tells results of different sets apart."""

    name: str
    sha256: str
    documents: list[Document]
    questions: list[Question]

    @property
    def has_unanswerable(self) -> bool:
        return not all(question.is_answerable for question in self.questions)


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    title: str = ""
    text: str | None = None
    path: str | None = None


class _Question(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    document: str | list[str] | None = None
    answers: list[str] = []


class _File(msgspec.Struct, frozen=True, kw_only=True):
    documents: list[_Document]
    questions: list[_Question]


class _Span(msgspec.Struct, frozen=True):
    text: str


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    answers: list[_Span] = []
    is_impossible: bool = False


class _Paragraph(msgspec.Struct, frozen=True, kw_only=True):
    context: str
    qas: list[_Asked] = []


class _Article(msgspec.Struct, frozen=True, kw_only=True):
    title: str = ""
    paragraphs: list[_Paragraph]


class _Squad(msgspec.Struct, frozen=True):
    data: list[_Article]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises: CommandFailed (usage) that says what is wrong and in which line."""
    try:
        raw = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise _wrong(path, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _wrong(path, "is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise _wrong(path, f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise _wrong(path, "is not a labelled file: it is nested too deeply") from None
    if not isinstance(raw, dict):
        raise _wrong(path, "must hold a JSON object")
    return raw


def parse(raw: dict[str, Any], path: Path) -> LabelledSet:
    """The set that a labelled file holds. path: where it lies; documents given by path count from its folder.

    Raises: CommandFailed (usage) that names the place of a mistake.
    """
    try:
        file = _from_squad(msgspec.convert(raw, _Squad)) if "data" in raw else msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise _wrong(path, str(error).replace(" - at `$", ", at `")) from None
    for name in ("documents", "questions"):
        if not getattr(file, name):
            raise _wrong(path, f"has no {name}")
    documents = list(_documents(file.documents, path))
    known = {document.id for document in documents}
    questions = [
        _checked(question, known, f"questions[{number}]", path)
        for number, question in enumerate(file.questions)
    ]
    return LabelledSet(
        name=path.stem, sha256=_digest(documents, questions), documents=documents, questions=questions
    )


def _documents(listed: Sequence[_Document], path: Path) -> Iterator[Document]:
    ids = Counter(document.id for document in listed)
    names = _Names()
    for number, document in enumerate(listed):
        place = f"documents[{number}]"
        if not document.id.strip():
            raise _wrong(path, f"{place}.id is empty")
        if ids[document.id] > 1:
            raise _wrong(path, f"{place}.id is not unique: {document.id!r}")
        if (document.text is None) == (document.path is None):
            raise _wrong(path, f"{place} ({document.id!r}) must have either text or path")
        if document.path is None:
            content, name = (document.text or "").encode("utf-8", "replace"), f"{document.id}.txt"
        else:
            content, name = _read(path, document.path, place), document.path
        if not content.strip():
            raise _wrong(path, f"{place} ({document.id!r}) is empty")
        yield Document(id=document.id, filename=names.unique(name), content=content)


def _read(path: Path, relative: str, place: str) -> bytes:
    try:
        return (path.parent / relative).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _wrong(path, f"{place}.path {relative!r} cannot be read: {reason}") from None


class _Names:
    """File names from ids and paths: no folders above, nothing that a header or a terminal trips over."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, wanted: str) -> str:
        name = re.sub(r"[^\w.\-/ ]", "_", wanted).strip(" /")
        name = re.sub(r"^(?:\.{1,2}/+)+", "", name)[-MAX_NAME_CHARS:] or "document.txt"
        if name in self._taken:
            name = f"{len(self._taken)}-{name}"
        self._taken.add(name)
        return name


def _checked(question: _Question, known: set[str], place: str, path: Path) -> Question:
    if not question.question.strip():
        raise _wrong(path, f"{place}.question is empty")
    named = [question.document] if isinstance(question.document, str) else question.document or []
    for document in named:
        if document not in known:
            raise _wrong(path, f"{place}.document {document!r} is not among the documents")
    for number, answer in enumerate(question.answers):
        if not bare(answer):
            raise _wrong(path, f"{place}.answers[{number}] is empty")
    if question.answers and not named:
        raise _wrong(path, f"{place} has answers but names no document")
    return Question(
        text=question.question.strip(), documents=tuple(named), answers=tuple(dict.fromkeys(question.answers))
    )


def bare(text: str) -> str:
    """A text as answers are compared: folded case, single spaces, no code or emphasis marks, no last full stop."""
    return " ".join(text.casefold().translate(_NO_MARKS).split()).rstrip(".").rstrip()


def _from_squad(squad: _Squad) -> _File:
    """A document for each paragraph."""
    documents, questions = [], []
    for number, article in enumerate(squad.data):
        for part, paragraph in enumerate(article.paragraphs):
            place = f"{article.title or 'article'}-{number}-{part}"
            documents.append(_Document(id=place, title=article.title, text=paragraph.context))
            questions += [_labelled(asked, place) for asked in paragraph.qas]
    return _File(documents=documents, questions=questions)


def _labelled(asked: _Asked, place: str) -> _Question:
    answers = [] if asked.is_impossible else [span.text for span in asked.answers]
    return _Question(question=asked.question, document=place, answers=answers)


def _digest(documents: Iterable[Document], questions: Iterable[Question]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.id.encode() + b"\0" + hashlib.sha256(document.content).digest())
    digest.update(msgspec.json.encode(list(questions)))
    return digest.hexdigest()


def sample(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """At most `limit` of the questions, drawn by the seed, in the file's order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    chosen = sorted(random.Random(seed).sample(range(len(questions)), limit))  # noqa: S311  no secret
    return [questions[number] for number in chosen]


def kept(documents: Sequence[Document], share: float, seed: int) -> list[Document]:
    """The documents that stay when this share of them is left out; at least one is left out, and one stays."""
    num = min(max(round(len(documents) * share), 1), len(documents) - 1)
    gone = set(random.Random(seed).sample(range(len(documents)), num))  # noqa: S311  no secret
    return [document for number, document in enumerate(documents) if number not in gone]


def _wrong(path: Path, what: str) -> CommandFailed:
    return CommandFailed(f"{path}: {what}.", ExitCode.USAGE)
