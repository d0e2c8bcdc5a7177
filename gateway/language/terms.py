"""Words of a text and their stems: what lexical evidence is counted in. Pure, no tables beyond a stop list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

MAX_WORD_CHARS = 64  # of a word that are told apart; bounds what the cache of stems can hold

_WORD = re.compile(r"\d+(?:[.,:]\d+)+|[^\W_]+(?:['’][^\W_]+)*")
_TOKEN = re.compile(r"\S+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")  # scripts without spaces
_VOWEL = re.compile(r"[aeiouyäöüáéíóúàèâêîôû]")
_DOUBLED = re.compile(r"([bdfgmnprt])\1$")


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FUNCTION_WORDS = word_set(
    "a about above after again against all also am an and any are as at be became because been before being below "
    "between both but by came can could did do does doing done down during each either else ever few for from "
    "further had has have having he her here hers him his how i if in into is it its itself just let like many may "
    "me might more most much must my neither no nor not of off often on once one only onto or other our out over "
    "own per quite said same shall she should since so some such than that the their them then there these they "
    "this those through thus to too under until up upon us very via was we were what when where whether which "
    "while who whom whose why will with within without would yes yet you your"
)
# Say what is asked for, or hardly anything; in a document they are words like others.
_ASKING_WORDS = word_set(
    "please tell explain describe give name call called known say says according happen happened mean need needs "
    "needed use uses used using kind type types sort something anything someone thing things"
)
STOP_WORDS = _FUNCTION_WORDS | _ASKING_WORDS

# Forms that no ending explains.
_IRREGULAR = {
    form: base
    for base, forms in {
        "be": "been", "bear": "bore born birth births", "become": "became", "begin": "began begun", "bring": "brought",
        "build": "built", "buy": "bought", "catch": "caught", "child": "children", "choose": "chose chosen choice",
        "die": "died dying death deaths dead", "draw": "drew drawn", "drive": "drove driven", "eat": "ate eaten",
        "fall": "fell fallen", "fight": "fought", "find": "found", "fly": "flew flown flight flights",
        "foot": "feet", "get": "got gotten", "give": "gave given", "go": "went gone", "grow": "grew grown growth",
        "high": "height", "hold": "held", "keep": "kept", "know": "knew known", "lead": "led", "leave": "left",
        "long": "length", "lose": "lost loss losses", "make": "made", "man": "men", "marry": "marriage",
        "mouse": "mice", "pay": "paid", "rise": "rose risen", "run": "ran", "see": "saw seen",
        "sell": "sold sale sales", "send": "sent", "shoot": "shot", "sing": "sang sung", "speak": "spoke spoken speech",
        "spend": "spent",
        "stand": "stood", "steal": "stole stolen", "strong": "strength", "take": "took taken", "teach": "taught",
        "think": "thought", "throw": "threw thrown", "win": "won", "woman": "women", "write": "wrote written",
    }.items()
    for form in forms.split()
}  # fmt: skip


class Word(NamedTuple):
    """A word as written and the offset of its first character."""

    text: str
    at: int


def words(text: str) -> list[Word]:
    """Words in order. Numbers keep their inner points and commas; unspaced scripts give overlapping pairs."""
    found = []
    for match in _WORD.finditer(text):
        if _UNSPACED.search(match[0]):
            found += _pairs(match[0], match.start())
        else:
            found.append(Word(match[0], match.start()))
    return found


def _pairs(run: str, at: int) -> list[Word]:
    if len(run) == 1:
        return [Word(run, at)]
    return [Word(run[i : i + 2], at + i) for i in range(len(run) - 1)]


def stem(word: str) -> str:
    """A key that inflections of a word share: `created`, `creates` and `creation` give one stem.

    Light on purpose: it may leave related words apart, and must seldom join unrelated ones. A function word is a
    form of nothing but itself: `your own` says nothing of who owns.
    """
    return _stem(word[:MAX_WORD_CHARS])


def stems(text: str) -> list[str]:
    """Stems of all words in order, as `stem` of each of `words(text)`; made for texts in bulk."""
    if _UNSPACED.search(text):
        return [stem(word.text) for word in words(text)]
    return [_stem(word[:MAX_WORD_CHARS]) for word in _WORD.findall(text)]


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    lower = word.lower().replace("’", "'")
    if lower in _FUNCTION_WORDS:
        return f"={lower}"
    lower = lower.removesuffix("'s").replace("'", "")
    if lower[:1].isdigit():
        return lower.replace(",", "")
    lower = _IRREGULAR.get(lower, lower)
    if len(lower) <= 2 or not lower.isascii():
        return lower
    return _bare(_uninflected(lower))


def _uninflected(word: str) -> str:
    """Without the ending of a plural, a tense or an adverb, and without a last e or y."""
    if word.endswith(("ies", "ied")):
        word = word[:-2] if len(word) > 4 else word[:-1]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-2] if word.endswith(("sses", "ches", "shes", "xes", "zes")) else word[:-1]
    if word.endswith("ly") and len(word) > 5:
        word = word[:-2]
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= 2 and _VOWEL.search(rest) and not word.endswith("eed"):
            word = rest[:-1] if _DOUBLED.search(rest) else rest
            break
    return _endless(word)


def _endless(word: str) -> str:
    if word.endswith("e") and len(word) > 2:
        return word[:-1]
    return word[:-1] + "i" if word.endswith("y") and len(word) > 2 else word


# Longest first. After a short ending five letters must stay: `portion` is no form of `port`.
_DERIVED = tuple(
    (ending, letters)
    for endings, letters in (
        ("iveness ousness fulness", 5),
        ("ment ness", 4),
        ("ance anc enc ion iti ist ism ous ful ant ent iv al ic", 5),
        ("er or", 4),
    )
    for ending in endings.split()
)


def _bare(base: str) -> str:
    """Without the endings that make nouns and adjectives: `settlement` and `settler` meet at `settl`."""
    for ending, letters in _DERIVED:
        rest = base.removesuffix(ending)
        if rest != base and len(rest) >= letters:
            base = _endless(rest)
            break
    for ending in ("at", "it"):
        if base.endswith(ending) and len(base) >= 7:
            base = base[:-2]
    if base.endswith(("iz", "is")) and len(base) >= 6:
        base = base[:-2]
    return base[:-1] if _DOUBLED.search(base) and len(base) > 4 else base


def inner_stems(text: str, found: Sequence[Word]) -> frozenset[str]:
    """Stems of those words that stand nowhere but inside identifiers and paths (`a_b`, `a/b/c`).

    found: `words(text)`.
    """
    inner: set[str] = set()
    plain: set[str] = set()
    tokens = _TOKEN.finditer(text)
    end, is_inner = 0, False
    for word in found:
        while word.at >= end:
            token = next(tokens)
            end, bare = token.end(), token[0].strip("_*`'\"()[].,;:")
            is_inner = "_" in bare or bare.count("/") >= 2
        (inner if is_inner else plain).add(stem(word.text))
    return frozenset(inner - plain)


def is_content(word: str) -> bool:
    """Whether a word says what a text is about."""
    lower = word.lower().replace("’", "'")
    return lower.split("'")[0] not in STOP_WORDS
