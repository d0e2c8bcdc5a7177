from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.embedding.export import TOKENIZER_FILE
from gateway.embedding.tokens import MAX_CHARS, MAX_TOKENS, SentenceTokenizer, pad, well_formed

CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def tokenizer(packaged_model: Path) -> SentenceTokenizer:
    return SentenceTokenizer(packaged_model / TOKENIZER_FILE)


def test_nothing_is_padded_to_the_files_fixed_length(tokenizer: SentenceTokenizer) -> None:
    assert tokenizer.encode(["hello", ""]) == [[CLS, 7592, SEP], [CLS, SEP]]


def test_the_files_limit_of_128_tokens_does_not_hold(tokenizer: SentenceTokenizer) -> None:
    [row] = tokenizer.encode(["tide " * 200])
    assert len(row) == 202


@pytest.mark.parametrize(("words", "length"), [(253, 255), (254, 256), (255, 256), (5000, 256)])
def test_a_text_is_cut_at_256_tokens_and_still_ends_well(
    tokenizer: SentenceTokenizer, words: int, length: int
) -> None:
    [row] = tokenizer.encode(["tide " * words])
    assert len(row) == length <= MAX_TOKENS
    assert (row[0], row[-1]) == (CLS, SEP)
    assert row.count(SEP) == 1


def test_counting_sees_the_whole_text(tokenizer: SentenceTokenizer) -> None:
    assert tokenizer.count(["tide " * 1000, "", "tide"]) == [1002, 2, 3]
    assert tokenizer.count([]) == []


def test_only_the_head_of_a_huge_text_is_read(tokenizer: SentenceTokenizer) -> None:
    assert tokenizer.encode([" " * MAX_CHARS + "tide"]) == [[CLS, SEP]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("\ud800", "\ufffd", id="lone high"),
        pytest.param("a\udc00b", "a\ufffdb", id="lone low"),
        pytest.param("\ud83c\udf0a", "🌊", id="a pair is joined"),
        pytest.param("plain 潮", "plain 潮", id="left alone"),
    ],
)
def test_surrogates_are_made_well_formed(text: str, expected: str) -> None:
    assert well_formed(text) == expected


def test_any_unicode_has_ids(tokenizer: SentenceTokenizer) -> None:
    texts = [chr(point) * 3 for point in (*range(0, 0x3000, 97), 0xD800, 0xDFFF, 0xFFFF, 0x10FFFF)]
    rows = tokenizer.encode(texts)
    assert all(row[0] == CLS and row[-1] == SEP for row in rows)


def test_rows_are_padded_to_the_longest_and_masked() -> None:
    ids, mask = pad([[CLS, 5, SEP], [CLS, SEP]])
    assert ids.tolist() == [[CLS, 5, SEP], [CLS, SEP, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert ids.dtype == mask.dtype == np.int64
