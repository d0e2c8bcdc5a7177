"""A question's misspelt words, read as what the texts at hand call it. Pure.

Only a word that no text holds in any form is touched, and only where the texts hold one that differs by a slip of the
finger: a letter too many, too few, another, or two swapped. Numbers are never corrected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.language.pieces import passage_words, start_of
from gateway.language.question import Question
from gateway.types import Passage

MIN_CHARS = 5  # of a stem: in a shorter one, another letter is another word
MAX_TERMS = 4  # that are corrected: a question in another language than the texts has many


def respelled(question: Question, passages: Sequence[Passage]) -> Question:
    """The question with such terms replaced. It stays as it is where there are none."""
    held = [passage_words(passage.text, passage.heading) for passage in passages]
    missing = [
        term
        for term in question.terms
        if len(term) >= MIN_CHARS
        and not any(char.isdigit() for char in term)
        and not any(term in words.stems or start_of(term) in words.starts for words in held)
    ]
    if not missing or len(missing) > MAX_TERMS:
        return question
    vocabulary = frozenset().union(*(words.stems for words in held))
    meant = {term: near for term in missing if (near := _nearest(term, vocabulary))}
    return _replaced(question, meant) if meant else question


def _nearest(term: str, vocabulary: Iterable[str]) -> str:
    """The word of one slip's distance, or empty; the first in the alphabet of several."""
    near = (word for word in vocabulary if len(word) >= MIN_CHARS - 1 and is_slip(term, word))
    return min(near, default="")


def is_slip(one: str, other: str) -> bool:
    """Whether two different words are one insertion, deletion, substitution or swap of neighbours apart.

    The first letter is seldom mistaken, and must agree.
    """
    if abs(len(one) - len(other)) > 1 or one[:1] != other[:1] or one == other:
        return False
    at = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    left, right = one[at:], other[at:]
    if len(left) == len(right):
        return left[1:] == right[1:] or (left[:2] == right[:2][::-1] and left[2:] == right[2:])
    return left[1:] == right if len(left) > len(right) else left == right[1:]


def _replaced(question: Question, meant: dict[str, str]) -> Question:
    def read(term: str) -> str:
        return meant.get(term, term)

    return question._replace(
        terms=tuple(dict.fromkeys(map(read, question.terms))),
        stems=frozenset(map(read, question.stems)),
        forms={read(term): forms for term, forms in question.forms.items()},
        pairs=tuple((read(one), read(other)) for one, other in question.pairs),
        entities=frozenset(map(read, question.entities)),
    )
