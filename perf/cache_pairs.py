"""Pairs of questions made from real ones by rules: paraphrases, which may share an answer, and swaps, which must not.

    paraphrase   frame       a request is put around the question: `Please tell me: …`
                 contract    What is -> What's, did not -> didn't
                 front       a closing `in 1964`, `in Paris` goes to the front
                 synonym     one word becomes another of the same meaning
                 year        When did … -> In what year did …, where the answer is found by either
                 by_whom     Who wrote X -> By whom was X written
                 wh          which -> what, whom -> who before a verb of help
                 looks       small letters at the start, no question mark, more space
    swap         number      one number becomes another
                 date        one year or month becomes another
                 unit        kilometres become miles, seconds minutes, …
                 name        one name becomes another one of the same document
                 negation    did -> did not, is -> is not
                 degree      most <-> least, largest <-> smallest, first <-> last, before <-> after, …
                 direction   Who did X beat <-> Who beat X; two names change places; from <-> to
                 asked       when <-> where, who <-> when, why <-> how
                 antonym     win <-> lose, start <-> end, increase <-> decrease, …
                 property    what is asked of the thing becomes another property

The rules know nothing of the guards that they are to test (gateway/caching/guards.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Pair(NamedTuple):
    """asked: what comes second. same: whether the first one's answer is an answer to it."""

    first: str
    asked: str
    rule: str
    same: bool
    document: int


_FRAMES = (
    "Please tell me: {}",
    "Can you tell me {}",
    "Hi, {}",
    "I would like to know: {}",
    "Could you please tell me: {}",
)
_SYNONYMS = (
    ("film", "movie"), ("began", "started"), ("begin", "start"), ("started", "began"), ("large", "big"),
    ("author", "writer"), ("city", "town"), ("country", "nation"), ("purchased", "bought"), ("company", "firm"),
    ("defeated", "beat"), ("buy", "purchase"), ("ended", "finished"), ("obtain", "get"), ("occurred", "happened"),
    ("happened", "occurred"), ("percentage", "percent"), ("job", "occupation"), ("location", "place"),
    ("reason", "cause"), ("destroyed", "demolished"), ("discovered", "found"), ("wealthy", "rich"),
    ("required", "needed"), ("created", "made"), ("built", "constructed"), ("type", "kind"), ("kind", "type"),
    ("important", "significant"), ("method", "technique"), ("called", "named"), ("died", "perished"),
)  # fmt: skip
_UNITS = (
    ("kilometers", "miles"), ("kilometres", "miles"), ("miles", "kilometers"), ("seconds", "minutes"),
    ("minutes", "hours"), ("years", "months"), ("days", "weeks"), ("percentage", "number"), ("percent", "number"),
    ("dollars", "euros"), ("meters", "feet"), ("feet", "meters"), ("degrees", "radians"), ("hours", "days"),
    ("people", "families"), ("yards", "meters"), ("million", "billion"), ("points", "yards"),
    ("tons", "pounds"), ("square kilometers", "square miles"), ("pounds", "tons"), ("months", "years"),
)  # fmt: skip
_DEGREES = (
    ("most", "least"), ("least", "most"), ("largest", "smallest"), ("smallest", "largest"), ("first", "last"),
    ("last", "first"), ("before", "after"), ("after", "before"), ("more", "less"), ("less", "more"),
    ("highest", "lowest"), ("lowest", "highest"), ("higher", "lower"), ("larger", "smaller"), ("oldest", "youngest"),
    ("longest", "shortest"), ("earliest", "latest"), ("best", "worst"), ("above", "below"), ("over", "under"),
    ("early", "late"), ("maximum", "minimum"), ("large", "small"), ("older", "younger"), ("new", "old"),
    ("old", "new"), ("many", "few"), ("only", "other"), ("main", "minor"), ("highest", "second highest"),
)  # fmt: skip
_ASKED = (
    (r"^When\b", "Where"), (r"^Where\b", "When"), (r"^Who\b", "When"), (r"^Why\b", "How"), (r"^How many\b", "Which"),
    (r"^How much\b", "Why did so much"), (r"^What year\b", "What country"), (r"^In what year\b", "In what country"),
    (r"^Which\b", "How many"), (r"^How did\b", "Why did"), (r"^How\b", "When"), (r"^What did\b", "When did"),
    (r"^What does\b", "Why does"), (r"^What was\b", "Where was"), (r"^What is\b", "Where is"),
)  # fmt: skip
_ANTONYMS = (
    ("won", "lost"), ("win", "lose"), ("start", "end"), ("started", "ended"), ("began", "ended"), ("begin", "end"),
    ("increase", "decrease"), ("increased", "decreased"), ("allowed", "banned"), ("open", "close"),
    ("opened", "closed"), ("born", "buried"), ("north", "south"), ("east", "west"), ("southern", "northern"),
    ("northern", "southern"), ("included", "excluded"), ("include", "exclude"), ("built", "destroyed"),
    ("founded", "dissolved"), ("bought", "sold"), ("support", "oppose"), ("supported", "opposed"), ("enter", "leave"),
    ("gained", "lost"), ("created", "destroyed"), ("accept", "reject"), ("male", "female"), ("men", "women"),
    ("father", "mother"), ("same", "opposite"), ("public", "private"), ("rich", "poor"), ("successful", "failed"),
    ("possible", "impossible"), ("legal", "illegal"), ("defeated", "supported"), ("attacked", "defended"),
    ("married", "divorced"), ("died", "survived"), ("arrive", "depart"), ("true", "false"), ("good", "bad"),
    ("strong", "weak"), ("high", "low"), ("left", "right"), ("used", "avoided"), ("found", "lost"),
)  # fmt: skip
_PROPERTIES = (
    ("name", "age"), ("population", "area"), ("number", "names"), ("year", "month"), ("color", "size"),
    ("capital", "currency"), ("height", "width"), ("cost", "weight"), ("score", "length"), ("cause", "result"),
    ("purpose", "price"), ("title", "length"), ("city", "street"), ("country", "continent"), ("term", "person"),
    ("length", "depth"), ("author", "publisher"), ("language", "religion"), ("date", "place"), ("percentage", "cost"),
    ("team", "coach"), ("player", "referee"), ("company", "university"), ("group", "law"), ("type", "number"),
    ("role", "salary"), ("effect", "origin"), ("war", "treaty"), ("book", "film"), ("king", "queen"),
)  # fmt: skip
_MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip
_IRREGULAR = {
    "wrote": "written",
    "made": "made",
    "built": "built",
    "led": "led",
    "won": "won",
    "held": "held",
}
_NAME = re.compile(r"(?<![.?!:] )(?<!^)\b[A-Z][\w'-]+(?: (?:of |the )?[A-Z][\w'-]+)*")

Rule = Callable[[str, random.Random, Sequence[str]], Iterator[str]]


def _exchanged(table: Sequence[tuple[str, str]]) -> Rule:
    def rule(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
        for word, other in table:
            changed = re.sub(rf"\b{word}\b", other, question, count=1)
            if changed != question:
                yield changed

    return rule


def _frame(question: str, chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    for frame in chance.sample(_FRAMES, 2):
        yield frame.format(question)


def _contract(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    for plain, short in (
        (r"\b(What|Who|Where|How) is\b", r"\1's"),
        (r"\b(did|does|is|was|were) not\b", r"\1n't"),
    ):
        changed = re.sub(plain, short, question, count=1)
        if changed != question:
            yield changed


def _front(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    found = re.match(
        r"(?P<rest>(?:Who|What|Which|How|Where|Why|When) .+?) "
        r"(?P<place>(?:in|at|during|on) (?:the )?[A-Z0-9][\w' -]*)\?$",
        question,
    )
    if found and len(found["place"].split()) <= 4:
        rest = found["rest"]
        yield f"{found['place'][0].upper()}{found['place'][1:]}, {rest[0].lower()}{rest[1:]}?"


def _year(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    if re.match(r"When (?:did|was|were|is|does) ", question):
        yield "In what year " + question[5:]


def _by_whom(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    found = re.match(
        r"Who (?P<verb>[a-z]+ed|wrote|made|built|led|won|held) (?P<what>(?:the |a )?[\w' -]+)\?$", question
    )
    if found:
        done = _IRREGULAR.get(found["verb"], found["verb"])
        yield f"By whom was {found['what']} {done}?"


def _wh(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    for pattern, other in (
        (r"^Which\b", "What"),
        (r"^Who (did|does|do)\b", r"Whom \1"),
        (r"^In which\b", "In what"),
    ):
        changed = re.sub(pattern, other, question)
        if changed != question:
            yield changed


def _looks(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    yield question[0].lower() + question[1:].rstrip("?")
    yield question.replace(" ", "  ", 2)


def _number(question: str, chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    for found in re.finditer(r"(?<![\w.,])\d{1,3}(?:,\d{3})*(?![\w.,]\d)", question):
        value = int(found[0].replace(",", ""))
        yield question[: found.start()] + str(value + chance.choice((1, 2, 7))) + question[found.end() :]
    for word, other in (
        ("two", "three"),
        ("three", "four"),
        ("one", "two"),
        ("second", "third"),
        ("four", "five"),
    ):
        changed = re.sub(rf"\b{word}\b", other, question, count=1)
        if changed != question:
            yield changed


def _date(question: str, chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    for found in re.finditer(r"\b(1\d{3}|20\d{2})(?=s?\b)", question):
        for years in chance.sample((1, -1, 10, 100), 2):
            yield question[: found.start()] + str(int(found[0]) + years) + question[found.end() :]
    for month in _MONTHS:
        if re.search(rf"\b{month}\b", question) and month != "May":
            yield question.replace(month, chance.choice([other for other in _MONTHS if other != month]))
    yield from _exchanged((("20th", "19th"), ("19th", "18th"), ("18th", "17th"), ("16th", "15th")))(
        question, chance, ()
    )


def _name(question: str, chance: random.Random, names: Sequence[str]) -> Iterator[str]:
    for found in list(_NAME.finditer(question))[:3]:
        others = [
            name
            for name in names
            if name not in question and found[0] not in name and name.split()[0] not in found[0]
        ]
        for other in chance.sample(others, min(2, len(others))):
            yield question[: found.start()] + other + question[found.end() :]


def _negation(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    plain = re.sub(
        r"\b(is|was|were|are|can|could|does|did|do|will|would|has|have) not\b", r"\1", question, count=1
    )
    if plain != question:
        yield plain
    for verb in ("is", "was", "were", "are", "can", "would"):
        changed = re.sub(rf"\b{verb}\b(?! not)", f"{verb} not", question, count=1)
        if changed != question:
            yield changed
            break
    found = re.match(r"(.*?\b(?:did|does|do)) ((?:the |a )?(?:[A-Z][\w'-]* ?)+)([a-z].*)", question)
    if found:
        yield f"{found[1]} {found[2].strip()} not {found[3]}"


def _direction(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    found = re.match(
        r"Who(?:m)? did (?P<name>(?:the )?[\w' -]+?) "
        r"(?P<verb>defeat|beat|marry|support|attack|lead|join|follow|invite|hire|replace|kill|help|fight|teach|sign|"
        r"play)\b(?P<rest>.*)\?$",
        question,
    )
    past = {"beat": "beat", "lead": "led", "fight": "fought", "teach": "taught", "marry": "married"}
    if found:
        verb = found["verb"]
        yield f"Who {past.get(verb, verb.rstrip('e') + 'ed')} {found['name']}{found['rest']}?"
    found = re.match(r"Who (?P<verb>[a-z]+ed) (?P<rest>[A-Z][\w' -]+)\?$", question)
    if found:
        yield f"Who did {found['rest']} {found['verb'][:-2]}?"
    names = list(_NAME.finditer(question))
    if len(names) >= 2 and not re.search(rf"{re.escape(names[0][0])},? (?:and|or|in|at|of) ", question):
        one, other = names[0], names[1]
        between = question[one.end() : other.start()]
        if not re.fullmatch(r",? ?(?:and|or|in|at|on|of)? ?(?:the )?", between) and " in " not in between:
            yield question[: one.start()] + other[0] + between + one[0] + question[other.end() :]
    changed = re.sub(r"\bfrom (\w+) to (\w+)\b", r"from \2 to \1", question)
    if changed != question:
        yield changed


def _asked(question: str, _chance: random.Random, _names: Sequence[str]) -> Iterator[str]:
    for pattern, other in _ASKED:
        changed = re.sub(pattern, other, question)
        if changed != question:
            yield changed
            return


PARAPHRASES: dict[str, Rule] = {
    "frame": _frame, "contract": _contract, "front": _front, "synonym": _exchanged(_SYNONYMS), "year": _year,
    "by_whom": _by_whom, "wh": _wh, "looks": _looks,
}  # fmt: skip
SWAPS: dict[str, Rule] = {
    "number": _number, "date": _date, "unit": _exchanged(_UNITS), "name": _name, "negation": _negation,
    "degree": _exchanged(_DEGREES), "direction": _direction, "asked": _asked, "antonym": _exchanged(_ANTONYMS),
    "property": _exchanged(_PROPERTIES),
}  # fmt: skip


def names_in(text: str) -> list[str]:
    """Names that a text holds, each once, in its order."""
    return list(dict.fromkeys(_NAME.findall(text)))


def pairs(questions: Sequence[tuple[str, int]], texts: Sequence[str], seed: int = 1) -> list[Pair]:
    """questions: each with the number of its document in `texts`. The same seed makes the same pairs."""
    chance, made = random.Random(seed), list[Pair]()
    for question, document in questions:
        names = names_in(texts[document])
        for same, rules in ((True, PARAPHRASES), (False, SWAPS)):
            for name, rule in rules.items():
                for asked in dict.fromkeys(rule(question, chance, names)):
                    if asked != question:
                        made.append(Pair(question, asked, name, same, document))
    return made
