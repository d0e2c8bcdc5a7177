"""Whom a sentence means that opens with a pronoun: `He moved to Prague.` under a heading or behind a sentence that
names him. Pure.

Only what the passage itself names is given, and nothing where it names nobody that fits: a wrong name is worse than a
pronoun.
"""

from __future__ import annotations

import re

from gateway.language.mentions import Mention, mentions
from gateway.language.pieces import Piece
from gateway.language.question import Question
from gateway.language.terms import stem, words

MAX_REFERENT_CHARS = 60
_OPENING = re.compile(
    r"\W*+(?:(?:today|later|however|also|but|and|then|there|in \d{4}|afterwards)[\s,]+)?"
    r"(?:(?P<person>he|she|his|her)|(?P<thing>it|its|they|their))\b"
    r"(?! (?:is|was|has been) \w+ (?:that|to|how|whether|if)\b)(?! (?:seems|appears|follows)\b)",
    re.IGNORECASE,
)
# What goes on after a subject, not after a name in front of a noun: `Tesla moved`, but `Tesla coils`.
_PREDICATE = re.compile(
    r"\s*(?:,|\(|\s(?:is|are|was|were|has|had|have|will|can|also|first|then|now|never|became|began|wrote|made|led|won|took"
    r"|ran|held|saw|went|gave|left|met|built|got|came|\w{3,}ed)\b)"
)
_MARKS = re.compile(r"[\[\]()\x00-\x1f`*_<>#|]")


def referent(question: Question, piece: Piece) -> str:
    """The name for the pronoun that a sentence opens with; empty where it opens with none, or none fits.

    What the question names comes first, then the subject of the sentence before, then the heading.
    """
    opening = _OPENING.match(piece.text)
    if opening is None:
        return ""
    is_person = opening["person"] is not None
    named = [each for each in mentions(piece.before) if not any(char.isdigit() for char in each.text)]
    asked = [each for each in named if each.is_name and _is_asked(each, question)]
    subject = [each for each in named if _is_subject(each, piece.before, is_person=is_person)]
    return _clean(
        next((each.bare for each in [*asked, *subject]), "" if is_person else _last_part(piece.heading))
    )


def _is_asked(mention: Mention, question: Question) -> bool:
    return any(stem(word.text) in question.entities for word in words(mention.text))


def _is_subject(mention: Mention, sentence: str, *, is_person: bool) -> bool:
    """Whether the sentence opens with it. A person is called by name; a thing may be described."""
    opens = not any(char.isalnum() for char in sentence[: mention.at].removeprefix("The "))
    return (
        opens and (mention.is_name or not is_person) and _PREDICATE.match(sentence, mention.end) is not None
    )


def _last_part(heading: str) -> str:
    return heading.rpartition(" > ")[2]


def _clean(name: str) -> str:
    line = " ".join(_MARKS.sub(" ", name).split())
    return line if len(line) <= MAX_REFERENT_CHARS else ""
