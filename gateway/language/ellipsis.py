"""Questions that leave out what the question before has said: `why?`, `and in 2015?`, `what about Denver?`. Pure.

The question before is asked anew with what changed in its place; where that cannot be told, its words are added.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.language.mentions import (
    Mention,
    is_year,
    mentions,
    names,
    noun_phrase_end,
    starts_with_preposition,
)
from gateway.language.pronouns import Found, with_context
from gateway.language.said import Said, has_content, is_small_talk
from gateway.language.terms import word_set, words

MAX_FRAGMENT_WORDS = 7
MAX_STATEMENT_CHARS = 160

ASKED_ANEW = "follow-up: the question before, with what changed in it"
WITH_CONTEXT = "follow-up: with the words of the question before"

_AUX = r"(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|had|must)\b"
_IS = r"(?:'s|’s| is| are| was| were)"
_MORE = re.compile(
    r"^\W*(?:(?:please |can you |could you )?(?:tell me more|explain|elaborate|go on|continue)"
    r"(?: (?:that|this|more|further|please|in more detail|again))*|more(?: details?| examples?| information)?"
    r"|(?:what(?:'s|’s| is)|(?:can you |could you )?give(?: me| us)?) an? (?:example|instance)"
    r"|(?:for|an?y?) (?:example|instance)s?|examples?|such as|like what|(?:what|who|where|anything|anyone) else"
    r"|really|are you sure|how so|how come|in what way|then|what then|what next"
    r"|what happened (?:next|then|afterwards|later)|mehr|zum beispiel|was noch|erzähl mehr)\W*$",
    re.IGNORECASE,
)
_UNIT = r"(?:year|month|day|date|century|city|country|place|order|version|way)"
_BARE = re.compile(
    rf"^(?P<asks>why not|why|how|when|where|(?:since|until) when|(?:by|with|for|to|from) (?:whom|what|which)|"
    rf"(?:in|on|at|since|until|from) (?:what|which) {_UNIT}|(?:what|which) {_UNIT}|wann|warum|wieso|wo|wie)"
    r"(?: (?:exactly|though|then))?"
    r"(?P<rest> (?:in|on|at|for|with|from|to|of|by|during|after|before|per) [^?]{2,60}?)?[\s?.!]*$",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"^\W*(?:(?:in|on|at|since|until|from|by|to|for|with) )?"
    rf"(?:(?:what|which) \w+|why|how(?: (?:long|often|far|much|many|fast))?(?= {_AUX})|when|where|how many \w+) "
    rf"(?P<rest>{_AUX}.+)$",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(rf"^\W*(?P<rest>{_AUX}.+)$", re.IGNORECASE)
_GERMAN_ASKED = re.compile(r"^\W*(?:wann|warum|wieso|weshalb|wo|wie|wer)\b (?P<rest>.+)$", re.IGNORECASE)
_WHAT_ABOUT = re.compile(
    r"^\W*(?:(?:what|how) about|(?:the )?same (?:question )?(?:for|with|in)|was ist mit|und mit) ",
    re.IGNORECASE,
)
_ASKING = re.compile(
    rf"\b(?:{_AUX}|(?:who|whom|whose|what|which|when|where|why|how|tell|show|list|explain|describe|compare|give|wer|was|"
    r"wann|wo|wie|warum|welche\w*|ist|sind|hat)\b)",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(?:it|its|they|them|their|he|him|his|she|her|there|this|that|these|those|ones?|ihn|ihm|sie|er|es)\b",
    re.IGNORECASE,
)
_YOU_OR_I = re.compile(r"\b(?:you|your|i|we|me|us|my|our|du|ich|wir|sie)\b", re.IGNORECASE)
_CLAUSE = re.compile(
    rf"^(?P<word>when|if|while|after|before|unless|once|without) (?!{_AUX})\w", re.IGNORECASE
)
# Asks by a noun and nothing more: `for how long?`, `up to which sum?`, `which version?`.
_ASKS_BY_NOUN = re.compile(
    r"^(?:\w+ ){0,2}?(?:how (?:long|many|much|often|far|old|tall|high|big|large|fast|late|early)|what|which)"
    rf"(?: (?!{_AUX}|about\b|if\b)[\w-]+){{0,2}}\?+\s*$",
    re.IGNORECASE,
)
_COMPARES = re.compile(
    r"^which (?:of (?:them|these|those) )?(?:is|are|was|were) (?:the )?[\w-]+(?: (?!of\b)[\w-]+)?[\s?.!]*$",
    re.IGNORECASE,
)
_SO_MUCH = re.compile(
    r"\bso (?:many|much|long|few|often|high|low|large|small|late|early|fast|slow)\b(?! that)|\bthen[\s?.!]*$"
)
_BRIDGE = re.compile(
    rf"^\W*(?:who|what|which|when|where){_IS} (?P<thing>the (?:[\w-]+ )?(?P<noun>[\w-]+))[\s?.!]*$",
    re.IGNORECASE,
)
_PART_OF = re.compile(rf"^\W*(?:what|who|where){_IS} (?P<part>[\w -]{{2,50}}?) of ", re.IGNORECASE)
# Nouns that are of something, always.
_RELATIONAL = word_set(
    "architect author mayor capital population height founder inventor director winner creator designer discoverer "
    "president chairman ceo owner cause outcome consequence reason purpose result length width weight age price cost "
    "painter composer writer builder successor predecessor currency nickname motto difference default alternative"
)


def fragment(question: str, last: Said, *, is_continued: bool) -> Found | None:
    """A question of a few words around what changed. is_continued: it began with `and`, `but` or their like."""
    if is_small_talk(question):
        return None
    if _MORE.match(question):
        return _with_words(question, last)
    bare = _BARE.match(question)
    if bare and not _ASKING.search(bare["rest"] or ""):
        return _asked_anew(question, bare["asks"], bare["rest"] or "", last)
    if is_continued and (clause := _CLAUSE.match(question)):
        return _with_clause(question, clause["word"], last)
    is_short = len(question.split()) <= MAX_FRAGMENT_WORDS
    about = _WHAT_ABOUT.match(question)
    if about and is_short and not _ASKING.search(question, about.end()):
        return _exchanged(question, question[about.end() :], last)
    is_cut = is_continued or (starts_with_preposition(question) and question.rstrip().endswith("?"))
    if is_short and is_cut and not _ASKING.search(question) and not _PRONOUN.search(question):
        return _exchanged(question, question, last)
    return None


def incomplete(question: str, last: Said, *, is_continued: bool) -> Found | None:
    """A whole sentence that says too little: no word of its own, a comparison of nothing, the architect of nothing."""
    if is_small_talk(question) or _YOU_OR_I.search(question):
        return None
    is_asked = question.rstrip().endswith("?") or _ASKING.search(question) is not None
    if is_asked and words(question) and not has_content(question):
        return _with_words(question, last)
    if _COMPARES.match(question) or _ASKS_BY_NOUN.match(question) or _SO_MUCH.search(question):
        return _with_words(question, last)
    bridge = _BRIDGE.match(question)
    if bridge and (is_continued or bridge["noun"].lower() in _RELATIONAL) and not names(question):
        return _of(question, bridge, last)
    return None


def _with_words(question: str, last: Said) -> Found | None:
    text = with_context(question, last.context)
    return (text, WITH_CONTEXT) if text != question else None


def _asked_anew(question: str, asks: str, rest: str, last: Said) -> Found | None:
    """`why?`: the question before with another word to ask by."""
    for form in (_ASKED, _YES_OR_NO, _GERMAN_ASKED):
        found = form.match(last.question)
        if found:
            body = found["rest"].rstrip(" ?.!")
            if form is _YES_OR_NO:
                body = body[:1].lower() + body[1:]
            return f"{asks} {body}{rest}?", ASKED_ANEW
    if asks.lower() in {"why", "how", "why not"} and last.statement:
        return (
            f"{asks}: {last.statement[:MAX_STATEMENT_CHARS].rstrip(' .')}?",
            "follow-up: asked of the answer before",
        )
    return _with_words(question, last)


def _with_clause(question: str, word: str, last: Said) -> Found | None:
    """`when Envoy dies` in the place of `when Redis dies`, else behind the question before."""
    asked = last.question.rstrip(" \t\n?.!")
    known = re.search(rf"(?<=\w )\b{word}\b", asked, re.IGNORECASE)
    asked = asked[: known.start()].rstrip(" ,") if known else asked
    return (f"{asked} {question.rstrip(' ?.!')}?", ASKED_ANEW) if has_content(asked) else None


def _exchanged(question: str, changed: str, last: Said) -> Found | None:
    """The question before with `changed` in the place of what is like it."""
    changed = changed.strip(" \t\n?.!,")
    preposition = starts_with_preposition(changed)
    thing = changed[len(preposition) :].strip()
    if not thing:
        return None
    asked = last.question.rstrip(" \t\n?.!")
    ways: tuple[Callable[[str, str, str], str], ...] = (_year, _phrase, _name, _described, _part)
    for way in ways:
        text = way(asked, preposition, thing)
        if text:
            return f"{text}?", ASKED_ANEW
    if preposition and has_content(asked):
        return f"{asked} {changed}?", ASKED_ANEW
    return _with_words(changed + "?", last)


def _year(asked: str, _: str, thing: str) -> str:
    """A year for a year."""
    if not is_year(thing):
        return ""
    found = [word for word in words(asked) if is_year(word.text)]
    return _put(asked, found[-1].at, found[-1].at + len(found[-1].text), thing) if found else ""


def _phrase(asked: str, preposition: str, thing: str) -> str:
    """`of Redis` for `of Envoy`: what stands behind the same preposition."""
    if not preposition:
        return ""
    found = list(re.finditer(rf"\b{re.escape(preposition)} +", asked, re.IGNORECASE))
    if not found or is_year(thing) != is_year(asked[found[-1].end() :].split(maxsplit=1)[0]):
        return ""
    start = found[-1].end()
    end = noun_phrase_end(asked, start)
    return _put(asked, start, end, thing) if end > start else ""


def _name(asked: str, preposition: str, thing: str) -> str:
    """A name for the only name, or for the only one that is of, in or for something."""
    is_name = any(letter.isupper() for letter in thing) or thing[0] in '`"“'
    if preposition or not is_name:
        return ""
    known = names(asked)
    if len(known) > 1:
        known = [
            each for each in known if _ahead(asked, each) in {"of", "in", "for", "from", "at", "to", "on"}
        ]
    return _put(asked, known[0].at, known[0].end, thing) if len(known) == 1 else ""


def _described(asked: str, preposition: str, thing: str) -> str:
    """`the deep tier` for `the fast tier`: the same noun, or the only thing that is spoken of."""
    if preposition or not thing.lower().startswith(("the ", "a ", "an ", "my ", "our ")):
        return ""
    known = mentions(asked)
    noun = thing.rpartition(" ")[2].lower()
    alike = [each for each in known if each.text.rpartition(" ")[2].lower() == noun]
    if len(alike) != 1 and len(known) == 1 and not known[0].is_name:
        alike = known
    return _put(asked, alike[0].at, alike[0].end, thing) if len(alike) == 1 else ""


def _part(asked: str, preposition: str, thing: str) -> str:
    """`the timeout` for `the port` of what is the port of Envoy."""
    found = _PART_OF.match(asked)
    if preposition or not found:
        return ""
    return _put(asked, found.start("part"), found.end("part"), thing)


def _of(question: str, bridge: re.Match[str], last: Said) -> Found | None:
    things = last.things
    if len(things) != 1:
        return _with_words(question, last)
    of = f"{bridge['thing']} of {things[0].text}"
    return _put(question, bridge.start("thing"), bridge.end("thing"), of), f"follow-up: of {things[0].text}"


def _ahead(text: str, mention: Mention) -> str:
    return text[: mention.at].rstrip().lower().rpartition(" ")[2]


def _put(text: str, start: int, end: int, other: str) -> str:
    return text[:start] + other + text[end:]
