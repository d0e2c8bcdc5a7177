from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest

from gateway.errors import InvalidRequest
from gateway.ports import SearchRequest
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.query import MAX_K
from gateway.storage.changes import RemovalRow, Tail
from gateway.types import Passage, Scope
from tests.unit.retrieval.chunks import DIM, ask, axis, chunk, found, index_of, removal, towards


def test_passages_come_best_first_with_their_cosine() -> None:
    index = index_of(chunk(1, towards(2, 0.5)), chunk(2, axis(2)), chunk(3, towards(2, 0.9)))
    passages = ask(index, axis(2))
    assert [passage.chunk_id for passage in passages] == [2, 3, 1]
    assert [passage.score for passage in passages] == pytest.approx([1.0, 0.9, 0.5], abs=1e-5)


def test_passage_survives_the_trip_with_every_field() -> None:
    row = msgspec.structs.replace(
        chunk(7, axis(0), start=30), heading='A "quoted" § line', text="naïve\n\u2028 0.0}", page=3
    )
    (passage,) = ask(index_of(row), axis(0), "a NAÏVE question", ranking="hybrid")
    assert passage == Passage(
        chunk_id=7,
        collection_id="c",
        file_id="f",
        filename="f.txt",
        ordinal=7,
        heading='A "quoted" § line',
        start=30,
        end=37,
        text="naïve\n\u2028 0.0}",
        page=3,
        chunk_ids=[7],
        lexical=passage.lexical,
        rank_score=passage.rank_score,
        score=1.0,
    )
    assert passage.lexical > 0
    assert 0.6 < passage.rank_score <= 1.0


def test_query_of_another_length_gives_cosines_too() -> None:
    (passage,) = ask(index_of(chunk(1, axis(0))), axis(0) * 17)
    assert passage.score == pytest.approx(1.0)


def test_empty_collections_mean_all_of_the_tenant_and_of_no_other() -> None:
    index = index_of(
        chunk(1, axis(0), collection="a"),
        chunk(2, axis(1), collection="b"),
        chunk(3, axis(0), tenant="other", collection="z"),
    )
    assert sorted(found(index, axis(0))) == [1, 2]


@pytest.mark.parametrize("collection", ["z", "nowhere", ""], ids=["foreign", "unknown", "empty-name"])
def test_collection_that_is_not_the_tenants_finds_nothing(collection: str) -> None:
    index = index_of(chunk(1, axis(0)), chunk(2, axis(0), tenant="other", collection="z"))
    assert found(index, axis(0), collections=[collection]) == []
    assert found(index, axis(0), collections=[collection, "c"]) == [1]


def test_collections_are_merged_by_score_and_named_twice_count_once() -> None:
    index = index_of(
        chunk(1, towards(3, 0.7), collection="a"),
        chunk(2, towards(3, 0.8), collection="b"),
        chunk(3, towards(3, 0.6), collection="a"),
        chunk(4, axis(3), collection="unasked"),
    )
    assert found(index, axis(3), collections=["a", "b", "a"], k=3) == [2, 1, 3]


def test_equal_texts_are_given_once_by_their_best_copy() -> None:
    index = index_of(
        chunk(1, towards(3, 0.8), text="same"),
        chunk(2, towards(3, 0.9), text="same", collection="b"),
        chunk(3, towards(3, 0.5)),
    )
    assert found(index, axis(3)) == [2, 3]


def test_many_copies_do_not_crowd_out_other_texts() -> None:
    copies = [chunk(number, axis(3), text="same") for number in range(100)]
    others = [chunk(200 + number, towards(3, 0.5)) for number in range(3)]
    assert found(index_of(*copies, *others), axis(3), k=4) == [0, 200, 201, 202]


def test_ties_go_to_the_lower_chunk_id() -> None:
    index = index_of(*[chunk(number, axis(0)) for number in (5, 3, 9)])
    assert found(index, axis(0), k=2) == [3, 5]


@pytest.mark.parametrize("k", [1, MAX_K])
def test_k_bounds_the_number_of_passages(k: int) -> None:
    rng = np.random.default_rng(0)
    index = index_of(*[chunk(number, rng.standard_normal(DIM)) for number in range(100)])
    assert len(found(index, axis(0), k=k)) == k


BAD_VECTORS = {
    "nan": np.full(DIM, np.nan, np.float32),
    "infinite": np.full(DIM, np.inf, np.float32),
    "too-large": np.full(DIM, 3e38, np.float32),
    "zero": np.zeros(DIM, np.float32),
    "short": np.ones(DIM - 1, np.float32),
    "two-rows": np.ones((2, DIM), np.float32),
}


@pytest.mark.parametrize("bad", BAD_VECTORS.values(), ids=BAD_VECTORS.keys())
def test_bad_embedding_fails_its_own_request_only(bad: np.ndarray) -> None:
    scope = Scope(tenant_id="t")
    vectors = (axis(0), bad, axis(0))
    answers = index_of(chunk(1, axis(0))).search([SearchRequest(each, "", scope) for each in vectors])
    assert isinstance(answers[1], InvalidRequest)
    assert answers[0] == answers[2] != b"[]"


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1])
def test_k_out_of_bounds_fails_its_own_request_only(k: int) -> None:
    scopes = (Scope(tenant_id="t", k=k), Scope(tenant_id="t"))
    answers = index_of(chunk(1, axis(0))).search([SearchRequest(axis(0), "", scope) for scope in scopes])
    assert isinstance(answers[0], InvalidRequest)
    assert f"not {k}" in answers[0].message
    assert answers[1] != b"[]"


@pytest.mark.parametrize("bad", BAD_VECTORS.values(), ids=BAD_VECTORS.keys())
def test_chunk_with_an_unusable_vector_is_left_out_and_counted(bad: np.ndarray) -> None:
    index = CorpusIndex()
    rows = [chunk(1, bad), chunk(2, axis(0)), chunk(3, axis(1))]
    assert index.apply(Tail(4, rows, [], False)) == 1
    assert found(index, axis(0)) == [2, 3]
    assert index.epoch == 4


def test_batch_gives_each_request_what_it_would_get_alone() -> None:
    rng = np.random.default_rng(1)
    index = index_of(
        *[
            chunk(number, rng.standard_normal(DIM), tenant=f"t{number % 3}", collection=f"c{number % 4}")
            for number in range(200)
        ]
    )
    requests = [
        SearchRequest(
            rng.standard_normal(DIM).astype(np.float32),
            f"chunk {n}",
            Scope(tenant_id=f"t{n % 4}", collections=[f"c{n % 5}"] * (n % 2), k=n % 7 + 1),
        )
        for n in range(64)
    ]
    assert index.search(requests) == [index.search([request])[0] for request in requests]


def test_search_agrees_with_a_plain_sort() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((500, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = index_of(*[chunk(number, vector) for number, vector in enumerate(vectors)])
    for query in vectors[:20]:
        assert found(index, query, k=10) == np.argsort(-(vectors @ query), kind="stable")[:10].tolist()


def test_added_again_a_chunk_replaces_itself() -> None:
    index = index_of(chunk(1, axis(0)), chunk(2, axis(1)))
    index.apply(Tail(2, [chunk(1, axis(2), text="moved", epoch=2)], [], False))
    assert index.num_chunks == 2
    assert ask(index, axis(2))[0].text == "moved"
    assert found(index, axis(2), "moved", ranking="lexical") == [1]
    assert found(index, axis(2), "1", ranking="lexical") == []


def test_tail_applied_twice_changes_nothing_more() -> None:
    tails = [
        Tail(1, [chunk(1, axis(0)), chunk(2, axis(1), file="g")], [], False),
        Tail(2, [chunk(3, axis(0), epoch=2)], [RemovalRow(2, "t", "c", "f")], False),
    ]
    index = CorpusIndex()
    for tail in [*tails, tails[1], tails[1]]:
        index.apply(tail)
    assert sorted(found(index, axis(0))) == [2, 3]
    assert index.epoch == 2


def test_removing_a_file_leaves_the_others_and_other_collections() -> None:
    index = index_of(
        chunk(1, axis(0)), chunk(2, axis(0), file="g"), chunk(3, axis(0), collection="d"), chunk(4, axis(0))
    )
    index.apply(removal(2, "f"))
    assert sorted(found(index, axis(0))) == [2, 3]
    assert index.num_chunks == 2


def test_removing_a_collection_takes_it_whole_and_nothing_of_another_tenant() -> None:
    index = index_of(chunk(1, axis(0)), chunk(2, axis(0), file="g"), chunk(3, axis(0), tenant="u"))
    index.apply(removal(2))
    assert found(index, axis(0)) == []
    assert found(index, axis(0), tenant_id="u") == [3]


def test_removal_spares_chunks_of_its_own_epoch_and_later() -> None:
    index = index_of(chunk(1, axis(0)))
    fresh = [chunk(2, axis(0), epoch=2), chunk(3, axis(0), epoch=3)]
    index.apply(Tail(3, fresh, [RemovalRow(2, "t", "c", "f")], False))
    assert sorted(found(index, axis(0))) == [2, 3]


def test_removing_what_is_not_there_is_fine() -> None:
    index = index_of(chunk(1, axis(0)))
    index.apply(removal(2, "nofile", tenant="nobody"))
    assert found(index, axis(0)) == [1]
    assert index.epoch == 2


def test_growing_and_shrinking_keeps_exactly_the_live_chunks() -> None:
    rng = np.random.default_rng(3)
    index, live, next_id = CorpusIndex(), {}, 0
    for epoch in range(1, 120):
        file = f"f{rng.integers(6)}"
        rows = [
            chunk(next_id + n, rng.standard_normal(DIM), file=file, epoch=epoch)
            for n in range(rng.integers(0, 40))
        ]
        next_id += len(rows)
        live[file] = {row.id for row in rows}
        index.apply(Tail(epoch, rows, [RemovalRow(epoch, "t", "c", file)], False))
        expected = set().union(*live.values())
        assert index.num_chunks == len(expected)
        assert set(found(index, rng.standard_normal(DIM), k=MAX_K)) <= expected


def test_adopt_takes_over_all_of_another_index() -> None:
    index = index_of(chunk(1, axis(0)))
    index.adopt(index_of(chunk(2, axis(0), tenant="u")))
    assert found(index, axis(0)) == []
    assert found(index, axis(0), tenant_id="u") == [2]


def test_search_sees_whole_epochs_while_another_thread_applies() -> None:
    """Each epoch swaps one file for 20 chunks that all say the epoch: a mixed answer is a half-applied one."""
    index, stop, mixed = CorpusIndex(), threading.Event(), []

    def update() -> None:
        for epoch in range(1, 100):
            rows = [
                chunk(
                    20 * epoch + n,
                    towards(1, 0.9),
                    text=f"{epoch} epoch {n}",
                    epoch=epoch,
                    collection=f"c{n % 2}",
                )
                for n in range(20)
            ]
            removals = [RemovalRow(epoch, "t", f"c{n}", "f") for n in range(2)]
            index.apply(Tail(epoch, rows, removals, False))
        stop.set()

    updater = threading.Thread(target=update)
    updater.start()
    while not stop.is_set():
        passages = ask(index, axis(1), "which epoch is it?", ranking="hybrid")
        epochs = {passage.text.split()[0] for passage in passages}
        if passages and (len(epochs), len(passages)) != (1, 20):
            mixed.append((epochs, len(passages)))
    updater.join()
    assert mixed == []
