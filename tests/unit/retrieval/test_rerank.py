from __future__ import annotations

import msgspec
import pytest

from gateway.retrieval.rerank import NUM_KEPT, NUM_READ, rerank_row, reranked
from gateway.types import Passage, Scope

LOCK = "The lock by the mill was repaired in 1952. Ships of up to 40 metres fit into it."
MILL = "The mill ground flour. A lock stands by it, and ships wait there."
PARK = "The park has two ponds. Dogs must be kept on a lead."


def passage(text: str, *, number: int = 0, score: float = 0.5, rank: float | None = None) -> Passage:
    """Each in a file of its own, so that none are neighbours."""
    return Passage(
        chunk_id=number, collection_id="c", file_id=f"f{number}", filename="f.md", ordinal=0, heading="",
        start=0, end=len(text), text=text, score=score, rank_score=score if rank is None else rank,
    )  # fmt: skip


def order(question: str, *passages: Passage, k: int = 5) -> list[int]:
    return [each.chunk_id for each in reranked(question, passages, k)]


def test_the_passage_whose_sentence_says_it_comes_before_a_nearer_one() -> None:
    found = order(
        "When was the lock repaired?",
        passage(MILL, number=1, score=0.55),
        passage(LOCK, number=2, score=0.5),
        passage(PARK, number=3, score=0.3),
    )
    assert found == [2, 1, 3]


def test_a_misspelt_word_is_read_as_the_texts_spell_it() -> None:
    near, right = passage(MILL, number=1, score=0.52), passage(LOCK, number=2, score=0.5)
    assert order("When was it repiared?", near, right)[0] == 2


def test_rank_scores_are_chances_in_falling_order() -> None:
    found = reranked(
        "When was the lock repaired?", [passage(t, number=i) for i, t in enumerate((MILL, LOCK, PARK))], 5
    )
    scores = [each.rank_score for each in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 < score < 1.0 for score in scores)
    assert [each.score for each in found] == [0.5] * 3


def test_what_the_search_liked_best_is_not_lost() -> None:
    best = passage("Nothing in common with it.", number=0, score=0.2, rank=0.2)
    others = [passage(LOCK + f" Part {n}.", number=n, score=0.2, rank=0.2) for n in range(1, 8)]
    found = order("When was the lock repaired?", best, *others, k=5)
    assert found[-1] == 0
    assert len(found) == len(set(found)) == 5


def test_with_few_wanted_the_best_evidence_alone_counts() -> None:
    best = passage("Nothing in common with it.", number=0, score=0.2, rank=0.2)
    others = [passage(LOCK + f" Part {n}.", number=n, score=0.2, rank=0.2) for n in range(1, 8)]
    assert 0 not in order("When was the lock repaired?", best, *others, k=NUM_KEPT)


def test_candidates_beyond_those_that_are_read_keep_their_order() -> None:
    many = [passage(PARK, number=n, score=0.5 - n / 100) for n in range(NUM_READ + 4)]
    found = order("How many ponds are there?", *many, k=20)
    assert found[-4:] == [NUM_READ, NUM_READ + 1, NUM_READ + 2, NUM_READ + 3]


def test_neighbours_become_one_passage() -> None:
    text = LOCK + " " + PARK
    parts = [
        msgspec.structs.replace(
            passage(text[start:end], number=ordinal), file_id="f", ordinal=ordinal, start=start, end=end
        )
        for ordinal, (start, end) in enumerate([(0, len(LOCK) + 5), (len(LOCK) + 1, len(text))])
    ]
    (merged,) = reranked("When was the lock repaired?", parts, 5)
    assert (merged.text, merged.chunk_ids) == (text, [0, 1])


@pytest.mark.parametrize(
    "question", ["", "?!", "the of and", "\x00", "x" * 40_000], ids=["empty", "marks", "stop", "nul", "long"]
)
def test_any_question_gives_all_candidates(question: str) -> None:
    given = [passage(text, number=n) for n, text in enumerate((MILL, "", "...", PARK))]
    assert sorted(order(question, *given, k=10)) == [0, 1, 2, 3]


def test_no_candidates_no_passages() -> None:
    assert reranked("When?", [], 5) == []


def row(ranking: str, *passages: Passage, k: int = 5) -> list[int]:
    scope = msgspec.json.encode({"tenant_id": "t", "k": k, "ranking": ranking})
    found = rerank_row(b"When was the lock repaired?", msgspec.json.encode(passages), scope)
    return [each.chunk_id for each in msgspec.json.decode(found, type=list[Passage])]


@pytest.mark.parametrize("ranking", ["dense", "lexical"])
def test_a_scope_with_another_ranking_keeps_the_searchs_order(ranking: str) -> None:
    given = passage(PARK, number=3), passage(MILL, number=1, score=0.4), passage(LOCK, number=2, score=0.3)
    assert row(ranking, *given, k=2) == [3, 1]


def test_without_reranking_the_search_decides_and_scores_are_still_chances() -> None:
    """The better evidence stays second; the reader can go by the scores as by those of a reranked list."""
    candidates = [passage(MILL, number=1, rank=0.55), passage(LOCK, number=2, rank=0.35)]
    scope = Scope(tenant_id="t", rerank=False)
    row = rerank_row(
        b"When was the lock repaired?", msgspec.json.encode(candidates), msgspec.json.encode(scope)
    )
    found = msgspec.json.decode(row, type=list[Passage])
    assert [each.chunk_id for each in found] == [1, 2]
    first, second = (each.rank_score for each in found)
    assert 0.5 < first < 1.0
    assert 0.0 < second < 0.5
    assert msgspec.json.decode(msgspec.json.encode(Scope(tenant_id="t"))) == {"tenant_id": "t"}


def test_a_row_on_the_wire_is_reranked_and_cut() -> None:
    assert row("hybrid", passage(PARK, number=3), passage(LOCK, number=2), k=1) == [2]


@pytest.mark.parametrize(
    "wrong",
    [
        (b"\xff", b"[]", msgspec.json.encode(Scope(tenant_id="t"))),
        (b"Why?", b"[{}]", msgspec.json.encode(Scope(tenant_id="t"))),
        (b"Why?", b"[", msgspec.json.encode(Scope(tenant_id="t"))),
        (b"Why?", b"[]", b"{}"),
    ],
    ids=["text", "passages", "json", "scope"],
)
def test_a_bad_row_is_refused_in_one_sentence(wrong: tuple[bytes, bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"^The text, the candidates or the scope is not valid: .+\.$"):
        rerank_row(*wrong)
