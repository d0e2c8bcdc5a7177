"""Pairs by other rules and other words than those that the guards were written with (perf/cache_pairs.py).

    paraphrase   frame      other words around it: `Does anyone know …`, `Quick question: …`, `… Thanks in advance!`
                 how_to     How do I … -> How can I …, What is the way to …; Is there a way to … -> Can I …
                 short      does not <-> doesn't, What is -> What's
                 spelling   colour <-> color, organise <-> organize, …
                 voice      Who designed X -> Who was X designed by
                 order      If …, what … -> What … if …
                 typed      all in small letters, in capitals, typographic quotes, two question marks
                 synonym    words of one meaning that are on no list of the guards
    swap         negation   never, n't, un-, dis-, with -> without, any -> no
                 unit       litres and gallons, milliseconds and seconds, bytes and bits, a day and a week, …
                 degree     faster and slower, at least and at most, up to and from, how tall and how wide, …
                 date       weekdays, seasons, times of day, decades, in 1893 -> before 1893, years further off
                 direction  who did what to whom, A than B, A to B, upstream and downstream, client and server
                 entity     a name, file, option or version becomes one that another document names
                 asked      other exchanges of the question word
                 modality   must, may, can, should; is, was, will be
                 quantity   all, some, both, each, none, twice
                 antonym    enable and disable, read and write, send and receive, …
                 scope      a condition comes in (`… on Sundays`) or is left out
                 property   other properties than there
                 kin        another word of the same root: build and builder, employer and employee

A rule that makes no other question of a text makes no pair. Nothing here is taken from gateway/caching.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from perf.cache_pairs import Pair


class Draw(NamedTuple):
    """names: that entities are taken from. half: of each table of words, 0 or 1, so that what was looked at in one
    half can be measured with the other; None = the whole."""

    names: Sequence[str]
    half: int | None


Rule = Callable[[str, random.Random, Draw], Iterator[str]]


def _both(text: str) -> list[tuple[str, str]]:
    """`a/b c/d` -> each for the other. `_` stands for a space."""
    couples = [tuple(word.replace("_", " ") for word in couple.split("/")) for couple in text.split()]
    return [(one, other) for one, other in couples] + [(other, one) for one, other in couples]


def _one_way(text: str) -> list[tuple[str, str]]:
    couples = [couple.split("/") for couple in text.replace("_", " ").replace("  ", " ").split(";")]
    return [(one.strip(), other.strip()) for one, other in couples]


def _exchanged(table: Sequence[tuple[str, str]]) -> Rule:
    """One word for another, the first of its kind in the question; a capital stays a capital."""

    def rule(question: str, _chance: random.Random, draw: Draw) -> Iterator[str]:
        for word, other in table:
            if draw.half is not None and zlib.crc32(min(word, other).encode()) % 2 != draw.half:
                continue
            found = re.search(rf"(?<![\w'-]){re.escape(word)}(?![\w'-])", question, re.IGNORECASE)
            if found:
                put = other[0].upper() + other[1:] if found[0][0].isupper() else other
                yield question[: found.start()] + put + question[found.end() :]

    return rule


def _replaced(table: Sequence[tuple[str, str]]) -> Rule:
    """Each pattern that fits, once."""

    def rule(question: str, _chance: random.Random, _draw: Draw) -> Iterator[str]:
        for pattern, other in table:
            changed = re.sub(pattern, other, question, count=1)
            if changed != question:
                yield changed[0].upper() + changed[1:] if question[0].isupper() else changed

    return rule


def _together(*rules: Rule) -> Rule:
    def rule(question: str, chance: random.Random, draw: Draw) -> Iterator[str]:
        for each in rules:
            yield from each(question, chance, draw)

    return rule


# Paraphrases.

_FRAMES = (
    "Does anyone know {}", "Quick question: {}", "Hey there! {}", "{} Thanks in advance!", "I was wondering, {}",
    "Just curious, {}", "Sorry to bother you, but {}", "One more question: {}",
)  # fmt: skip
_SPELLINGS = _both(
    "colour/color organise/organize behaviour/behavior centre/center licence/license metres/meters litres/liters "
    "harbour/harbor catalogue/catalog grey/gray programme/program analyse/analyze neighbour/neighbor cancelled/canceled"
)
_LIKE = _both(
    "shut/close mend/repair buy/purchase shop/store shape/form big/huge rule/regulation guard/protect hold/contain "
    "show/display broken/damaged fast/quick wrong/incorrect right/correct keep/store check/verify"
)


def _frame(question: str, chance: random.Random, _draw: Draw) -> Iterator[str]:
    for frame in chance.sample(_FRAMES, 2):
        yield frame.format(question)


def _order(question: str, _chance: random.Random, _draw: Draw) -> Iterator[str]:
    found = re.match(
        r"(If|When|Before|After|While) ([^,?]+), ((?:what|who|how|where|which|why)\b[^?]+)\?$", question
    )
    if found:
        yield f"{found[3][0].upper()}{found[3][1:]} {found[1].lower()} {found[2]}?"
    found = re.match(r"((?:What|Who|How|Where|Which|Why)\b[^,?]+) (if|while) ([^,?]+)\?$", question)
    if found:
        yield f"{found[2].capitalize()} {found[3]}, {found[1][0].lower()}{found[1][1:]}?"


def _typed(question: str, chance: random.Random, _draw: Draw) -> Iterator[str]:
    yield chance.choice((question.lower(), question.upper(), question.rstrip("?") + "??"))
    yield question.replace("'", "’")


PARAPHRASES: dict[str, Rule] = {
    "frame": _frame,
    "how_to": _replaced(
        [
            (r"^How do I\b", "How can I"), (r"^How can I\b", "How do I"), (r"^How do I\b", "What is the way to"),
            (r"^Is there a way to\b", "Can I"), (r"^How do you\b", "How does one"), (r"^Can I\b", "Is it possible to"),
        ]
    ),
    "short": _replaced(
        [(r"\b([Dd]o|[Dd]oes|[Dd]id|[Ii]s|[Aa]re|[Ww]as) not\b", r"\1n't"),
        (r"\b([Dd]oes|[Dd]o|[Ii]s)n't\b", r"\1 not"),
         (r"^(What|Who|Where|How) is\b", r"\1's")]
    ),
    "spelling": _exchanged(_SPELLINGS),
    "voice": _replaced(
        [(r"^Who (designed|painted|founded|owned|paid|opened|tuned|repaired) (.+)\?$", r"Who was \2 \1 by?")]
    ),
    "order": _order,
    "typed": _typed,
    "synonym": _exchanged(_LIKE),
}  # fmt: skip

# Swaps.

_FIRST = r"Why|Where|When|How|Which \w+|What \w+|Who"
_WEEKDAYS = ["Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays"]
_TIMES = _both(
    "spring/autumn summer/winter morning/evening noon/midnight today/tomorrow day/night Easter/Christmas a.m./p.m. "
    "low_water/high_water dawn/dusk weekdays/holidays"
) + [(one, other) for one, other in zip(_WEEKDAYS, [*_WEEKDAYS[2:], *_WEEKDAYS[:2]], strict=True)]
_SCOPES = (
    "on Windows", "in winter", "for children", "over a slow line", "on Sundays", "after a restart", "in Perl 5.10",
    "for free", "in the north", "by hand",
)  # fmt: skip


def _date(question: str, chance: random.Random, draw: Draw) -> Iterator[str]:
    yield from _exchanged(_TIMES)(question, chance, draw)
    for found in re.finditer(r"\b(1\d{3}|20\d{2})\b(?!s)", question):
        yield (
            question[: found.start()]
            + str(int(found[0]) + chance.choice((-2, 3, 50, -20)))
            + question[found.end() :]
        )
    for found in re.finditer(r"\bin (?=1\d{3}\b|20\d{2}\b)", question):
        for word in chance.sample(("before ", "after ", "since ", "until "), 2):
            yield question[: found.start()] + word + question[found.end() :]


def _direction(question: str, _chance: random.Random, _draw: Draw) -> Iterator[str]:
    name = r"(?:the [a-z]+ [A-Z]\w+|[A-Z]\w+(?: [A-Z]\w+)*)"
    for pattern, changed in (
        (rf"\bfrom ({name}) to ({name})", r"from \2 to \1"),
        (rf"\b({name}) (\w+er) than ({name})", r"\3 \2 than \1"),
        (rf"^What did ({name}) (pay|lend|send|sell|owe|teach) ({name})", r"What did \3 \2 \1"),
        (rf"^Who (succeeded|taught|sued|painted|paid) ({name})", r"Whom did \2 \1"),
        (
            r"\b(convert|turn|translate|change|copy|map|send) ([^?.]+?) (?:in)?to ([^?.]+?)\?$",
            r"\1 \3 to \2?",
        ),
    ):
        found = re.sub(pattern, changed, question, count=1)
        if found != question:
            yield re.sub(r"^(Whom did .+?) (succeed|sue|paint)ed\b", r"\1 \2", found)
    if re.search(r"\bclient\b", question) and re.search(r"\bserver\b", question):
        yield re.sub(r"client|server", lambda m: "server" if m[0] == "client" else "client", question)


def _entity(question: str, chance: random.Random, draw: Draw) -> Iterator[str]:
    for found in list(re.finditer(r"(?<=[a-z,] )[A-Z][\w'-]+(?: [A-Z][\w'-]+)*", question))[:2]:
        others = [name for name in draw.names if name not in question and found[0] not in name]
        for other in chance.sample(others, min(2, len(others))):
            yield question[: found.start()] + other + question[found.end() :]
    for found in re.finditer(r"\b\d+\.\d+\b", question):
        major, minor = found[0].split(".")
        yield question[: found.start()] + f"{major}.{int(minor) + 1}" + question[found.end() :]
    for found in re.finditer(r"(?<=\w)\.(?:py|md|json|yaml|toml|txt|pm|pl|db|c|h)\b", question):
        yield question[: found.start()] + ".ini" + question[found.end() :]


def _scope(question: str, chance: random.Random, _draw: Draw) -> Iterator[str]:
    yield f"{question.rstrip('?. ')} {chance.choice(_SCOPES)}?"
    found = re.match(
        r"(.{18,}?) (?:in|on|for|over|with|at|by|during|without|if|when) [^?]{4,40}\?$", question
    )
    if found:
        yield f"{found[1]}?"


SWAPS: dict[str, Rule] = {
    "negation": _together(
        _replaced(
            [
                (rf"^({_FIRST}) (do|does|did|is|are|was|were|can)\b(?!n't| not)", r"\1 \2n't"),
                (r"\b(is|was|are|were|can|may|must|should|will)\b(?! not|n't| never)", r"\1 never"),
                (r"\b(Can|Does|Do|Is|Are|Was|Must|May) (\w+|the \w+ \w+) (?!not\b)", r"\1 \2 never "),
            ]
        ),
        _exchanged(_both("with/without any/no available/unavailable reachable/unreachable used/unused "
                         "supported/unsupported "
                         "known/unknown allowed/disallowed valid/invalid necessary/unnecessary published/unpublished "
                         "encrypted/unencrypted named/unnamed defined/undefined ever/never")),
    ),
    "unit": _exchanged(_both(
        "litres/gallons Celsius/Fahrenheit grams/ounces megabytes/gigabytes bytes/bits milliseconds/seconds "
        "tokens/characters "
        "lines/words crowns/florins acres/hectares tonnes/kilograms a_second/a_minute a_day/a_week "
        "metres/fathoms knots/miles "
        "percent/permille hour/fortnight pages/chapters cores/threads GB/MB ms/s rounds/minutes steps/metres"
    )),
    "degree": _exchanged(_both(
        "faster/slower heavier/lighter taller/shorter deeper/shallower cheaper/dearer at_least/at_most wider/narrower "
        "warmer/colder nearest/farthest newest/oldest quickest/slowest strictest/loosest steeper/flatter "
        "louder/quieter "
        "thicker/thinner harder/softer earliest/latest strongest/weakest up_to/from"
    ) + _one_way("tall/wide;deep/wide;long/wide;far/fast;often/soon;soon/often;heavy/old;large/old;big/heavy")),
    "date": _date,
    "direction": _together(_direction, _exchanged(_both(
        "upstream/downstream into/out_of inbound/outbound clockwise/anticlockwise import/export leave_from/arrive_at "
        "parent/child forwards/backwards ascending/descending inwards/outwards"
    ))),
    "entity": _entity,
    "asked": _replaced([
        (r"^How do I\b", "When do I"), (r"^What is\b", "Who is"), (r"^Why\b", "When"),
        (r"^Where\b", "Why"), (r"^Who\b", "Where"),
        (r"^When\b", "Why"), (r"^How long\b", "How far"), (r"^How (tall|deep|large|heavy)\b", "How old"),
        (r"^Is\b", "Why is"),
        (r"^Does\b", "Where does"), (r"^Can\b", "Why can"), (r"^Which\b", "Whose"), (r"^What\b", "Whose"),
        (r"^How can I\b", "Why can I"),
    ]),
    "modality": _exchanged(_one_way(
        "must/may;may/must;can/should;should/must;have to/want to;need to/want to;will/did;is/was;are/were;was/will be;"
        "does/did;do I/did I;has/had"
    )),
    "quantity": _exchanged(_one_way(
        "all/some;every/hardly any;both/one of;each/the first;any/all;several/all;a few/all;one/none;"
        "a/every;many/few;most/half"
    )),
    "antonym": _exchanged(_both(
        "enable/disable read/write upload/download add/remove lock/unlock input/output row/column client/server "
        "uppercase/lowercase local/remote sort/shuffle encode/decode push/pull install/uninstall empty/full "
        "inside/outside "
        "front/back top/bottom send/receive sends/receives join/split expand/collapse import/export "
        "teacher/pupil buyer/seller "
        "internal/external compress/decompress on/off show/hide guests/hosts arrive/depart hot/cold "
        "begin/cease lend/borrow"
    )),
    "scope": _scope,
    "property": _exchanged(_one_way(
        "default/maximum;name/version;format/licence;port/address;difference between/similarity between;keeper/owner;"
        "architect/builder;time/place;file/directory;string/number;list/queue;array/hash;variable/function;"
        "module/program;"
        "limit/default;setting/metric;key/certificate;memory/disk;answer/question;process/thread;request/response;"
        "speed/price;weight/age;roof/floor;crew/cargo;ticket/meal;bell/clock;length/age;command/option;test/example"
    )),
    "kin": _exchanged(_both(
        "design/designer build/builder user/usage process/processor generation/generator employer/employee "
        "operate/operator "
        "host/hosting index/indexer train/trainer keep/keeper organ/organisation print/printer "
        "paint/painter owner/ownership "
        "account/accountant complete/completion product/producer pay/payer lend/lender teach/teacher compile/compiler"
    )),
}  # fmt: skip


def heldout_pairs(questions: Sequence[tuple[str, int]], draw: Draw, seed: int) -> list[Pair]:
    """questions: each with its document. The same seed makes the same pairs."""
    chance, made = random.Random(seed), list[Pair]()
    for question, document in questions:
        for same, rules in ((True, PARAPHRASES), (False, SWAPS)):
            for name, rule in rules.items():
                for asked in dict.fromkeys(rule(question, chance, draw)):
                    if asked != question:
                        made.append(Pair(question, asked, name, same, document))
    return made
