"""What a question or an answer names: proper names and described things, and what a question is about. Pure.

Without a grammar: capitals, determiners and the frames that questions come in. English; in other languages names are
still found by their capitals.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.language.terms import is_content, word_set

MAX_MENTION_CHARS = 80

_TOKEN = re.compile(r"`[^`\n]{1,60}`|[“\"][^”\"\n]{1,60}[”\"]|[^\W_]+(?:[_.&’'/-][^\W_]+)*")
_YEAR = re.compile(r"(?:1\d|20)\d\d(?:s|-\d\d)?\Z")
_DETERMINERS = word_set("the a an my our each every any some")
_JOINERS = word_set("of the de la le du von van der den del di da for")  # inside of names
_PREPOSITIONS = word_set(
    "of in on at by for from to with without about into onto over under between during after before near inside "
    "outside through against within per via since until as than like around behind beside"
)
_GERMAN_PREPOSITIONS = word_set(
    "im auf bei beim mit für von vom nach vor seit ab zu zum zur aus über unter ohne gegen bis ins durch"
)
_AUXILIARIES = word_set(
    "is are was were be been being am do does did has have had can could will would shall should may might must"
)
_DOING = frozenset({"do", "does", "did"})
_CLAUSE_WORDS = word_set(
    "and or but if when while because so that which who whom whose where why how whether what"
)
_BREAKS = (
    _PREPOSITIONS
    | _AUXILIARIES
    | _CLAUSE_WORDS
    | word_set(
        "not it they he she them him her there this these again now today too yet already first later well"
    )
)
# Base forms that follow a subject in `does the worker write …`; other verbs are told by their place at the end.
_VERBS = word_set(
    "accept add allow answer apply ask become begin belong bring build buy call carry cause change check choose close "
    "come consist contain cost count create cross cut decide define delete depend describe die differ do drop eat end "
    "ensure enter exist expire fail fall find fit follow get give go grow handle happen have help hold hurt ignore "
    "import include invade invent keep know last lead learn leave let limit listen live look lose make mean measure "
    "meet merge move need occur open own pay pick play point prevent produce protect provide publish put quote read "
    "reach receive refuse reject remain remove rename replace reply report require restart retrieve retry return rise "
    "run say see sell send serve set share show sign sit skip sleep spend split stand start stay stop store support "
    "take talk tell think throw treat try turn use wait walk want watch win work write"
)
_PARTICIPLES = word_set(
    "built made written kept held sold won born known found run set sent read shot taken given done drawn driven "
    "chosen broken begun bought brought caught cut fought hidden hit laid led left lent lost meant met paid put sung "
    "shown spent split stolen struck sung taught thrown told understood worn"
)
# Properties: who asks for the height of a tower goes on to speak of the tower.
_PROPERTIES = word_set(
    "population height length size width depth weight age area number name address date history meaning origin gdp "
    "price cost value speed temperature elevation color colour amount capacity distance duration purpose"
)
_FRAMES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^\W*(?:what|who|where)(?:'s|’s| is| are| was| were) (?P<thing>[^?!,;:]{2,90}?)[\s?.!]*$",
        r"^\W*(?:please |can you |could you )?(?:tell (?:me|us) about|explain|describe|define|show me) "
        r"(?P<thing>[^?!,;:]{2,90}?)[\s?.!]*$",
        r"^\W*(?:what (?:does|do) )(?P<thing>[^?!,;:]{2,90}?) (?:mean|do)[\s?.!]*$",
        r"^\W*how (?:does|do) (?P<thing>[^?!,;:]{2,90}?) work[\s?.!]*$",
    )
)
_OF = re.compile(r"^(?:the )?(?P<part>[\w -]{2,50}?) of (?P<whole>.+)$", re.IGNORECASE)


class Mention(NamedTuple):
    """A thing as the text names it, its determiner included. at, end: characters of the text."""

    text: str
    at: int
    end: int
    is_name: bool

    @property
    def bare(self) -> str:
        first, _, rest = self.text.partition(" ")
        return rest if rest and first.lower() in _DETERMINERS else self.text

    @property
    def is_plural(self) -> bool:
        last = self.bare.rpartition(" ")[2].lower()
        return not self.is_name and last.endswith("s") and not last.endswith(("ss", "us", "is"))


class _Token(NamedTuple):
    text: str
    at: int
    end: int
    starts: bool  # a sentence
    follows: bool  # the token before it, with nothing but space between

    @property
    def lower(self) -> str:
        return self.text.lower()


def mentions(text: str) -> list[Mention]:
    """Names and described things in the order of the text, none within another."""
    tokens = _tokens(text)
    found, at = [], 0
    while at < len(tokens):
        size, is_name = _name_at(tokens, at), True
        if not size:
            size, is_name = _description_at(tokens, at), False
        if size:
            found.append(_mention(text, tokens, at, size, is_name))
        at += size or 1
    return found


def names(text: str) -> list[Mention]:
    return [each for each in mentions(text) if each.is_name]


def topic(question: str) -> Mention | None:
    """What the question as a whole is about, where its frame tells: `X` of `what is X?`, `how does X work?`."""
    for frame in _FRAMES:
        found = frame.match(question)
        if found is None:
            continue
        thing, at = found["thing"].strip(), found.start("thing")
        if len(thing) > MAX_MENTION_CHARS or not any(map(is_content, thing.split())):
            return None
        parts = _OF.match(thing)
        if parts and parts["part"].rpartition(" ")[2].lower() in _PROPERTIES:
            at += parts.start("whole")
            thing = parts["whole"]
        if _has_verb(thing):
            return None
        is_name = any(each.is_name and each.text == thing for each in mentions(thing)) or thing[:1].isupper()
        return Mention(thing, at, at + len(thing), is_name)
    return None


def subject(question: str) -> Mention | None:
    """The thing without a determiner behind the auxiliary: `receipts` of `how long are receipts kept?`."""
    tokens = _tokens(question)
    at = next((at for at, token in enumerate(tokens) if token.lower in _AUXILIARIES), len(tokens)) + 1
    is_noun = at < len(tokens) and _is_noun(tokens[at].lower)
    size = _noun_run(tokens, at, tokens[at - 1].lower) if is_noun else 0
    return _mention(question, tokens, at, size, is_name=False) if size else None


def core(question: str) -> str:
    """The question from its first word that says something on, without what asks: `won the cup in 2014`."""
    first = next((token for token in _tokens(question) if is_content(token.text.strip('`"“”'))), None)
    if first is None:
        return ""
    return question[first.at :].rstrip(" \t\n?.!")


def is_year(word: str) -> bool:
    return _YEAR.match(word) is not None


def starts_with_preposition(text: str) -> str:
    """The preposition, as written, or nothing."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    return first if first.lower() in _PREPOSITIONS | _GERMAN_PREPOSITIONS else ""


def noun_phrase_end(text: str, at: int) -> int:
    """Where the words of one phrase that begin at `at` end: at a preposition, a verb of help, or punctuation."""
    end = at
    tokens = _tokens(text[at : at + MAX_MENTION_CHARS])
    for token in tokens:
        is_last_verb = token is tokens[-1] and end > at and token.lower in _VERBS
        if (end > at and not token.follows) or token.lower in _BREAKS or is_last_verb:
            break
        end = at + token.end
    return end


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    end = 0
    for match in _TOKEN.finditer(text):
        gap = text[end : match.start()]
        starts = not found or any(mark in gap for mark in ".!?:\n")
        found.append(_Token(match[0], match.start(), match.end(), starts, bool(found) and gap.isspace()))
        end = match.end()
    return found


def _mention(text: str, tokens: list[_Token], at: int, size: int, is_name: bool) -> Mention:
    start, end = tokens[at].at, tokens[at + size - 1].end
    if is_name and at and tokens[at].follows and tokens[at - 1].lower in {"the", "a", "an"}:
        start = tokens[at - 1].at
    while text[start:end].endswith(("'s", "’s")):
        end -= 2
    return Mention(text[start:end], start, end, is_name)


def _name_at(tokens: list[_Token], at: int) -> int:
    """How many tokens of a name begin here; 0 = none does."""
    if not _is_capital(tokens[at]) or (tokens[at].starts and not _is_name_at_start(tokens, at)):
        return 0
    if tokens[at].text[0] in '`"“':
        return 1
    end = at + 1
    while end < len(tokens) and end - at < 8 and tokens[end].follows:
        following = end
        while following < len(tokens) and tokens[following].lower in _JOINERS and following - end < 2:
            following += 1
        if following >= len(tokens) or not tokens[following].follows:
            break
        if following > end and _is_property(tokens[end - 1].text):
            break
        joined = tokens[following]
        is_number = following == end and joined.text.isdigit() and not is_year(joined.text)
        if not (_is_capital(joined) and joined.text[0] not in '`"“') and not is_number:
            break
        end = following + 1
        if tokens[end - 1].text.endswith(("'s", "’s")):
            break
    if end == at + 1 and tokens[at].text.isupper():  # `API key`
        while end < len(tokens) and end - at < 3 and tokens[end].follows and _is_noun(tokens[end].lower):
            end += 1
    return end - at


def _is_noun(word: str) -> bool:
    is_broken = word in _BREAKS or word in _DETERMINERS or word in _VERBS or word in _PARTICIPLES
    return (
        not is_broken and not word.endswith(("ed", "ly")) and not _is_verb(word, False) and is_content(word)
    )


def _is_property(word: str) -> bool:
    """`the GDP of Japan` is two names, `the Bank of Japan` is one."""
    return word.lower() in _PROPERTIES or (word.isupper() and len(word) > 1)


def _is_capital(token: _Token) -> bool:
    word = token.text
    if word[0] in '`"“':
        return True
    if word.lower() in {"i", "i'm"} or not any(letter.isupper() for letter in word):
        return False
    return word[0].isupper() or word[0].isdigit() or any(letter.isupper() for letter in word[1:])


def _is_name_at_start(tokens: list[_Token], at: int) -> bool:
    """A sentence's first word is a capital in any case: a name is told by what follows, or by its inside."""
    word = tokens[at].text
    if word[0] in '`"“':
        return True
    if not is_content(word):
        return False
    if any(letter.isupper() or letter.isdigit() for letter in word[1:]):
        return True
    following = tokens[at + 1] if at + 1 < len(tokens) else None
    return following is not None and following.follows and _is_capital(following) and not following.starts


def _description_at(tokens: list[_Token], at: int) -> int:
    if tokens[at].lower not in _DETERMINERS or (at + 1 < len(tokens) and _name_at(tokens, at + 1)):
        return 0
    before = tokens[at - 1].lower if at else ""
    size = _noun_run(tokens, at + 1, before if before in _AUXILIARIES else "")
    return size + 1 if size else 0


def _noun_run(tokens: list[_Token], at: int, auxiliary: str) -> int:
    """How many tokens from `at` on are one thing. auxiliary: stands before it, so that a verb comes behind it."""
    end = at
    while end < len(tokens) and end - at < 5:
        token = tokens[end]
        if (end > at and not token.follows) or token.lower in _BREAKS or token.lower in _DETERMINERS:
            break
        if end > at and (_is_capital(token) or _is_verb(token.lower, bool(auxiliary))):
            break
        end += 1
    reaches_end = end == len(tokens) or not tokens[end].follows
    if auxiliary in _DOING and reaches_end and end - at > 1:
        end -= 1  # `does the worker start?`: whatever the last word is, it is the verb
    return end - at if end > at and is_content(tokens[at].text) else 0


def _is_verb(word: str, is_asked: bool) -> bool:
    if word in _PARTICIPLES:
        return True
    if is_asked:
        return word in _VERBS or word.endswith("ed")
    return word.endswith("s") and word[:-1] in _VERBS


def _has_verb(thing: str) -> bool:
    """Whether more than a thing stands there: `the gate opened in 1843`, `the worker that writes`."""
    words = [word.lower() for word in thing.split()]
    return any(word in _AUXILIARIES or word in _CLAUSE_WORDS - {"and", "or"} for word in words) or any(
        word in _PARTICIPLES for word in words[1:]
    )
