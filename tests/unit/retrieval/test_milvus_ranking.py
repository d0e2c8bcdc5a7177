from __future__ import annotations

from gateway.retrieval.milvus_ranking import ranked
from gateway.retrieval.milvus_rows import lexical_terms
from gateway.types import Passage


def passage(chunk_id: int, text: str, *, score: float, lexical: float = 0.0) -> Passage:
    return Passage(
        chunk_id=chunk_id, collection_id="vs_1", file_id=f"file-{chunk_id}", filename="a.md", ordinal=0, heading="",
        start=0, end=len(text), text=text, score=score, lexical=lexical,
    )  # fmt: skip


def order(
    *passages: Passage, question: str, ranking: str = "hybrid", floor: float | None = 0.0
) -> list[Passage]:
    found = {each.chunk_id: each for each in passages}
    return ranked(found, lexical_terms(question), ranking, floor=floor)


HERON = passage(1, "The heron nests in reeds.", score=0.5)
OTTER = passage(2, "The otter eats fish.", score=0.4, lexical=3.0)


def ids(passages: list[Passage]) -> list[int]:
    return [each.chunk_id for each in passages]


def test_words_outweigh_a_small_difference_in_cosine() -> None:
    assert ids(order(HERON, OTTER, question="What do otters eat?")) == [2, 1]
    assert ids(order(HERON, OTTER, question="What do otters eat?", ranking="dense")) == [1, 2]


def test_a_lexical_order_gives_only_what_shares_a_word() -> None:
    assert ids(order(HERON, OTTER, question="otter", ranking="lexical")) == [2]


def test_a_chunk_with_all_words_has_the_full_share_and_one_with_half_of_them_has_not() -> None:
    whole = passage(1, "An otter eats.", score=0.0, lexical=6.0)
    half = passage(2, "An otter.", score=0.0, lexical=3.0)
    found = order(whole, half, question="otter eats", ranking="lexical")
    assert [each.rank_score for each in found] == [1.0, 0.5]
    alone = order(half, question="otter eats", ranking="lexical")
    assert alone[0].rank_score == 0.5  # the best of its question, and still no full match


def test_what_the_lexical_search_did_not_give_is_estimated_below_what_it_gave() -> None:
    given = passage(1, "An otter eats fish.", score=0.1, lexical=2.0)
    missed = passage(2, "Otter, otter and fish to eat.", score=0.1)
    found = {each.chunk_id: each for each in order(given, missed, question="otter eats fish", floor=1.5)}
    assert found[2].lexical == 1.5
    exhausted = {each.chunk_id: each for each in order(given, missed, question="otter eats fish", floor=0.0)}
    assert exhausted[2].lexical == 0.0


def test_without_a_lexical_search_shared_words_are_counted() -> None:
    found = order(HERON, passage(2, "The otter eats fish.", score=0.4), question="otter eats", floor=None)
    assert ids(found) == [2, 1]
    assert found[0].lexical == 2.0


def test_a_question_without_words_goes_by_the_cosine() -> None:
    assert ids(order(OTTER, HERON, question="of the")) == [1, 2]


def test_ties_go_to_the_lower_chunk_and_copies_are_given_once() -> None:
    first, second = passage(3, "Same text.", score=0.5), passage(2, "Same text.", score=0.5)
    other = passage(1, "Other text altogether.", score=0.5)
    assert ids(order(first, second, other, question="")) == [1, 2]


def test_nothing_found_is_nothing_ranked() -> None:
    assert order(question="otter") == []
