"""When passages are taken to hold an answer: what raises that and what does not."""

from __future__ import annotations

from gateway.language.pieces import candidates
from gateway.language.question import read
from gateway.language.support import sentence_rows, sentence_scores, support_of
from gateway.types import Passage

ASKED = "When was the Lune bridge opened by Anna Berg?"
ANSWER = "Anna Berg opened the Lune bridge in 1901."
ASIDE = "Boats pass below it in summer."


def passage(text: str, rank: float = 0.7) -> Passage:
    return Passage(
        chunk_id=1, collection_id="c", file_id="f", filename="f.md", ordinal=0, heading="",
        start=0, end=len(text), text=text, rank_score=rank, score=0.5,
    )  # fmt: skip


def support(*passages: Passage) -> float:
    return support_of(read(ASKED), candidates(passages), passages)


def test_a_sentence_that_stands_out_supports_more_than_one_among_its_like() -> None:
    like = "Anna Berg closed the Lune bridge in 1944."
    assert support(passage(f"{ANSWER} {ASIDE}")) > support(passage(f"{ANSWER} {like}"))


def test_a_copy_of_the_best_sentence_takes_nothing_from_it() -> None:
    one, two = passage(f"{ANSWER} {ASIDE}"), passage(f"{ANSWER} {ASIDE} {ANSWER}")
    other = passage(f"{ANSWER} {ASIDE} Anna Berg closed the Lune bridge in 1944.")
    assert support(two) > support(other)
    assert abs(support(two) - support(one)) < 1.0


def test_names_that_the_best_passage_lacks_speak_against_an_answer() -> None:
    elsewhere = passage("Anna Berg lived at the Lune.", 0.01)
    named = passage(f"{ANSWER} {ASIDE}")
    unnamed = passage(f"The bridge was opened in 1901. {ASIDE}")
    assert support(named, elsewhere) > support(unnamed, elsewhere) + 0.5


def test_reading_more_passages_changes_nothing() -> None:
    five = [passage(f"{ANSWER} {ASIDE}"), *(passage(f"Mill {n} grinds wheat.", 0.1) for n in range(4))]
    more = [*five, *(passage(f"The Lune bridge has {n} arches.", 0.01) for n in range(7))]
    assert support(*more) == support(*five)


def test_known_scores_give_the_same_as_none() -> None:
    passages = [passage(f"{ANSWER} {ASIDE}")]
    asked, found = read(ASKED), candidates(passages)
    scores = sentence_scores(sentence_rows(asked, found, passages))
    assert support_of(asked, found, passages, scores) == support_of(asked, found, passages)
