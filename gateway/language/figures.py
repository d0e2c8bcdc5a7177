"""The numbers of a text in one form, however they are written: 1,000 and 1 000 are 1000, 19,90 is 19.9. Pure.

A writing that can be read in two ways (1.500, 10:30) counts as both. Two sides: what a written sentence claims, told
strictly, so that nothing counts as a claim that is none; and what a passage holds, told generously.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain

_SPACES = " \u00a0\u2009\u202f"  # also between the thousands of a number
_NUMBER = re.compile(rf"(?<!\d)\d+(?:[.,:'’]\d+|[{_SPACES}]\d{{3}}(?!\d))*")
_DATE = re.compile(r"\d{1,2}\.\d{1,2}\.\d{2,4}")
_SCALE = re.compile(
    r"[\s-]{0,2}(?:(?P<hundred>hundred|hundert)|(?P<thousand>thousand|tausend|tsd|k)"
    r"|(?P<million>million(?:s|en)?|mio|mn|m)|(?P<billion>billions?|milliarden?|mrd|bn))\b",
    re.IGNORECASE,
)
_ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9}

_ONES = "one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_GERMAN = "ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf"
_SPELLED = {
    **{word: number for number, word in enumerate(f"zero {_ONES} {_TEENS}".split())},
    **{word: 10 * number for number, word in enumerate(_TENS.split(), 2)},
    **{word: number for number, word in enumerate(_GERMAN.split(), 1)},
    **{"eine": 1, "einen": 1, "einem": 1, "einer": 1, "eines": 1, "null": 0, "dozen": 12, "hundred": 100},
}
_WORD = re.compile(
    rf"\b(?:({_TENS.replace(' ', '|')})[\s-]({_ONES.replace(' ', '|')})|({'|'.join(_SPELLED)}))\b",
    re.IGNORECASE,
)

# Of a claim. A number at the start of a line or a sentence may number it.
_LIST_MARKER = re.compile(r"\W*\d{1,3}[.):](?=\W)")
_IN_NAME = re.compile(r"(?:[A-Za-z_]|[^\W\d_]-|\[)\Z")  # H100, utf-8, rows[12]
_NO_NUMBER = re.compile(r"(?:st|nd|rd|th|s|er|ern)\b", re.IGNORECASE)  # 3rd, 1840s
# What is only about right need not stand there, nor what numbers a passage.
_LOOSE = re.compile(
    r"(?:\b(?:about|around|roughly|approximately|approx\.?|circa|ca?\.|nearly|almost|some|over|above|under|below|up to"
    r"|(?:more|less|fewer|mehr|weniger) (?:than|als)|at (?:least|most)|etwa|rund|ungefähr|fast|knapp|über|unter"
    r"|(?:passages?|sources?|documents?|steps?|quellen?|schritte?)(?: \d{1,3},?(?: and| or| und)?)?)|[~≈<>])"
    r"\s?[$€£¥]?\s?\Z",
    re.IGNORECASE,
)
_LOOSE_CHARS = 32  # before a number, that _LOOSE looks at
# One digit alone is often a count of what the passage lists; as an amount it is the passage's own.
_MONEY = re.compile(r"[$€£¥]\s?\Z")
_UNIT = re.compile(
    r"\s?(?:[%€$£¥°]|(?:per ?cent|prozent|euros?|eur|dollars?|usd|pounds?|gbp|cents?"
    r"|ms|s|min|h|(?:milli)?seconds?|minutes?|hours?|days?|weeks?|months?|years?"
    r"|(?:milli)?sekunden?|minuten?|stunden?|tagen?|tage?|wochen?|monaten?|monate?|jahren?|jahre?"
    r"|[kmc]?m|[km]?g|tons?|tonnen?|l|lit(?:er|re)s?|[kmgt]i?b|[km]?w|[km]?hz|v|hundred|thousand|[mb]illions?)\b)",
    re.IGNORECASE,
)


def numbers_claimed(text: str) -> frozenset[str]:
    """Of one sentence. Those are left out that number it, belong to a name, are said to be about right, or are a
    single digit that measures nothing."""
    marker = _LIST_MARKER.match(text)
    found: set[str] = set()
    for number in _NUMBER.finditer(text, marker.end() if marker else 0):
        if _is_claim(text, number):
            found |= _readings(number[0], _scale_at(text, number.end()))
    return frozenset(found)


def numbers_held(text: str) -> frozenset[str]:
    """Of a passage, in figures or in (English, a few German) words. Time is linear in its length."""
    found: set[str] = set()
    for number in _NUMBER.finditer(text):
        found |= _readings(number[0], _scale_at(text, number.end()))
    for word in _WORD.finditer(text):
        value = sum(_SPELLED[part.lower()] for part in word.groups() if part)
        found |= _readings(str(value), _scale_at(text, word.end()))
    return frozenset(found)


def _is_claim(text: str, number: re.Match[str]) -> bool:
    before = text[max(0, number.start() - _LOOSE_CHARS) : number.start()]
    if _IN_NAME.search(before) or _LOOSE.search(before) or _NO_NUMBER.match(text, number.end()):
        return False
    if len(number[0]) > 1:
        return True
    return _MONEY.search(before) is not None or _UNIT.match(text, number.end()) is not None


def _scale_at(text: str, at: int) -> int:
    """Zeros that a word like `million` behind a number adds to it."""
    scale = _SCALE.match(text, at)
    return _ZEROS[scale.lastgroup] if scale and scale.lastgroup else 0


def _readings(written: str, zeros: int) -> set[str]:
    if not written.isascii():
        written = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in written)
    found = set(_read(written))
    return found | {_scaled(each, zeros) for each in found} if zeros else found


def _read(written: str) -> list[str]:
    """Every number that a run of digits and separators may be."""
    digits, marks = re.split(r"\D", written), re.sub(r"\d", "", written)
    first, last = marks[:1], marks[-1:]
    if not marks:
        return [_plain(written)]
    if last in ".," and set(marks[:-1]) == {first} != {last} and _are_thousands(digits[:-1]):
        return [_plain("".join(digits[:-1]), digits[-1])]
    if any(mark in _SPACES for mark in marks):
        is_one = len(set(marks)) == 1 and _are_thousands(digits)
        found = [_plain("".join(digits))] if is_one else []
        if found and "000" in digits:
            return found
        return [*found, *chain.from_iterable(map(_read, re.split(rf"[{_SPACES}]", written)))]
    if len(marks) == 1:
        return _read_pair(*digits, mark=first)
    if set(marks) == {first} and first != ":" and _are_thousands(digits):
        return [_plain("".join(digits))]
    if set(marks) == {"."} and not _DATE.fullmatch(written):
        return [written]  # a version, an address
    return [_plain(part) for part in digits]


def _read_pair(whole: str, rest: str, *, mark: str) -> list[str]:
    if mark == ":":
        return [_plain(whole), _plain(rest), _plain(whole, rest)]
    is_thousands = _are_thousands([whole, rest])
    if mark in "'’":
        return [_plain(whole + rest)] if is_thousands else [_plain(whole), _plain(rest)]
    found = [_plain(whole + rest)] if is_thousands else []
    return found if found and rest == "000" else [*found, _plain(whole, rest)]


def _are_thousands(digits: list[str]) -> bool:
    return len(digits[0]) <= 3 and digits[0][0] != "0" and all(len(part) == 3 for part in digits[1:])


def _plain(whole: str, rest: str = "") -> str:
    rest = rest.rstrip("0")
    return f"{whole.lstrip('0') or '0'}{'.' if rest else ''}{rest}"


def _scaled(number: str, zeros: int) -> str:
    whole, _, rest = number.partition(".")
    if "." in rest:
        return number
    return _plain(whole + rest[:zeros].ljust(zeros, "0"), rest[zeros:])
