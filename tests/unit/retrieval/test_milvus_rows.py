from __future__ import annotations

import numpy as np
import pytest

from gateway.retrieval.milvus_rows import (
    PASSAGE_FIELDS,
    clipped,
    lexical_terms,
    passage_of,
    row_of,
    usable_vector,
)
from gateway.storage.corpus import ChunkRow

CHUNK = ChunkRow(
    id=7, tenant_id="t1", collection_id="vs_1", file_id="file-1", filename="a b.md", ordinal=3, text="Herons nest.",
    start_char=10, end_char=22, heading="Birds > Herons", vector=b"", epoch=5, page=2,
)  # fmt: skip


def test_a_row_gives_the_passage_of_its_chunk_back() -> None:
    row = row_of(CHUNK, np.ones(2, np.float32), {"year": 2020})
    assert set(PASSAGE_FIELDS) <= row.keys()
    passage = passage_of(7, row, cosine=0.5, lexical=2.0)
    assert (passage.chunk_id, passage.chunk_ids, passage.ordinal, passage.page) == (7, [7], 3, 2)
    assert (passage.collection_id, passage.file_id, passage.filename) == ("vs_1", "file-1", "a b.md")
    assert (passage.heading, passage.start, passage.end, passage.text) == (
        "Birds > Herons",
        10,
        22,
        "Herons nest.",
    )
    assert (passage.score, passage.lexical) == (0.5, 2.0)


def test_words_of_the_heading_count_and_stop_words_do_not() -> None:
    row = row_of(CHUNK, np.ones(2, np.float32), {})
    assert row["terms"].split() == lexical_terms("Birds > Herons Herons nest.")
    assert lexical_terms("Who was in the nests?") == lexical_terms("nest")


@pytest.mark.parametrize("text", ["Zürich 3.14 §12", "東京都", "it's O'Neil", "a_b-c/d=e", '"\\'])
def test_terms_are_letters_and_digits_only(text: str) -> None:
    assert all(term.isascii() and term.isalnum() for term in lexical_terms(text))


def test_terms_written_as_digits_still_tell_words_apart() -> None:
    assert lexical_terms("Zürich") != lexical_terms("Züruch")
    assert lexical_terms("3.14") != lexical_terms("3.15")


@pytest.mark.parametrize(
    ("data", "dim"),
    [
        (b"", 0),
        (b"123", 0),
        (np.zeros(4, "<f4").tobytes(), 4),
        (np.full(4, np.nan, "<f4").tobytes(), 4),
        (np.full(4, np.inf, "<f4").tobytes(), 4),
        (np.ones(4, "<f4").tobytes(), 5),
    ],
    ids=["empty", "cut", "zero", "nan", "infinite", "size"],
)
def test_an_unusable_vector_is_none(data: bytes, dim: int) -> None:
    assert usable_vector(data, dim) is None


def test_a_usable_vector_comes_at_length_one() -> None:
    vector = usable_vector(np.full(4, 3.0, "<f4").tobytes(), 4)
    assert vector is not None
    assert vector.tolist() == [0.5] * 4


def test_a_long_text_is_cut_at_a_whole_character_and_its_end_moves_along() -> None:
    assert clipped("aé", 3) == "aé"
    assert clipped("aé", 2) == "a"
    text = "é" * 40_000
    row = row_of(
        ChunkRow(*(getattr(CHUNK, name) for name in CHUNK.__struct_fields__[:6]), text, 10, 40_010, "", b"", 5),
        np.ones(2, np.float32),
        {},
    )  # fmt: skip
    assert len(row["text"].encode()) <= 65_535
    assert row["end_char"] - row["start_char"] == len(row["text"])
