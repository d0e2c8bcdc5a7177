"""German questions: which they are, the words in them that say nothing, and what they ask for.

Told from English by words that English lacks, because `die` and `war` are words of both.
"""

from __future__ import annotations

import re

from gateway.language.terms import word_set

_ASKING = "wann|wer|wen|wem|wie|warum|wieso|weshalb|welche[rsnm]?|wieviele?|wohin|woher|worum|wof[üu]r"
_COMMON = "und|ist|sind|nicht|eine?[rnms]?|f[üu]r|der|das|mit|von|zum|zur|ich|wir|kann|muss|wird|werden|gibt"
_ASKED = re.compile(rf"\b(?:{_ASKING})\b", re.IGNORECASE)
_SAID = re.compile(rf"\b(?:{_COMMON})\b", re.IGNORECASE)

STOP_WORDS = word_set(
    "wann wer wen wem was wie warum wieso weshalb welche welcher welches welchen welchem wieviel wieviele wo wohin "
    "woher worum wofür viel viele lange und oder ist sind war waren nicht ein eine einer eines einem einen der die das "
    "den dem des für mit von vom zu zum zur im in an am auf bei aus über unter nach vor um ich du er sie es wir ihr "
    "man mir mich sich mein meine meinem meinen meiner kann können muss müssen darf dürfen soll sollen wird werden "
    "wurde wurden hat haben habe hatte gibt als auch noch nur so dass wenn ob bitte sag sage nenne erkläre denn"
)

# First match wins. The names are those of question.Wanted.
_CUES = tuple(
    (wanted, re.compile(cue, re.IGNORECASE))
    for wanted, cue in (
        ("date", r"\bwann\b|\bwelche[mnrs]? (?:jahr|tag|monat|datum|jahrhundert)"),
        ("share", r"\bprozent\b|\bwelcher anteil\b"),
        ("money", r"\bwie ?viel.{1,60}(?:kostet|kosten|geld)\b|\bwas kostet\b"),
        ("number", r"\bwie ?(?:viele?[rn]?|lange?|oft|hoch|alt|weit|groß|schnell|schwer)\b"),
        ("reason", r"\b(?:warum|wieso|weshalb)\b"),
        ("manner", r"^\W*wie\b"),
    )
)


def is_german(text: str) -> bool:
    return bool(_ASKED.search(text)) or len(set(map(str.lower, _SAID.findall(text)))) >= 2


def wanted(text: str) -> str:
    """What a German question asks for; people and places are not told from other things, since all are capitalised."""
    return next((wanted for wanted, cue in _CUES if cue.search(text)), "any")
