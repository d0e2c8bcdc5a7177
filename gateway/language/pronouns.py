"""Words that stand for what was said before, and what they stand for. Pure.

A word that the question itself explains (`what is Envoy and how does it work?`) is left alone, and so is one that
stands for nothing (`is it possible to …`, `are there …`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from gateway.language.mentions import Mention, mentions, starts_with_preposition, subject, topic
from gateway.language.said import Said
from gateway.language.terms import is_content, stem, word_set, words

MAX_PRONOUNS = 4  # of a question that are looked at
ENOUGH_WORDS = 5  # of its own, with which a question that names something is found in any case

_PRONOUN = re.compile(
    r"\b(?:it|its|they|them|their|theirs|he|him|his|she|her|hers|there|this|that|these|those|ones?)\b(?!['’-]\w{3})",
    re.IGNORECASE,
)
_PEOPLE = frozenset({"he", "him", "his", "she", "her", "hers"})
_POSSESSIVE = frozenset({"its", "their", "his", "her"})
# With `this` or `that` before it, whatever was spoken of.
_ANY_THING = word_set(
    "idea case thing way method approach process concept problem part point result reason rule step"
)
_POINTING = frozenset({"this", "that", "these", "those"})
# `it` that stands for what follows, or for nothing.
_EMPTY_IT = re.compile(
    r"\bit (?:possible|safe|ok|okay|allowed|necessary|true|better|worth|required|legal|hard|easy|recommended|wise|"
    r"called|meant?|takes?|costs?|matters?|makes? sense|rain\w*|snow\w*|help\w*)\b"
    r".*\b(?:to|that|if|whether|for|when)\b.*\w{3}"
    r"|\bwhat time is it\b",
    re.IGNORECASE,
)
_THERE_IS = re.compile(
    r"\b(?:is|are|was|were|be|been)(?:n't|n’t)? there\b"
    r"|\bthere(?:'s|’s| is| are| was| were| be| been| will| has| have| exists?| any| no| a)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[,;:]|\b(?:and|or|but|when|while|if|after|before|because|since|so|that|which|who|where|whether|until|once|than|as|"
    r"why|how|what)\b",
    re.IGNORECASE,
)
_ASKED_FIRST = re.compile(
    r"^\W*(?:what|who)(?:'s|’s| is| are| was| were) [\w -]{2,60}?,? (?:and|or|but)\b", re.IGNORECASE
)
# `which university has its origins`: the asked one itself owns it.
_ASKED_OWNER = re.compile(
    r"^\W*(?:which|what) (?!is\b|are\b|was\b|were\b|do\b|does\b|did\b|happen)\w+ .*\b(?:has|had|have|\w+ed|\w+s) $",
    re.IGNORECASE,
)
_OWN_VERB = re.compile(
    r"^ *(?:is|was|are|were|has|had|have|can|could|will|would|should|may|might|must|did|does)\b",
    re.IGNORECASE,
)
_AFTER_AUXILIARY = re.compile(
    r"\b(?:is|was|are|were|has|had|have|can|could|will|would|should|may|might|must|do|did|does) *$",
    re.IGNORECASE,
)
_AS_ONES = re.compile(
    r"^ *(?:of|at|in|from|with|who|which|that|on|for|whose|kinds?|types?|sorts?)\b", re.IGNORECASE
)
_BEING = re.compile(r"\b(?:is|was|are|were) *$", re.IGNORECASE)
_BEFORE_POINTING = re.compile(
    r"(?:^|\b(?:is|was|are|were|does|did|do|can|will|would|should|could|has|how|why|when|where|what|and|about|explain|"
    r"like|after|before|than|with|for|of|doing|by|to|from|in|on|at|into|because|if|mean)\b) *$",
    re.IGNORECASE,
)
_NUMBERED_ONE = re.compile(
    r"\b(?:which|this|that|the|another|other|first|second|third|fourth|last|next|new|old|same|different|better|best|"
    r"\w{2,12}(?:er|est)) ones?\b(?! (?:of|another|day|time))|\b(?:the )?(?:former|latter|others?)[\s?.!]*$",
    re.IGNORECASE,
)
_LAST_ONE = re.compile(r"(?<!\d )\bones?[\s?.!]*$", re.IGNORECASE)
_MOVING = re.compile(r"\b(?:get|go|come|travel|move|bring|send|drive|fly)\s+$", re.IGNORECASE)
_GERMAN = re.compile(
    r"^\W*(?:wer|was|wann|wo|wie|warum|wieso|weshalb|wozu|woher|wohin|welche\w*|wem|wen|wessen)\b",
    re.IGNORECASE,
)
_GERMAN_PRONOUN = re.compile(
    r"(?<!^)\b(?:er|ihn|ihm|sie|es|ihr|ihre[rnms]?|sein|seine[rnms]?|dort|da|damit|dafür|davon|darin|dazu|dies|diese[rnms]?|"
    r"jene[rnms]?|dessen|deren)\b|\b(?:das|die|der|den|dem)(?= *(?:[?.!]|$|[a-zäöü]+[\s?.!]*$))"
)
_GERMAN_EMPTY = re.compile(r"\b(?:gibt es|es gibt|geht es|handelt es sich)\b", re.IGNORECASE)

Found = tuple[str, str]  # the question as it stands alone, and why


def resolve(question: str, before: Sequence[Said]) -> Found | None:
    """None where no word of the question refers to what was said."""
    if _GERMAN.match(question):
        return _resolve_german(question, before[-1])
    told: list[str] = []
    text, at, is_open = "", 0, False
    own = mentions(question)
    for match in islice(_PRONOUN.finditer(question), MAX_PRONOUNS):
        word = match[0].lower()
        if match[0].isupper() and len(word) > 1 and not question.isupper():  # an abbreviation
            continue
        if not _refers(question, match, word, own, before[-1]):
            continue
        thing = _meant_by(question, match, word, before)
        if thing is None or (word in _POINTING and f"is {thing.text}" in " ".join(told)):
            is_open = True  # `how does it do that?`: not the same thing twice
            continue
        text += question[at : match.start()] + _as_said(thing, question, match, word)
        at = match.end()
        told.append(f"“{match[0]}” is {thing.text}")
    text += question[at:]
    if is_open:
        text = with_context(text, context_of(before))
        told.append("with the words of the question before")
    return (text, "follow-up: " + "; ".join(told)) if told and text != question else None


def context_of(before: Sequence[Said]) -> str:
    return next((said.context for said in reversed(before) if said.context), "")


def with_context(question: str, context: str) -> str:
    """The question with the words that it lacks in brackets behind it."""
    known = {stem(word.text) for word in words(question)}
    lacking = [word for word in words(context) if is_content(word.text) and stem(word.text) not in known]
    if not lacking:
        return question
    body = question.rstrip(" \t\n?.!")
    return f"{body} ({context}){question[len(body) :].strip() or '?'}"


def _refers(question: str, match: re.Match[str], word: str, own: Sequence[Mention], last: Said) -> bool:
    """Whether this word stands for something outside of the question. own: what the question itself names."""
    if word in {"one", "ones"}:
        return _is_one(question, match, own)
    if word == "there" and any(
        found.start() <= match.start() < found.end() for found in _THERE_IS.finditer(question)
    ):
        return False
    if word == "it" and any(
        found.start() <= match.start() < found.end() for found in _EMPTY_IT.finditer(question)
    ):
        return False
    if word in _POINTING:
        return _points_back(question, match, last)
    return not _is_explained(question, match, word, own)


def _is_one(question: str, match: re.Match[str], own: Sequence[Mention]) -> bool:
    """`which one`, `another one`, or one at the end: of what was said, unless the question names it itself."""
    is_numbered = any(
        found.start() <= match.start() < found.end() for found in _NUMBERED_ONE.finditer(question)
    )
    if not is_numbered and _LAST_ONE.match(question, match.start()) is None:
        return False
    return not any(each.end <= match.start() and not each.is_name for each in own)


def _points_back(question: str, match: re.Match[str], last: Said) -> bool:
    """`this`, `that`: alone, or with a thing that was spoken of. `that` behind a thing begins a clause."""
    rest = question[match.end() :]
    following = words(rest)
    if not following or rest.lstrip()[:1] in {",", "?", ".", "!", ""}:
        return True
    if not _BEFORE_POINTING.search(question[: match.start()]) or _AS_ONES.match(rest):
        return False
    if len(following) == 1 and _BEING.search(question[: match.start()]):
        return True
    if not is_content(following[0].text):
        return match[0].lower() != "that" or question[: match.start()].strip() != ""
    if following[0].text.lower() in _ANY_THING:
        return True
    spoken = {stem(word.text) for word in words(f"{last.question} {last.answer}")}
    return stem(following[0].text) in spoken


def _is_explained(question: str, match: re.Match[str], word: str, own: Sequence[Mention]) -> bool:
    """Whether the question names, before this word, what the word may stand for."""
    before = question[: match.start()]
    is_owner = _is_possessive(question, match, word)
    if _ASKED_FIRST.match(before) or (is_owner and _ASKED_OWNER.match(before)):
        return True
    named = [*own, *filter(None, [subject(question)])]
    ends = [each.end for each in named if each.end <= match.start()]
    if word in {"they", "them", "their"}:
        ends += [each.at + len(each.text) for each in words(before) if _is_plural_noun(each.text)]
    if not ends:
        return False
    if is_owner or _CLAUSE.search(question, min(ends), match.start()):
        return True
    if _OWN_VERB.match(question[match.end() :]) and not _AFTER_AUXILIARY.search(before):
        return True  # `did the company say it would …`
    return len([each for each in words(question) if is_content(each.text)]) >= ENOUGH_WORDS


def _is_plural_noun(word: str) -> bool:
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) and is_content(word)


def _is_possessive(question: str, match: re.Match[str], word: str) -> bool:
    if word != "her":
        is_misspelt = word == "it" and question[match.end() :][:2] in {"'s", "’s"} and match.start() > 0
        return word in _POSSESSIVE or is_misspelt
    following = question[match.end() :].lstrip()
    return bool(following) and following[0].isalpha() and not starts_with_preposition(following)


def _meant_by(question: str, match: re.Match[str], word: str, before: Sequence[Said]) -> Mention | None:
    """What the word stands for; None where that is not plain."""
    last = before[-1]
    if word in _PEOPLE:
        return next((people[0] for said in reversed(before) if (people := said.people)), None)
    if word == "there":
        return _place(last)
    whole = topic(last.question)
    if word in {"one", "ones"}:
        is_any = whole is not None and whole.text.lower().startswith(("a ", "an "))
        return whole if is_any and not _NUMBERED_ONE.search(question) else None
    if word in _POINTING:
        following = words(question[match.end() :])
        is_alone = len(following) < 2 or not is_content(following[0].text)
        return whole if is_alone else None
    things = last.things
    if word in {"it", "its"}:
        things = [each for each in things if not each.is_plural]
    else:
        things = [each for each in things if each.is_plural] or things
    return things[0] if len(things) == 1 else None


def _place(last: Said) -> Mention | None:
    """The last thing that stands behind a word of place, else the only one."""
    things = last.things
    for each in reversed(things):
        ahead = last.question[: each.at].rstrip().lower().rpartition(" ")[2]
        if ahead in {"in", "at", "near", "from", "to", "of"}:
            return each
    named = [each for each in things if each.is_name]
    return named[-1] if named else things[0] if len(things) == 1 else None


def _as_said(thing: Mention, question: str, match: re.Match[str], word: str) -> str:
    """The thing in the form that the word had."""
    text = "the " + thing.text[4:] if thing.text.startswith("The ") else thing.text
    if word == "there":
        return f"to {text}" if _MOVING.search(question[: match.start()]) else f"in {text}"
    if _is_possessive(question, match, word):
        return f"{text}'" if text.endswith("s") else f"{text}'s"
    return text


def _resolve_german(question: str, last: Said) -> Found | None:
    """With the nouns of the question before in brackets: in a German sentence they would change their form."""
    if _GERMAN_EMPTY.search(question):
        return None
    match = _GERMAN_PRONOUN.search(question)
    if match is None or any(word.text[:1].isupper() for word in words(question[1 : match.start()])):
        return None
    context = " ".join(each.bare for each in mentions(last.question) if each.is_name) or last.context
    text = with_context(question, context)
    return (text, f"follow-up: “{match[0]}” is told by the question before") if text != question else None
