"""Words beside vectors: what each ranking finds, how they are fused, and that no tenant moves another's scores."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.retrieval.fusion import LEXICAL_WEIGHT, rank_scores
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.lexical import MAX_QUERY_TERMS, LexicalIndex, Words, query_terms
from gateway.retrieval.passages import NUM_CANDIDATES
from gateway.storage.changes import RemovalRow, Tail
from gateway.types import Scope
from tests.unit.retrieval.chunks import DIM, ask, axis, chunk, found, index_of, removal, towards

TEXTS = {
    1: "The lighthouse of Hook Head was built by monks.",
    2: "Ships pay harbour dues at the customs house.",
    3: "A keeper lives in the lighthouse all year.",
    4: "Error code XK-4711 means that the pump is dry.",
}


@pytest.fixture
def index() -> CorpusIndex:
    return index_of(*[chunk(number, axis(number), text=text) for number, text in TEXTS.items()])


def test_rare_word_finds_a_chunk_that_the_vector_does_not(index: CorpusIndex) -> None:
    assert found(index, axis(2), "what is XK-4711?", ranking="hybrid", k=2) == [2, 4]
    assert found(index, axis(0), "what is XK-4711?", ranking="hybrid", k=1) == [4]


def test_lexical_ranking_gives_only_chunks_with_the_words(index: CorpusIndex) -> None:
    assert set(found(index, axis(2), "Who built lighthouses?", ranking="lexical")) == {1, 3}
    assert found(index, axis(2), "Who built lighthouses?", ranking="lexical")[0] == 1
    assert found(index, axis(2), "zebra", ranking="lexical") == []


def test_dense_ranking_pays_no_heed_to_words(index: CorpusIndex) -> None:
    passages = ask(index, axis(2), "XK-4711", ranking="dense")
    assert passages[0].chunk_id == 2
    assert {passage.lexical for passage in passages} == {0.0}


def test_word_only_hit_has_its_true_cosine_and_vector_only_hit_its_true_bm25(index: CorpusIndex) -> None:
    by_id = {p.chunk_id: p for p in ask(index, towards(4, 0.6), "keeper of the lighthouse", ranking="hybrid")}
    assert by_id[4].score == pytest.approx(0.6, abs=1e-5)
    assert by_id[4].lexical == 0.0
    assert by_id[3].score == pytest.approx(0.8, abs=1e-5)
    assert by_id[3].lexical > by_id[1].lexical > 0


def test_order_follows_the_rank_score(index: CorpusIndex) -> None:
    passages = ask(index, axis(1), "customs house of the monks", ranking="hybrid")
    ranks = [passage.rank_score for passage in passages]
    assert ranks == sorted(ranks, reverse=True)
    assert all(0.0 <= rank <= 1.0 for rank in ranks)


def test_words_are_found_in_every_inflection(index: CorpusIndex) -> None:
    assert found(index, axis(0), "paying ship", ranking="lexical") == [2]


def test_heading_counts_as_words_of_its_chunk() -> None:
    import msgspec

    row = msgspec.structs.replace(chunk(1, axis(0), text="It is done on Mondays."), heading="Guide > Backups")
    assert found(index_of(row, chunk(2, axis(0))), axis(5), "backup", ranking="lexical") == [1]


def test_text_in_a_script_without_spaces_is_found_by_a_part_of_it() -> None:
    index = index_of(chunk(1, axis(0), text="東京都の水門は潮を止める"), chunk(2, axis(0), text="大阪の橋"))
    assert found(index, axis(5), "水門", ranking="lexical") == [1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "?!",
        "\x00\x00",
        "the of and",
        "AND OR NOT",
        'body:"x" OR table:1',
        "a" * 5000,
        "é" * 32_000,
    ],
    ids=["empty", "blank", "marks", "nul", "stop-words", "operators", "syntax", "one-word", "long"],
)
def test_any_text_is_a_question(text: str, index: CorpusIndex) -> None:
    assert found(index, axis(2), text, ranking="hybrid", k=1) == [2]


def test_long_question_is_searched_by_its_rarest_words(index: CorpusIndex) -> None:
    text = " ".join(f"word{number}" for number in range(500)) + " lighthouse"
    assert len(query_terms(text)) > MAX_QUERY_TERMS
    assert found(index, axis(2), text, ranking="hybrid", k=1) == [2]


def test_other_tenants_do_not_move_what_a_word_is_worth() -> None:
    mine = [chunk(number, axis(number), text=text) for number, text in TEXTS.items()]
    theirs = [
        chunk(100 + number, axis(0), tenant="other", text=f"Lighthouse number {number}.")
        for number in range(50)
    ]
    alone = ask(index_of(*mine), axis(0), "lighthouse keeper", ranking="hybrid")
    beside = ask(index_of(*mine, *theirs), axis(0), "lighthouse keeper", ranking="hybrid")
    assert [p.chunk_id for p in alone] == [p.chunk_id for p in beside]
    # The average length of a chunk, which all tenants share, moves both alike.
    assert alone[0].lexical / alone[1].lexical == pytest.approx(
        beside[0].lexical / beside[1].lexical, rel=0.05
    )
    assert all(p.chunk_id < 100 for p in beside)


def test_word_is_as_rare_as_in_all_collections_of_the_question_together() -> None:
    rows = [chunk(n, axis(0), text=f"lighthouse {n}", collection="a") for n in range(1, 9)]
    rows += [
        chunk(20, axis(0), text="lighthouse 20", collection="b"),
        chunk(21, axis(1), text="x", collection="b"),
    ]
    found_in = {
        p.collection_id: p.lexical for p in ask(index_of(*rows), axis(0), "lighthouse", ranking="lexical")
    }
    assert found_in["a"] == pytest.approx(found_in["b"], rel=1e-3)


def test_at_least_the_candidates_are_given_however_small_k_is() -> None:
    rng = np.random.default_rng(0)
    index = index_of(*[chunk(number, rng.standard_normal(DIM)) for number in range(1, 101)])
    for ranking in ("dense", "hybrid"):
        assert len(ask(index, axis(0), "chunk", k=1, ranking=ranking)) == NUM_CANDIDATES
        assert len(ask(index, axis(0), "chunk", k=40, ranking=ranking)) == 40


def test_removed_chunk_is_found_by_none_of_its_words(index: CorpusIndex) -> None:
    index.apply(
        Tail(2, [chunk(9, axis(6), text="New keeper.", epoch=2)], [RemovalRow(2, "t", "c", "f")], False)
    )
    assert found(index, axis(2), "lighthouse keeper", ranking="hybrid") == [9]
    index.apply(removal(3))
    assert found(index, axis(2), "lighthouse keeper", ranking="hybrid") == []


def test_chunk_of_another_embedder_is_found_neither_by_vector_nor_by_word() -> None:
    index = index_of(
        chunk(1, axis(0), text="old harbour"), chunk(2, np.ones(3), embedder="small", text="new harbour")
    )
    assert found(index, axis(0), "harbour", ranking="hybrid") == [1]
    assert found(index, np.ones(3, np.float32), "harbour", ranking="hybrid", embedder="small") == [2]
    assert index.embedders(Scope(tenant_id="t")) == ["small"]
    assert index.embedders(Scope(tenant_id="t", embedder="third")) == ["all-MiniLM-L6-v2", "small"]
    assert index.embedders(Scope(tenant_id="t", collections=["nowhere"])) == []
    assert index.embedders(Scope(tenant_id="other")) == []


def test_chunk_that_comes_again_with_another_embedder_leaves_the_old_one() -> None:
    index = index_of(chunk(1, axis(0), text="harbour"), chunk(2, axis(1), text="pier"))
    index.apply(Tail(2, [chunk(1, np.ones(3), embedder="small", text="harbour", epoch=2)], [], False))
    assert found(index, axis(0), "harbour pier", ranking="hybrid") == [2]
    assert found(index, np.ones(3, np.float32), "harbour", ranking="hybrid", embedder="small") == [1]
    index.apply(Tail(3, [chunk(2, np.ones(3), embedder="small", text="pier", epoch=3)], [], False))
    assert index.embedders(Scope(tenant_id="t", embedder="small")) == []
    assert index.num_chunks == 2


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        ("dense", [0.8, 0.0, 0.5]),
        ("lexical", [0.5, 1.0, 0.0]),
        ("hybrid", [(0.8 + LEXICAL_WEIGHT * 0.5) / (1 + LEXICAL_WEIGHT), LEXICAL_WEIGHT / 1.6, 0.5 / 1.6]),
    ],
)
def test_ranks_in_plain_numbers(ranking: str, expected: list[float]) -> None:
    cosines, lexical = np.array([0.8, -0.3, 0.5], np.float32), np.array([5, 20, 0], np.float32)
    assert rank_scores(cosines, lexical, 10.0, ranking).tolist() == pytest.approx(expected, abs=1e-6)


def test_question_without_words_ranks_by_cosine_alone() -> None:
    ranks = rank_scores(np.array([0.8], np.float32), np.array([0.0], np.float32), 0.0, "hybrid")
    assert ranks.tolist() == pytest.approx([0.5])


def test_what_was_not_committed_is_forgotten() -> None:
    words = LexicalIndex()
    words.add([Words(1, 1, 1, "harbour")])
    words.rollback()
    words.add([Words(1, 1, 2, "pier")])
    view = words.commit()
    assert view.num_docs == 1
    assert view.best(view.query("harbour pier", {1: 1}), 10).chunk_ids.tolist() == [2]


def test_view_stays_as_it_was_whatever_is_written_later() -> None:
    words = LexicalIndex()
    words.add([Words(1, 1, 1, "harbour")])
    view = words.commit()
    words.remove_table(1)
    words.commit()
    assert view.best(view.query("harbour", {1: 1}), 10).chunk_ids.tolist() == [1]
