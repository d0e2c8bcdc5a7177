"""Whether two questions ask the same, however near their vectors are: guards, each of which may object.

Two questions pass only if they say the same with other small words, another order of phrases, or words that mean the
same by a short list. So `turn on` and `turn off`, 2014 and 2015, `who beat X` and `who did X beat` never share an
answer. English; in other languages only the same words in the same order pass. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from gateway.caching import wording
from gateway.language.question import Wanted, read
from gateway.language.terms import STOP_WORDS, Word, stem, word_set, words

GUARDS = (
    "language", "negation", "number", "degree", "question", "tense", "small_words", "person", "symbol", "name",
    "content", "direction",
)  # fmt: skip

_WH = re.compile(r"\b(who|whom|whose|what|which|when|where|why|how)\b", re.IGNORECASE)
_DO = word_set("do does did")
_BE = word_set("is are was were been being be am")
_WH_WORDS = word_set("who whom whose what which when where why how")
_TOWARDS = word_set("to from into onto than by against towards")
_DETERMINERS = word_set("a an the my our your his her its their")
_PARTICIPLE = re.compile(
    r"(?:\w{2,}(?:ed|en)|won|made|built|held|led|found|written|known|seen|begun|sold|bought|shot|"
    r"beaten|beat|fought|taught|caught|brought|thrown|drawn|sung|paid|lost|hit|cut|put|set)\Z"
)
_MODALS = {"may": "can", "might": "can"}
# Nouns that only say which question word could stand in their place, and that word.
_ABSORBED = {
    Wanted.DATE: ("when", frozenset(map(wording.plain, ("year", "date")))),
    Wanted.PLACE: ("where", frozenset(map(wording.plain, ("place", "location")))),
    Wanted.REASON: ("why", frozenset(map(wording.plain, ("reason", "cause")))),
    Wanted.PERSON: ("who", frozenset(map(wording.plain, ("person",)))),
    Wanted.NUMBER: ("how", frozenset(map(wording.plain, ("number", "amount", "quantity")))),
}
_FRONTED = re.compile(
    r"^(?P<place>(?:in|at|on|during|since|for|before|after|by|of|from|under|with) (?!what\b|which\b|whom\b|how\b)"
    r"[^,?]{1,60}?)(?:, ?| (?=(?:who|what|which|how|where|why|when)\b))(?P<rest>\S.*)$",
    re.IGNORECASE,
)


class Reading(NamedTuple):
    """A question as the guards see it."""

    is_english: bool
    sequence: tuple[str, ...]  # of stems, for other languages
    negation: int
    numbers: Counter[str]
    degrees: frozenset[tuple[str, int]]
    asked: tuple[str, Wanted]  # the question word, and what it asks for
    absorbed: frozenset[str]  # nouns beside it that another question word could stand for
    tenses: frozenset[str]
    small_words: frozenset[str]
    persons: frozenset[str]
    symbols: frozenset[str]
    names: frozenset[str]
    content: Counter[str]
    heads: tuple[str, ...]  # what takes part in the relation, in order
    ends: frozenset[tuple[str, str]]  # of relations: a preposition and what stands behind it
    role: str  # of what is asked for: agent, patient, or empty


def objection(one: str, other: str) -> str | None:
    """The first guard by which the two questions may have different answers; None = they ask the same."""
    first, second = reading(one), reading(other)
    if not (first.is_english and second.is_english):
        return None if first.sequence == second.sequence else "language"
    checks = (
        ("negation", first.negation == second.negation),
        ("number", first.numbers == second.numbers),
        ("degree", first.degrees == second.degrees),
        ("question", _asks_alike(first, second)),
        ("tense", _tenses_meet(first.tenses, second.tenses)),
        ("small_words", first.small_words == second.small_words),
        ("person", first.persons == second.persons),
        ("symbol", first.symbols == second.symbols),
        ("name", first.names <= second.content.keys() and second.names <= first.content.keys()),
        ("content", first.content == second.content),
        ("direction", _same_direction(first, second)),
    )
    return next((name for name, agrees in checks if not agrees), None)


@lru_cache(maxsize=4096)
def reading(question: str) -> Reading:
    text = wording.TAIL.sub("", wording.FRAME.sub("", " ".join(question.split()), count=1))
    for pattern, plain in wording.CONTRACTIONS:
        text = pattern.sub(plain, text)
    text = _FRONTED.sub(r"\g<rest> \g<place>", text.lstrip(" :,"))
    found = words(text)
    lower = [word.text.lower().replace("’", "'") for word in found]
    seen = read(text)
    asked = _asked(text, seen.wanted)
    _, absorbable = _ABSORBED.get(asked[1], ("", frozenset()))
    content, numbers = Counter[str](), Counter[str]()
    names, absorbed = set[str](), set[str]()
    for word, low in zip(found, lower, strict=True):
        key = _meaning(word, low)
        number = wording.NUMBERS.get(low)
        if low[:1].isdigit() or (number is not None and not (low == "second" and "seconds" in lower)):
            numbers[number or low.replace(",", "")] += 1
        elif key in absorbable:
            absorbed.add(key)
        elif key and low not in wording.NEGATIONS:
            content[key] += 1
            if _is_name(word, text):
                names.add(key)
    return Reading(
        is_english=any(low in STOP_WORDS for low in lower),
        sequence=tuple(map(stem, lower)),
        negation=sum(low in wording.NEGATIONS for low in lower),
        numbers=numbers,
        degrees=frozenset(filter(None, map(_degree, lower))),
        asked=asked,
        absorbed=frozenset(absorbed),
        tenses=frozenset(wording.TENSES[low] for low in lower if low in wording.TENSES),
        small_words=frozenset(_MODALS.get(low, low) for low in _small_words(lower)),
        persons=frozenset(wording.POSSESSIVES[low] for low in lower if low in wording.POSSESSIVES),
        symbols=_symbols(text),
        names=frozenset(names),
        content=content,
        heads=_heads(found, lower, names),
        ends=frozenset(_ends(found, lower)),
        role=_role(lower),
    )


def _meaning(word: Word, low: str) -> str:
    """A key that words of one meaning share; empty for a word that only joins others."""
    if word.text.isupper() and len(word.text) > 1:  # US, IT, WHO are names
        return low
    key = wording.plain(word.text)
    return "" if key.startswith("=") else wording.SYNONYMS.get(key, key)


def _is_name(word: Word, text: str) -> bool:
    before = text[: word.at].rstrip("\"'“‘(« ")
    return word.text[0].isupper() and bool(before) and before[-1] not in ".!?:"


def _small_words(lower: list[str]) -> list[str]:
    """`more than` and `first` matter, the `up` of `what's up with` does too: none is left out."""
    return [low for low in lower if low in wording.TELLING and low not in wording.NEGATIONS]


def _degree(low: str) -> tuple[str, int] | None:
    if low in wording.IRREGULAR_DEGREES:
        return wording.IRREGULAR_DEGREES[low]
    for ending, degree in (("est", 2), ("er", 1)):
        rest = low.removesuffix(ending)
        if rest != low:
            bare = rest[:-1] if len(rest) > 3 and rest[-1] == rest[-2] else rest
            for base in (rest, bare, f"{rest}e", f"{rest[:-1]}y"):
                if base in wording.GRADED:
                    return _same(base), degree
    return (_same(low), 0) if low in wording.GRADED else None


def _same(word: str) -> str:
    return wording.SYNONYMS.get(wording.plain(word), wording.plain(word))


def _asked(text: str, wanted: Wanted) -> tuple[str, Wanted]:
    first = _WH.search(text)
    word = first[1].lower() if first else "whether"
    return {"whom": "who", "which": "what"}.get(word, word), wanted


def _asks_alike(first: Reading, second: Reading) -> bool:
    """The same question word, or `in what year` for `when`: one of them with the noun, the other without."""
    if first.asked[0] == second.asked[0]:
        return first.absorbed == second.absorbed
    if first.asked[1] is not second.asked[1]:
        return False
    word, _ = _ABSORBED.get(first.asked[1], ("", frozenset()))
    plain, wordy = (first, second) if first.asked[0] == word else (second, first)
    return plain.asked[0] == word and wordy.asked[0] == "what" and bool(wordy.absorbed) and not plain.absorbed


def _tenses_meet(one: frozenset[str], other: frozenset[str]) -> bool:
    """A question without a verb of help shows no tense of its own."""
    return one == other or not one or not other


def _symbols(text: str) -> frozenset[str]:
    """What words leave out: C++, $5, 20 %, --flag, a/b."""
    raw = (token.strip("\"'“”‘’()[],;:?!").removesuffix(".") for token in text.lower().split())
    return frozenset(
        token for token in raw if (re.search(r"[^\w\s'’.,–—-]|^-|\w\.\w", token) and not token[0].isdigit())
        or re.search(r"[%$€£¥°]", token)
    )  # fmt: skip


def _heads(found: list[Word], lower: list[str], names: set[str]) -> tuple[str, ...]:
    """Names, numbers, and nouns behind a determiner, in their order."""
    heads: list[str] = []
    is_determined = False
    for word, low in zip(found, lower, strict=True):
        key = _meaning(word, low)
        if low in _DETERMINERS:
            is_determined = True
        elif not key:
            is_determined = False
        elif is_determined or key in names or low[0].isdigit():
            heads.append(key)
            is_determined = False
    return tuple(heads)


def _ends(found: list[Word], lower: list[str]) -> Iterator[tuple[str, str]]:
    """Each preposition of a relation, with the word behind it that says something; determiners may stand between."""
    toward = ""
    for word, low in zip(found, lower, strict=True):
        if low in _TOWARDS:
            toward = low
        elif toward and low not in _DETERMINERS:
            if key := _meaning(word, low):
                yield toward, key
            toward = ""


def _role(lower: list[str]) -> str:
    """Of who or what is asked for: does it act, or is it acted upon? Empty where the form does not tell."""
    at = next((at for at, low in enumerate(lower) if low in {"who", "whom", "what", "which"}), None)
    if at is None or next(low for low in lower if low in _WH_WORDS) != lower[at]:
        return ""
    rest = lower[at + 1 :]
    if any(low in _DO for low in rest[:6]):
        return "patient"
    be = next((place for place, low in enumerate(rest) if low in _BE), None)
    if be is not None and any(_PARTICIPLE.match(low) for low in rest[be + 1 :]):
        asks_by = (at > 0 and lower[at - 1] == "by") or (rest and rest[-1] == "by")
        return "agent" if asks_by else "patient"
    if be is not None or not rest:
        return ""
    return "agent"


def _same_direction(first: Reading, second: Reading) -> bool:
    if first.role and second.role and first.role != second.role:
        return False
    both = {toward for toward, _ in first.ends} & {toward for toward, _ in second.ends}
    if any(toward in both for toward, _ in first.ends ^ second.ends):
        return False
    shared = set(first.heads) & set(second.heads)
    return [head for head in first.heads if head in shared] == [
        head for head in second.heads if head in shared
    ]
