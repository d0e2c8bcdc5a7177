from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gateway.generation import similarity
from gateway.generation.similarity import similarity_of


class Encoder:
    """Unit vectors by length; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        angles = np.array([len(text) / 10 for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_each_text_gets_its_cosine_in_order() -> None:
    near = similarity_of(Encoder())("12345", ["12345", "1234567890"])
    assert near == pytest.approx([1.0, np.cos(0.5)], abs=1e-6)


def test_a_sentence_is_encoded_once_and_the_question_each_time() -> None:
    encoder = Encoder()
    nearness = similarity_of(encoder)
    first = nearness("why?", ["one", "three", "one"])
    again = nearness("why?", ["three", "seven!!", "one"])
    assert encoder.asked == ["why?", "one", "three", "why?", "seven!!"]
    assert again[0] == first[1]
    assert again[2] == first[0] == first[2]


def test_no_texts_no_cosines() -> None:
    assert len(similarity_of(Encoder())("why?", [])) == 0


def test_the_least_recently_used_sentences_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "MAX_KEPT_SENTENCES", 2)
    encoder = Encoder()
    nearness = similarity_of(encoder)
    nearness("?", ["a", "bb"])
    nearness("?", ["a", "ccc"])  # forgets bb
    encoder.asked.clear()
    nearness("?", ["a", "ccc", "bb"])
    assert encoder.asked == ["?", "bb"]
