from __future__ import annotations

import msgspec
import pytest

from gateway.generation.extractive import ReaderParams
from gateway.generation.wire import decode_request


def test_empty_params_mean_the_defaults() -> None:
    assert decode_request(b"Wieviel?", b"[]", b"").params == ReaderParams()


@pytest.mark.parametrize(
    ("question", "passages", "params", "at_fault"),
    [
        (b"\xff", b"[]", b"{}", "question"),
        (b"q" * 32_001, b"[]", b"{}", "question"),
        (b"q", b"", b"{}", "passages"),
        (b"q", b"{", b"{}", "passages"),
        (b"q", b'[{"text": 1}]', b"{}", "passages"),
        (b"q", b"[" * 100_000, b"{}", "passages"),
        (b"q", b"\xff", b"{}", "passages"),
        (b"q", b"[]", b"{", "params"),
        (b"q", b"[]", b'{"mode": "slow"}', "params"),
        (b"q", b"[]", b'{"max_sentences": 0}', "params"),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_bad_input_is_one_sentence_that_names_the_tensor(
    question: bytes, passages: bytes, params: bytes, at_fault: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{at_fault}: "):
        decode_request(question, passages, params)


def test_params_survive_the_wire() -> None:
    params = ReaderParams(mode="deep", max_sentences=2, max_chars=300, max_tokens=50)
    assert decode_request(b"q", b"[]", msgspec.json.encode(params)).params == params
