"""Questions and texts for the held-out check of the guards, none of which the guards were written with.

documentation  the project's own labelled questions (perf/eval), over its pages in pieces
almanac        a few questions on each of some invented places, made by rules from facts; the texts say the same facts
faq            the headings of pod files that are questions, over what stands below them, wherever such files lie
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PAGES = Path(__file__).parents[1] / "eval" / "documentation.json"
PIECE_CHARS = 900

Questions = list[tuple[str, int]]


class Texts(NamedTuple):
    """questions: each with the number of its text."""

    texts: list[str]
    questions: Questions


def _pieces(page: str) -> list[str]:
    pieces = [""]
    for block in re.split(r"\n\s*\n", page):
        if pieces[-1] and len(pieces[-1]) + len(block) > PIECE_CHARS:
            pieces.append("")
        pieces[-1] += block.strip() + "\n"
    return [piece for piece in pieces if piece.strip()]


def documentation(path: Path = PAGES) -> Texts:
    raw = json.loads(path.read_text())
    pages = {page["id"]: _pieces((path.parent / page["path"]).read_text()) for page in raw["documents"]}
    texts = [piece for pieces in pages.values() for piece in pieces]
    questions = []
    for row in raw["questions"]:
        answer = (row["answers"] or [""])[0].lower()
        place = next((n for n, text in enumerate(texts) if answer and answer in text.lower()), 0)
        questions.append((row["question"], place))
    return Texts(texts, questions)


def faq(files: Sequence[Path]) -> Texts:
    texts, questions = list[str](), Questions()
    for file in files:
        for part in re.split(r"^=head2 ", file.read_text(errors="replace"), flags=re.MULTILINE)[1:]:
            heading, _, rest = part.partition("\n")
            body = re.split(r"^=head1 ", rest, flags=re.MULTILINE)[0]
            if heading.strip().endswith("?") and body.strip():
                questions.append((_plain(heading).strip(), len(texts)))
                texts += _pieces(_plain(body))[:2]
    return Texts(texts, questions)


def _plain(pod: str) -> str:
    pod = re.sub(r"[BCFIXL]<(?:[^<>|]*\|)?([^<>]*)>", r"\1", pod)
    return re.sub(r"^=\w+.*$", "", pod, flags=re.MULTILINE)


_KINDS = ("lighthouse", "ferry", "museum", "weir", "observatory", "mill", "chapel", "bridge")
_FIRSTS = (
    "Ana",
    "Bero",
    "Cita",
    "Dorun",
    "Elka",
    "Fenno",
    "Gessa",
    "Hilvar",
    "Isko",
    "Jorle",
    "Kasim",
    "Lunet",
)
_LASTS = ("Arvik", "Brandal", "Corvo", "Dessin", "Eltham", "Farrow", "Gotze", "Hallin", "Ibarra", "Jensun")
_TOWNS = (
    "Aldermoor", "Brixholm", "Carnby", "Dunleth", "Eskmouth", "Fallow Bay", "Grimstad", "Hythe Cross", "Inverloch",
    "Jarrow Sound", "Kelding", "Lowmere", "Marfleet", "Norwold", "Oxness", "Penrow", "Quenby", "Rudmere",
)  # fmt: skip
_DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays")
_STONES = ("granite", "limestone", "oak", "brick", "slate")


def almanac(num_places: int, seed: int) -> Texts:
    """The same seed makes the same."""
    chance, texts, questions = random.Random(seed), list[str](), Questions()
    towns = chance.sample(_TOWNS, len(_TOWNS))
    for number in range(num_places):
        kind, town = _KINDS[number % len(_KINDS)], towns[number % len(towns)]
        facts = _facts(chance, f"{kind} {town}", town, towns)
        for sentence, asked in facts:
            questions.append((asked, len(texts)))
            if sentence:
                texts.append(sentence)
    return Texts(texts, questions)


def _facts(chance: random.Random, place: str, town: str, towns: Sequence[str]) -> list[tuple[str, str]]:
    """Seven of many: a sentence, and what it answers."""
    one, two, three = (f"{chance.choice(_FIRSTS)} {last}" for last in chance.sample(_LASTS, 3))
    far = chance.choice([each for each in towns if each != town])
    year, size = chance.randint(1760, 1990), chance.randint(4, 90)
    day, season, stone = chance.choice(_DAYS), chance.choice(("spring", "winter")), chance.choice(_STONES)
    all_of_them = [
        (f"The {place} was opened in {year} by {one}.", f"Who opened the {place} in {year}?"),
        (f"It took {size} months and {size * 40} crowns to finish the {place}.",
         f"How many crowns did it take to finish the {place}?"),
        (f"The {place} is {size} metres tall, and its roof is of {stone}.", f"How tall is the {place} in metres?"),
        (f"{two} succeeded {one} as keeper of the {place} in {year + 12}.",
         f"Who succeeded {one} as keeper of the {place}?"),
        (f"On {day} the {place} is shut until noon.", f"Until what time is the {place} shut on {day}?"),
        (f"A boat from {town} to {far} takes {size} minutes at low water.",
         f"How long does a boat from {town} to {far} take at low water?"),
        (f"{three} paid {two} {size * 7} crowns for the old bell of the {place}.",
         f"What did {three} pay {two} for the old bell of the {place}?"),
        (f"In {season} the {place} lets {size * 3} litres a second through.",
         f"How many litres a second does the {place} let through in {season}?"),
        (f"Guests of the {place} must hand in sticks at the entrance.",
         f"What must guests of the {place} hand in at the entrance?"),
        (f"The tower of {town} is heavier than the tower of {far}.",
         f"Is the tower {town} heavier than the tower {far}?"),
        (f"{one} taught {three} to repair the lamp of the {place}.",
         f"Who taught {three} to repair the lamp of the {place}?"),
        (f"The {place} is made of {stone}, with an inside of oak.", f"What is the inside of the {place} made of?"),
        (f"The {place} is supported with gifts of at least {size} florins.",
         f"With gifts of at least how many florins is the {place} supported?"),
        (f"If the tide is late, the bell of the {place} is rung twice.",
         f"If the tide is late, how often is the bell of the {place} rung?"),
    ]  # fmt: skip
    return chance.sample(all_of_them, 7)
