"""What ports.VectorStore promises, over every store and a real database: what is found, for whom, and when."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import sqlalchemy as sa

from gateway.errors import InvalidRequest
from gateway.ports import SearchRequest
from gateway.storage import attachments, schema
from gateway.storage.epochs import next_epoch
from gateway.types import Passage, Scope
from tests.contract.vector_stands import milvus_lite, stand
from tests.fakes.corpus import add_file, new_collection, remove_collection, remove_file
from tests.fakes.vector_stores import Stand, find, texts, unit

__all__ = ["milvus_lite", "stand"]

Vectors = npt.NDArray[np.float32]


def rows(*vectors: Vectors) -> Vectors:
    return np.stack(vectors)


def test_an_empty_store_finds_nothing(stand: Stand) -> None:
    stand.settle()
    assert find(stand.store, "t1", unit(1)) == []
    assert stand.store.embedders(Scope(tenant_id="t1")) == []


def test_the_nearest_passages_come_first_with_all_that_is_known_of_them(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    vectors = rows(unit(1), unit(0, 1), unit(0, 0, 1))
    held = ["Herons nest in reeds. ", "Otters eat fish. ", "Bats sleep by day."]
    file_id = add_file(stand.database, "t1", docs, held, vectors, filename="birds.md", heading="Wild > Life")
    stand.settle()
    found = find(stand.store, "t1", unit(1, 0.5))
    assert texts(found) == held
    best = found[0]
    assert (best.collection_id, best.file_id, best.filename) == (docs, file_id, "birds.md")
    assert (best.ordinal, best.heading, best.start, best.end, best.page) == (0, "Wild > Life", 0, 22, 0)
    assert best.score == pytest.approx(1 / np.sqrt(1.25), abs=1e-4)
    assert best.chunk_ids == [best.chunk_id]
    assert all(0 <= each.rank_score <= 1 for each in found)
    assert [each.rank_score for each in found] == sorted((each.rank_score for each in found), reverse=True)


def test_no_more_than_the_candidates_are_given_and_never_fewer_than_k_when_there_are_as_many(
    stand: Stand,
) -> None:
    docs = new_collection(stand.database, "t1")
    angles = [unit(1, 0.01 * number) for number in range(80)]
    add_file(
        stand.database, "t1", docs, [f"text {chr(97 + n % 26) * (n + 1)} " for n in range(80)], rows(*angles)
    )
    stand.settle()
    assert len(find(stand.store, "t1", unit(1), k=1)) == 24
    assert len(find(stand.store, "t1", unit(1), k=64)) == 64


@pytest.mark.parametrize("k", [0, -1, 65])
def test_a_k_out_of_bounds_is_refused_with_its_name(stand: Stand, k: int) -> None:
    stand.settle()
    with pytest.raises(InvalidRequest, match=r"k must be between 1 and 64") as refused:
        find(stand.store, "t1", unit(1), k=k)
    assert refused.value.param == "k"


@pytest.mark.parametrize(
    "bad",
    [np.ones(3, np.float32), np.zeros(384, np.float32), np.full(384, np.nan, np.float32)],
    ids=["short", "zero", "nan"],
)
def test_a_bad_embedding_is_refused_and_its_neighbours_in_the_batch_are_answered(
    stand: Stand, bad: Vectors
) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(stand.database, "t1", docs, ["Herons."], rows(unit(1)))
    stand.settle()
    scope = Scope(tenant_id="t1")
    answers = stand.store.search(
        [SearchRequest(unit(1), "", scope), SearchRequest(bad, "", scope), SearchRequest(unit(2), "", scope)]
    )
    assert isinstance(answers[1], InvalidRequest)
    assert isinstance(answers[0], bytes)
    assert answers[0] == answers[2]
    assert b"Herons." in answers[0]


def test_an_embedding_of_any_length_greater_than_zero_is_taken(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(stand.database, "t1", docs, ["Herons."], rows(unit(1)))
    stand.settle()
    assert find(stand.store, "t1", 7 * unit(1, 1))[0].score == pytest.approx(np.sqrt(0.5), abs=1e-4)


def test_unusable_stored_vectors_are_left_out_and_the_rest_is_searchable(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(stand.database, "t1", docs, ["Herons. ", "Otters."], rows(unit(1), np.zeros(384, np.float32)))
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1))) == ["Herons. "]


def test_tenants_never_see_each_other_even_by_the_name_of_a_collection(stand: Stand) -> None:
    first, second = new_collection(stand.database, "t1"), new_collection(stand.database, "t2")
    add_file(stand.database, "t1", first, ["Ours."], rows(unit(1)))
    add_file(stand.database, "t2", second, ["Theirs."], rows(unit(1)))
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1), "theirs")) == ["Ours."]
    assert find(stand.store, "t1", unit(1), "theirs", collections=[second]) == []
    assert find(stand.store, "t3", unit(1)) == []


@pytest.mark.parametrize(
    "hostile",
    [
        't1" or 1==1 or tenant == "',
        "t1' or id > 0 or '",
        't1\\" or id > 0',
        "t1\n",
        "%",
        "",
        "*",
        "ü" * 70,
        "\0",
    ],
    ids=["double", "single", "backslash", "newline", "percent", "empty", "star", "long", "nul"],
)
def test_hostile_ids_find_nothing(stand: Stand, hostile: str) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(stand.database, "t1", docs, ["Ours."], rows(unit(1)))
    stand.settle()
    assert find(stand.store, hostile, unit(1), "ours") == []
    assert find(stand.store, "t1", unit(1), "ours", collections=[hostile]) == []
    assert texts(find(stand.store, "t1", unit(1), collections=[hostile, docs])) == ["Ours."]


def test_several_collections_are_searched_as_one_and_no_others(stand: Stand) -> None:
    docs = [new_collection(stand.database, "t1", f"docs {number}") for number in range(3)]
    for number, each in enumerate(docs):
        add_file(stand.database, "t1", each, [f"In {number}."], rows(unit(1, 0.1 * number)))
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1), collections=docs[:2])) == ["In 0.", "In 1."]
    assert texts(find(stand.store, "t1", unit(1), collections=[docs[2], docs[2], "vs_none"])) == ["In 2."]
    assert len(find(stand.store, "t1", unit(1))) == 3


def test_a_word_finds_what_the_vector_does_not(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    fillers = [f"Filler number {number} on other things. " for number in range(60)]
    held = [*fillers, "The zygote divides at dawn."]
    vectors = rows(*(unit(1, 10 + 0.001 * number) for number in range(60)), unit(0, 0, 1))
    add_file(stand.database, "t1", docs, held, vectors)
    stand.settle()
    found = {each.text: each for each in find(stand.store, "t1", unit(1), "When does the zygote divide?")}
    hit = found["The zygote divides at dawn."]
    assert hit.lexical > 0
    assert hit.score == pytest.approx(0.0, abs=1e-4)
    by_words = find(stand.store, "t1", unit(1), "When does the zygote divide?", ranking="lexical")
    assert texts(by_words) == ["The zygote divides at dawn."]
    assert "The zygote divides at dawn." not in texts(
        find(stand.store, "t1", unit(1), "zygote", ranking="dense")
    )


def test_words_of_another_tenant_or_collection_are_not_found(stand: Stand) -> None:
    first, second = new_collection(stand.database, "t1", "a"), new_collection(stand.database, "t1", "b")
    other = new_collection(stand.database, "t2")
    for tenant, docs in (("t1", first), ("t1", second), ("t2", other)):
        add_file(stand.database, tenant, docs, [f"A zygote for {tenant} in {docs}."], rows(unit(1)))
    stand.settle()
    found = find(stand.store, "t1", unit(0, 1), "zygote", collections=[first], ranking="lexical")
    assert [each.collection_id for each in found] == [first]


@pytest.mark.parametrize(
    "question", ["", "the of and", '"', "AND OR NOT", "a:b^2~*?(", "\\", "'--", "日本語", "w" * 5000]
)
def test_any_question_text_is_taken(stand: Stand, question: str) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(stand.database, "t1", docs, ["Herons nest."], rows(unit(1)))
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1), question)) == ["Herons nest."]


@pytest.mark.parametrize(
    "text", ["of the and", "— … —", "日本語のテキスト", "\U0001f600 \u0301", "a\0b", "x" * 5000]
)
def test_any_text_can_be_stored_and_found(stand: Stand, text: str) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(
        stand.database, "t1", docs, [text], rows(unit(1)), filename='odd "name" \\ ü.md', heading='a > " b'
    )
    stand.settle()
    (found,) = find(stand.store, "t1", unit(1), text)
    assert (found.text, found.filename, found.heading) == (text, 'odd "name" \\ ü.md', 'a > " b')


def test_equal_texts_are_given_once_by_their_best_copy_however_many_there_are(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    copies = ["The same words again. "] * 50
    add_file(stand.database, "t1", docs, copies, rows(*(unit(1, 0.001 * n) for n in range(50))))
    add_file(stand.database, "t1", docs, ["Something else."], rows(unit(0, 1)))
    stand.settle()
    found = find(stand.store, "t1", unit(1), k=2)
    assert texts(found) == ["The same words again. ", "Something else."]
    assert found[0].ordinal == 0


def test_near_copies_in_other_files_and_collections_are_given_once(stand: Stand) -> None:
    first, second = (new_collection(stand.database, "t1") for _ in range(2))
    text = (
        "Whoever opens a valve writes down when and why, with a name, in the book that hangs beside the inner door. "
        "The pump in the western gallery is checked every week by two people of the night shift."
    )
    copies = [text, text.replace("writes", "notes"), text.upper(), text.replace("two", "2")]
    for collection, copy in zip((first, first, second, second), copies, strict=True):
        add_file(stand.database, "t1", collection, [copy], rows(unit(1)))
    stand.settle()
    found = find(stand.store, "t1", unit(1), collections=[first, second])
    assert sorted(texts(found)) == sorted([text, copies[3]])  # a number of its own says something else


def test_neighbours_are_left_apart_for_whoever_ranks_them(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(stand.database, "t1", docs, ["Herons nest. ", "Otters eat."], rows(unit(1), unit(1, 0.1)))
    stand.settle()
    assert [each.chunk_ids for each in find(stand.store, "t1", unit(1))] == [[1], [2]]


def test_what_is_removed_is_not_found_and_its_words_are_not_either(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    gone = add_file(stand.database, "t1", docs, ["A zygote divides."], rows(unit(1)))
    add_file(stand.database, "t1", docs, ["Herons nest."], rows(unit(0, 1)))
    stand.settle()
    remove_file(stand.database, "t1", docs, gone)
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1), "zygote")) == ["Herons nest."]
    assert find(stand.store, "t1", unit(1), "zygote", ranking="lexical") == []


def test_a_removed_collection_takes_its_files_and_leaves_the_others(stand: Stand) -> None:
    gone, kept = new_collection(stand.database, "t1", "a"), new_collection(stand.database, "t1", "b")
    for docs in (gone, kept):
        add_file(stand.database, "t1", docs, [f"In {docs}."], rows(unit(1)))
    stand.settle()
    remove_collection(stand.database, "t1", gone)
    stand.settle()
    assert [each.collection_id for each in find(stand.store, "t1", unit(1))] == [kept]


def test_many_removals_at_once_hide_exactly_what_was_removed(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    names = [chr(97 + number // 26) + chr(97 + number % 26) for number in range(120)]
    files = [
        add_file(stand.database, "t1", docs, [f"Only {name}."], rows(unit(1, 0.001 * number)))
        for number, name in enumerate(names)
    ]
    stand.settle()
    for each in files[:115]:
        remove_file(stand.database, "t1", docs, each)
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1), k=10)) == [f"Only {name}." for name in names[115:]]


def test_a_file_that_replaces_another_takes_its_place_in_one_step(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    old = add_file(stand.database, "t1", docs, ["Old words."], rows(unit(1)))
    stand.settle()
    new = add_file(stand.database, "t1", docs, ["New words."], rows(unit(1)), replaces=old)
    assert [each.file_id for each in find(stand.store, "t1", unit(1))] == [old]
    stand.settle()
    assert [each.file_id for each in find(stand.store, "t1", unit(1))] == [new]


def test_the_epoch_follows_the_corpus_clock_and_settling_again_changes_nothing(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    epochs = []
    for number in range(3):
        add_file(stand.database, "t1", docs, [f"Text {number}."], rows(unit(1)))
        stand.settle()
        epochs.append(stand.store.epoch)
        before = find(stand.store, "t1", unit(1))
        stand.settle()
        assert find(stand.store, "t1", unit(1)) == before
    assert epochs == sorted(set(epochs))
    assert stand.store.num_chunks == 3


def test_a_database_restored_to_an_earlier_epoch_is_followed_from_the_start(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(stand.database, "t1", docs, ["Kept."], rows(unit(1)))
    lost = add_file(stand.database, "t1", docs, ["Lost."], rows(unit(1)))
    stand.settle()
    assert len(find(stand.store, "t1", unit(1))) == 2
    with stand.database.write() as conn:
        conn.execute(sa.delete(schema.chunks).where(schema.chunks.c.file_id == lost))
        conn.execute(sa.update(schema.corpus_clock).values(epoch=1))
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1))) == ["Kept."]
    assert stand.store.epoch == 1


def test_embedders_are_searched_apart_and_told_of(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    add_file(stand.database, "t1", docs, ["By the default model."], rows(unit(1)))
    other = add_file(stand.database, "t1", docs, ["By another zygote model."], rows(unit(1, dim=8)))
    move(stand, other, "small", unit(1, dim=8))
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1), "zygote model")) == ["By the default model."]
    found: list[Passage] = find(stand.store, "t1", unit(1, dim=8), "model", embedder="small")
    assert texts(found) == ["By another zygote model."]
    assert stand.store.embedders(Scope(tenant_id="t1")) == ["small"]
    assert stand.store.embedders(Scope(tenant_id="t1", embedder="small")) == ["all-MiniLM-L6-v2"]
    assert stand.store.embedders(Scope(tenant_id="t1", embedder="none")) == ["all-MiniLM-L6-v2", "small"]
    assert stand.store.embedders(Scope(tenant_id="t2")) == []
    assert find(stand.store, "t1", unit(1), embedder="none") == []


def test_a_chunk_that_changes_its_embedder_is_found_by_the_new_one(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    file_id = add_file(stand.database, "t1", docs, ["Herons nest."], rows(unit(1)))
    stand.settle()
    move(stand, file_id, "small", unit(0, 1, dim=8))
    stand.settle()
    assert texts(find(stand.store, "t1", unit(0, 1, dim=8), embedder="small")) == ["Herons nest."]


def move(stand: Stand, file_id: str, embedder: str, vector: Vectors) -> None:
    """What re-embedding does to the chunks of a file in its last step."""
    with stand.database.write() as conn:
        values = {"embedder": embedder, "vector": vector.astype("<f4").tobytes(), "epoch": next_epoch(conn)}
        conn.execute(sa.update(schema.chunks).where(schema.chunks.c.file_id == file_id).values(values))


def test_changed_attributes_keep_a_file_findable(stand: Stand) -> None:
    docs = new_collection(stand.database, "t1")
    file_id = add_file(stand.database, "t1", docs, ["Herons nest."], rows(unit(1)))
    stand.settle()
    with stand.database.write() as conn:
        attachments.update_attributes(conn, "t1", docs, file_id, {"year": 2020})
    stand.settle()
    assert texts(find(stand.store, "t1", unit(1))) == ["Herons nest."]
