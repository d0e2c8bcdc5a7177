from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.retrieval.index import CorpusIndex
from perf import search
from perf.search import Sentences, delete_ms, mixtures, recall, snapshot, tails


@pytest.fixture
def base() -> Sentences:
    vectors = np.random.default_rng(0).standard_normal((20, 16))
    return Sentences([f"Sentence {number} of a page." for number in range(20)], vectors.astype(np.float32))


def test_same_seed_gives_the_same_corpus(base: Sentences) -> None:
    (one, texts), (other, more) = next(mixtures(base, 50, 1)), next(mixtures(base, 50, 1))
    assert np.array_equal(one, other)
    assert texts == more
    assert not np.array_equal(one, next(mixtures(base, 50, 2))[0])
    assert np.linalg.norm(one, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_exact_search_has_full_recall_and_the_snapshot_is_timed(
    base: Sentences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "PAGE", 64)
    (tmp_path / "words").mkdir()
    index = CorpusIndex(tmp_path / "words")
    for tail in tails(base, 300):
        index.apply(tail)
    questions, _ = next(mixtures(base, 10, 2))
    assert recall(index, base, 300, questions) == 1.0
    assert delete_ms(index, 300) > 0
    assert index.num_chunks == 250
    assert snapshot(index, tmp_path, questions[0])["ready_s"] >= 0
