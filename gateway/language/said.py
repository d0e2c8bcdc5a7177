"""What a follow-up can refer to: the last questions of a conversation and what was answered. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gateway.language.mentions import Mention, core, mentions, names, subject, topic
from gateway.language.terms import is_content, words
from gateway.types import Turn

MAX_QUESTION_CHARS = 240  # a longer message says itself what it is about
MAX_ANSWER_CHARS = 400  # of an answer, from its start
MAX_SAID = 4  # questions back
MAX_TURNS = 40  # messages back
MAX_CONTEXT_CHARS = 160  # of an earlier question that are added to a later one

_MARK = re.compile(r"\s?\[\d{1,3}\]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?!\[\d)|(?<=\d\])\s+(?=[^\s\[.,;:])")  # also where its marks end
_SMALL_TALK = re.compile(
    r"^\W*(?:hi|hello|hey|hallo|thanks?|thank you|danke|yes|no|ok|okay|sure|great|good|nice|bye|please|ja|nein)\b"
    r"(?:\W+(?:a lot|so much|there|very much|you|good))?\W*$",
    re.IGNORECASE,
)
_ASKS_WHO = re.compile(
    r"^\W*(?:by |for |to |with )?(?:who|whom|whose)\b|\bwhich (?:person|man|woman)\b", re.IGNORECASE
)
_ASKS_ABOUT = re.compile(r"^\W*who(?:'s| is| was| are| were)\s", re.IGNORECASE)
_LAST_QUESTION = re.compile(r"[^.!?\n]{3,}\?\s*$")


class Said(NamedTuple):
    """A question and its answer. asked: as written; question: as it stands alone, empty while that is not known.

    answer: its start, without marks; statement: its first sentence that has one.
    """

    asked: str
    question: str = ""
    answer: str = ""
    statement: str = ""

    def resolved(self, question: str) -> Said:
        return self._replace(question=question)

    @property
    def things(self) -> list[Mention]:
        """What the question names; what it is about as a whole stands alone, if that is plain."""
        whole = topic(self.question)
        if whole is not None:
            return [whole]
        found = [each for each in mentions(self.question) if not _is_asked_for(self.question, each)]
        if not found:
            other = subject(self.question)
            found = [other] if other is not None else []
        return found

    @property
    def people(self) -> list[Mention]:
        """Who may be meant by he or she, the likeliest first."""
        asked = [each for each in names(self.question) if _may_be_person(each)]
        known = {word.text for word in words(self.question)}
        told = [
            each
            for each in names(self.statement or self.answer)
            if _may_be_person(each) and not all(word.text in known for word in words(each.text))
        ]
        if _ASKS_WHO.search(self.question) and not (_ASKS_ABOUT.match(self.question) and asked):
            return told or asked
        return asked or [each for each in told if " " in each.text]

    @property
    def context(self) -> str:
        """The words of the question that a later one can be searched with."""
        whole = topic(self.question)
        text = whole.text if whole is not None and " of " not in self.question else core(self.question)
        return text[:MAX_CONTEXT_CHARS].strip()


def _may_be_person(name: Mention) -> bool:
    return name.text[0].isupper() and not name.text.isupper() and not name.text.startswith("The ")


def last_said(history: Sequence[Turn]) -> list[Said]:
    """The last questions that say something, oldest first."""
    found: list[Said] = []
    answer = ""
    for turn in reversed(history[-MAX_TURNS:]):
        if turn.role == "assistant":
            answer = answer or turn.text
        elif turn.role == "user":
            if not is_small_talk(turn.text):
                found.append(_said(turn, answer))
                if len(found) == MAX_SAID:
                    break
            answer = ""
    return found[::-1]


def is_small_talk(text: str) -> bool:
    return len(text) <= 40 and _SMALL_TALK.match(text) is not None


def has_content(text: str) -> bool:
    return any(is_content(word.text) for word in words(text))


def _said(turn: Turn, answer: str) -> Said:
    shown = answer[:MAX_ANSWER_CHARS]
    cited = [part for part in _SENTENCE_END.split(shown) if _MARK.search(part)]
    return Said(
        asked=_question_in(turn.text),
        question=turn.question[:MAX_QUESTION_CHARS],
        answer=_MARK.sub("", shown).strip(),
        statement=_MARK.sub("", cited[0]).strip() if cited else "",
    )


def _question_in(text: str) -> str:
    """The message, or of a long one the question at its end, else its start."""
    text = text.strip()
    if len(text) <= MAX_QUESTION_CHARS:
        return text
    found = _LAST_QUESTION.search(text[-MAX_QUESTION_CHARS:])
    return found[0].strip() if found else text[:MAX_QUESTION_CHARS]


def _is_asked_for(question: str, mention: Mention) -> bool:
    """`which the tiers`: no thing to refer to, for it is what the question wants to know."""
    return question[: mention.at].strip().lower() in {"which", "what"}
