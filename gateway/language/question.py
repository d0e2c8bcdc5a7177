"""What a question asks for, and how much of that a sentence offers: a date for `when`, a number for `how many`.

English cues, and the plainest German ones; a question in another language has `Wanted.ANY` and is answered by its
words alone.
"""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from gateway.language import german
from gateway.language.terms import Word, inner_stems, is_content, stem, word_set, words

_PAIR_REACH = 3  # words, that two terms of a pair are apart at most
MAX_READ_CHARS = 2000  # of a message: its start and its end, where a question stands


class Wanted(StrEnum):
    DATE = "date"
    NUMBER = "number"
    SHARE = "share"  # per cent
    MONEY = "money"
    PERSON = "person"
    PLACE = "place"
    NAME = "name"
    REASON = "reason"
    MANNER = "manner"
    DEFINITION = "definition"
    ANY = "any"


class Question(NamedTuple):
    """A question with its words read. terms: stems of its content words, in order, each once.

    text: as it was read, so at most about MAX_READ_CHARS.
    """

    text: str
    terms: tuple[str, ...]
    stems: frozenset[str]  # of every word, to tell what a sentence adds
    inner: frozenset[str]  # of words inside identifiers
    forms: dict[str, frozenset[str]]  # how each term was written, in lower case
    wanted: Wanted
    pairs: tuple[tuple[str, str], ...] = ()  # terms that stand next to each other, in order
    entities: frozenset[str] = (
        frozenset()
    )  # terms that name or number one thing: capitalised, or with a digit


def _what(nouns: str) -> str:
    """`what year`, `which royal family`: the noun, or one word and the noun."""
    return rf"\b(?:what|which) (?:\w+ )?(?:{nouns})\b"


# First match wins, so the narrow cues stand above the wide ones.
_CUES: tuple[tuple[Wanted, tuple[str, ...]], ...] = (
    (Wanted.SHARE, (r"\b(?:percent|per cent|percentage)\b", _what("share|fraction|proportion"))),
    (
        Wanted.MONEY,
        (
            r"\bhow much (?:money|(?:does|did) .{1,60} (?:cost|pay|earn))\b",
            r"\b(?:what|how much) (?:is|was|were|did|does).{1,60}\b(?:cost|price|paid)\b",
            _what("price|salary|fee"),
        ),
    ),
    (
        Wanted.DATE,
        (
            r"\bwhen\b|\bwhat time\b",
            _what("years?|dates?|day|month|centur(?:y|ies)|decades?|era|period|season"),
            r"\bin (?:what|which) .{0,20}(?:year|century|month)\b",
        ),
    ),
    (
        Wanted.NUMBER,
        (
            r"\bhow (?:many|much|long|old|far|tall|large|big|high|deep|wide|fast|often|heavy|hot|cold)\b",
            r"\b(?:what|which) (?:is|was|were|are) the (?:\w+ ){0,3}(?:number|amount|size|population|ratio|score|age|"
            r"length|height|distance|speed|rate|limit|port|total|average|median|maximum|minimum|temperature|default)\b",
            _what("number|amount|ratio|score|age|length|height|distance|speed|rate|limit|port"),
        ),
    ),
    (
        Wanted.PERSON,
        (
            r"\bwho(?:m|se|'s)?\b",
            _what(
                "person|man|woman|president|king|queen|emperor|author|poet|artist|actor|actress|player|coach"
            ),
            _what("quarterback|scientist|mathematician|composer|leader|philosopher"),
        ),
    ),
    (
        Wanted.PLACE,
        (
            r"\bwhere\b",
            _what("city|cities|country|countries|state|county|continent|place|location|region|town|village"),
            _what("island|river|ocean|street|building|stadium|area|nation"),
        ),
    ),
    (
        Wanted.REASON,
        (
            r"\bwhy\b|\bfor what\b|\bhow come\b",
            r"\b(?:what|which) .{0,40}\b(?:reason|cause|caused|purpose|motivat\w+)\b",
        ),
    ),
    (
        Wanted.NAME,
        (
            r"\b(?:name|named|called|titled?|known as|nicknamed?|stands? for|term|abbreviat\w+)\b",
            _what(
                "company|organi[sz]ation|university|school|team|band|group|network|album|song|book|film|movie"
            ),
            _what("show|church|language|party|war|treaty|law|act|award|religion|nationality"),
        ),
    ),
    (
        Wanted.DEFINITION,
        (
            r"^\W*(?:what|who) (?:is|are|was|were) (?:an? |the )?(?:[\w'’-]++ ?+){1,4}+\?*+\W*+$",
            r"\bwhat (?:does|do) .{1,60} mean\b|\b(?:define|definition|meaning) of\b",
        ),
    ),
    (Wanted.MANNER, (r"^\W*how\b|\bin what way\b|\bby what\b",)),
)
_COMPILED = tuple((wanted, re.compile("|".join(cues), re.IGNORECASE)) for wanted, cues in _CUES)

# What is asked is said by the first of these words; a later one joins a clause: `how old was he when he played?`
_ASKING = re.compile(r"\b(?:how|what|which|who(?:m|se)?|when|where|why)\b", re.IGNORECASE)
# `When the tide turns, who opens the gate?`
_CLAUSE = re.compile(
    r"^\W*(?:when|where|if|while|since|after|before|during|as)\b[^?.]{1,200},\s*(?=(?:how|what|which|who|whom|whose|when|where|why)\b)",
    re.IGNORECASE,
)
# `Hi, could you please tell me: ` says nothing of what is asked for, nor of the form that a question begins with.
_FRAME = re.compile(
    r"^\W*+(?:(?:hi|hello|hey|ok|okay|so|well)(?: there| all)?\s*+[,!.:]\s*+){0,3}(?:(?:please|kindly)\b[\s,]*+)?"
    r"(?:(?:(?:can|could|would|will) you (?:please |kindly )?(?:tell|explain to|show|inform|remind) (?:me|us)"
    r"|(?:tell|remind|inform) (?:me|us)|do you (?:happen to )?know"
    r"|(?:i(?:['’]d| would) like|i (?:want|need)) to know|i(?:['’]m| am) wondering|i wonder|(?:my|the) question is)"
    r"[\s:,]*+)?"
    r"(?=(?:(?:in|at|on|for|from|by|of|to|with) )?(?:how|what|which|who|whom|whose|when|where|why|is|are|was|were|do|"
    r"does|did|has|have|had|can|could|will|would|should)\b)",
    re.IGNORECASE,
)
# `Who` inside a question is part of a name.
_TITLE_WORD = re.compile(r"(?<=[\w,] )(?:Who|When|Where|Why|How|What|Which)\b")

_NUMBER_WORDS = word_set(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion "
    "trillion dozen half third quarter twice once double triple several none no both"
)
_MONTHS = (
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december|"
    r"monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
)
_DATE = re.compile(
    rf"\b(?:1\d{{3}}|20\d{{2}})(?:s|\b)|\b\d{{1,2}}(?:st|nd|rd|th) centur|\bcentur(?:y|ies)\b|\b{_MONTHS}\b"
    rf"|\b\d{{3,4}}\s?(?:BC|AD|BCE|CE)\b|\b\d{{1,2}}:\d{{2}}\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b(after|before|during|while|since|until|when|early|late|later|century|ago|today)\b", re.IGNORECASE
)
_SHARE = re.compile(r"\d\s?%|\bper ?cent\b|\b(half|third|quarter|majority|fraction)\b", re.IGNORECASE)
_MONEY = re.compile(r"[$€£¥]\s?\d|\b(dollars?|euros?|pounds?|usd|eur|gbp|cents)\b", re.IGNORECASE)
_REASON = re.compile(
    r"\b(because|due to|since|so that|in order to|as a result|therefore|thus|hence|cause[ds]?|reasons?|owing to|"
    r"thanks to|led to|leads to|result(?:s|ed|ing)? (?:in|from|of)|so as to|for fear|to (?:avoid|prevent|allow|ensure|"
    r"keep|help|protect|reduce|increase|make|gain|get))\b",
    re.IGNORECASE,
)
_MANNER = re.compile(r"\b(by|through|using|via|with|run|set|use|from|into)\b", re.IGNORECASE)
_NAMING = re.compile(
    r"\b(called|known as|named|termed|titled|referred to as|nicknamed|stands? for)\b|[\"“«'‘]\w",
    re.IGNORECASE,
)
_PLACING = re.compile(
    r"\b(?:in|at|near|from|to|of|on|into|across|throughout|around|outside|between)\s+(?:the\s+)?$",
    re.IGNORECASE,
)
_NO_PERSON = re.compile(r"\b(?:the|in|at|near|into|across)\s$", re.IGNORECASE)
_DEFINING = re.compile(
    r"\b(is|are|was|were|means?|refers? to|denotes?|describes?|stands? for|consists? of|called|known as|defined as)\b",
    re.IGNORECASE,
)


def read(text: str) -> Question:
    """The question as the reader sees it, without what is put around it out of politeness. With no content word at
    all, every word counts as one.

    Of a text above MAX_READ_CHARS (a question around a pasted document) only start and end are read.
    """
    if len(text) > MAX_READ_CHARS:
        text = f"{text[: MAX_READ_CHARS // 2]} … {text[-(MAX_READ_CHARS // 2) :]}"
    text = _FRAME.sub("", text)
    at = words(text)
    found = [word.text for word in at]
    is_german = german.is_german(text)
    content = [stem(word) for word in found if _tells(word, is_german=is_german)]
    if not content:
        content = [stem(word) for word in found]
    forms: dict[str, set[str]] = {}
    for word in found:
        forms.setdefault(stem(word), set()).add(word.lower())
    terms = tuple(dict.fromkeys(content))
    return Question(
        text=text,
        terms=terms,
        stems=frozenset(stem(word) for word in found),
        inner=inner_stems(text, at),
        forms={term: frozenset(forms[term]) for term in terms},
        wanted=_wanted(text, is_german=is_german),
        pairs=_pairs([stem(word) for word in found], frozenset(terms)),
        entities=_entities(at, text, is_german=is_german) & frozenset(terms),
    )


def _tells(word: str, *, is_german: bool) -> bool:
    return is_content(word) and not (is_german and word.lower() in german.STOP_WORDS)


def _wanted(text: str, *, is_german: bool) -> Wanted:
    asked = _CLAUSE.sub("", _TITLE_WORD.sub(" ", text.strip()))
    first = _ASKING.search(asked)
    if first:
        asked = asked[: first.end()] + _ASKING.sub(" ", asked[first.end() :])
    if is_german:
        return Wanted(german.wanted(asked))
    return next((wanted for wanted, cue in _COMPILED if cue.search(asked)), Wanted.ANY)


def _pairs(stems: list[str], terms: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Terms with at most two other words between them: `author of the book`."""
    at = [place for place, each in enumerate(stems) if each in terms]
    pairs = ((stems[one], stems[other]) for one, other in pairwise(at) if other - one <= _PAIR_REACH)
    return tuple(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))


def _entities(found: list[Word], text: str, *, is_german: bool) -> frozenset[str]:
    """Stems of names and numbers. A question all in capitals, in title case or in German shows no names."""
    later = [word.text for word in found if not _starts_sentence(text, word.at)]
    names = [word for word in later if word[0].isupper()]
    if is_german or not all(map(is_content, names)):
        names = []
    numbers = [word.text for word in found if any(char.isdigit() for char in word.text)]
    return frozenset(stem(word) for word in [*names, *numbers])


def _starts_sentence(text: str, at: int) -> bool:
    before = text[:at].rstrip("\"'“‘(« \t\n")
    return not before or before[-1] in ".!?:"


def evidence(question: Question, sentence: str, found: list[Word]) -> float:
    """How well a sentence offers what is wanted, 0..1. Only what the question did not say itself counts.

    found: `terms.words(sentence)`.
    """
    match question.wanted:
        case Wanted.DATE:
            return _new(_DATE, sentence, question) or 0.35 * bool(_TIME.search(sentence))
        case Wanted.NUMBER:
            return _number(question, found)
        case Wanted.SHARE:
            return _new(_SHARE, sentence, question) or 0.2 * _number(question, found)
        case Wanted.MONEY:
            return _new(_MONEY, sentence, question) or 0.3 * _number(question, found)
        case Wanted.PERSON:
            return _person(question, sentence, found)
        case Wanted.PLACE:
            return _place(question, sentence, found)
        case Wanted.NAME:
            return max(1.0 if _names(question, found) else 0.0, float(bool(_NAMING.search(sentence))))
        case Wanted.REASON:
            return float(bool(_REASON.search(sentence)))
        case Wanted.MANNER:
            return float(bool(_MANNER.search(sentence)))
        case Wanted.DEFINITION:
            return _definition(question, sentence, found)
    return 0.5


def _new(pattern: re.Pattern[str], sentence: str, question: Question) -> float:
    said = question.text.lower()
    return float(any(match[0].lower() not in said for match in pattern.finditer(sentence)))


def _number(question: Question, found: list[Word]) -> float:
    """Best where the number stands before what is counted: `four interceptions` for `how many interceptions`."""
    best = 0.0
    for index, word in enumerate(found):
        is_number = word.text[:1].isdigit() or word.text.lower() in _NUMBER_WORDS
        if not is_number or stem(word.text) in question.stems:
            continue
        if any(stem(near.text) in question.terms for near in found[index + 1 : index + 4]):
            return 1.0
        best = 0.6
    return best


def _names(question: Question, found: list[Word]) -> list[Word]:
    """Capitalised words that the question does not hold; the first word only if the next is one too."""
    names = []
    for index, word in enumerate(found):
        if not word.text[0].isupper() or not is_content(word.text) or stem(word.text) in question.stems:
            continue
        following = found[index + 1].text if index + 1 < len(found) else ""
        if index > 0 or following[:1].isupper():
            names.append(word)
    return names


def _person(question: Question, sentence: str, found: list[Word]) -> float:
    """People go by their name alone: `the Lune` and `in Bremen` are others."""
    names = _names(question, found)
    if any(not _NO_PERSON.search(sentence, max(0, word.at - 12), word.at) for word in names):
        return 1.0
    return 0.4 * bool(names)


def _place(question: Question, sentence: str, found: list[Word]) -> float:
    names = _names(question, found)
    if any(_PLACING.search(sentence, max(0, word.at - 24), word.at) for word in names):
        return 1.0
    if names:
        return 0.5
    return 0.3 * bool(re.search(r"\b(in|at|near|under|inside|on)\b", sentence))


def _definition(question: Question, sentence: str, found: list[Word]) -> float:
    """Whether the thing asked about is the subject of a defining verb."""
    verb = _DEFINING.search(sentence)
    if verb is None or not question.terms:
        return 0.0
    subject = {stem(word.text) for word in found if word.at < verb.start()}
    return sum(term in subject for term in question.terms) / len(question.terms)
