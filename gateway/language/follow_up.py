"""A follow-up made into a question that stands alone: `who designed it?` -> `who designed the Eiffel Tower?`. Pure.

No model: rules over what was said before. A question that stands alone is returned as it is, to the byte; where in
doubt a question stands alone, for a new topic must not drag the old one along. Where it is plain what a word refers to,
that takes its place; else the words of the question before are added in brackets, which search and reader can use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gateway.language import ellipsis, pronouns
from gateway.language.said import MAX_QUESTION_CHARS, Said, last_said
from gateway.types import Turn

_CONJUNCTION = re.compile(
    r"^(?:(?:and|but|or|so|then|also|ok|okay|well|now|und|aber|oder|dann)\b[\s,]*){1,2}(?=\w)", re.IGNORECASE
)


class Resolved(NamedTuple):
    """question: what to search for. reason: why it is not what was asked; empty where it is."""

    question: str
    reason: str = ""

    @property
    def is_follow_up(self) -> bool:
        return bool(self.reason)


def resolve(question: str, history: Sequence[Turn]) -> Resolved:
    """The question as it stands alone. history: what was said before it, oldest first.

    Looks at the last few turns only, and at no more than a bounded part of each. Never raises.
    """
    if len(question) > MAX_QUESTION_CHARS:
        return Resolved(question)
    before: list[Said] = []
    for said in last_said(history):
        asked = said.question or _resolve(said.asked, before).question
        before.append(said.resolved(asked))
    return _resolve(question, before)


def _resolve(question: str, before: Sequence[Said]) -> Resolved:
    if not before or len(question) > MAX_QUESTION_CHARS:
        return Resolved(question)
    plain = question.strip()
    bare = _CONJUNCTION.sub("", plain)
    is_continued = bare != plain
    found = (
        ellipsis.fragment(bare, before[-1], is_continued=is_continued)
        or pronouns.resolve(bare, before)
        or ellipsis.incomplete(bare, before[-1], is_continued=is_continued)
    )
    return Resolved(*found) if found else Resolved(question)
