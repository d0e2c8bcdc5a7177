"""What a question and its passages say about the work that an answer takes. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gateway.language.pieces import candidates
from gateway.language.question import read
from gateway.language.support import log_odds_of, support_of
from gateway.types import Passage

LONG_QUESTION_WORDS = 22
MAX_READ_CHARS = 4_000  # of a question: cues stand in the question, not in a document pasted after it
SURE = 0.0  # log-odds of the best passage, from where on its text need not be read again
THIN = 0.0  # log-odds that the passages hold an answer, below which a quoting tier would say that they do not

_COMPOUND = re.compile(
    r"\b(compare|difference|differ|versus|vs|why|explain|how does|how do|relationship|both"
    r"|and (?:how|why|what|who|when|where))\b",
    re.IGNORECASE,
)
_OPEN = re.compile(
    r"\b(?:summari[sz]e|outline|overview|in your own words|pros and cons|advantages and disadvantages|step by step"
    r"|list all|zusammenfass\w*|vergleiche)\b|^\W*(?:please )?(?:write|draft|describe|fasse|erkläre)\b",
    re.IGNORECASE,
)


class Complexity(NamedTuple):
    """share: 0 = one fact, 1 = an essay. why: as the receipt says it."""

    share: float
    why: str


def complexity_of(question: str) -> Complexity:
    """From the question alone. The cues add up; the first that was found names the reason."""
    asked = question[:MAX_READ_CHARS]
    found: list[Complexity] = []
    if match := _OPEN.search(asked):
        found.append(Complexity(0.8, f"the question asks for a text of its own ({match[0].lower()!r})"))
    if match := _COMPOUND.search(asked):
        found.append(Complexity(0.5, f"the question asks for more than one fact ({match[0].lower()!r})"))
    if len(asked.split()) > LONG_QUESTION_WORDS:
        found.append(Complexity(0.5, "a long question"))
    if asked.count("?") > 1:
        found.append(Complexity(0.5, "several questions in one"))
    if not found:
        return Complexity(0.0, "a short question for one fact")
    return Complexity(min(1.0, max(each.share for each in found) + 0.2 * (len(found) - 1)), found[0].why)


def is_thin(question: str, passages: Sequence[Passage]) -> bool:
    """Whether passages most likely hold no answer, as the quoting reader would judge it.

    Cheap where the search is sure of its best passage; else the passages are read, about a millisecond.
    """
    if not passages:
        return True
    if max(map(log_odds_of, passages)) >= SURE:
        return False
    asked, found = read(question), candidates(passages)
    if not asked.terms or not found:
        return True
    return support_of(asked, found, passages) < THIN
