"""The reader's request as it comes over the wire: three byte strings in, checked values out."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from gateway.generation.extractive import ReaderParams
from gateway.types import Passage

MAX_QUESTION_CHARS = 32_000
MAX_PASSAGES = 100

Decoded = TypeVar("Decoded")
_passages = msgspec.json.Decoder(list[Passage])
_params = msgspec.json.Decoder(ReaderParams)


class ReaderRequest(msgspec.Struct, frozen=True):
    question: str
    passages: list[Passage]
    params: ReaderParams


def decode_request(question: bytes, passages: bytes, params: bytes) -> ReaderRequest:
    """The checked request. params empty = all defaults.

    Raises: ValueError with one sentence that names the tensor at fault.
    """
    try:
        text = question.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"question: not UTF-8 (byte {error.start}).") from None
    if len(text) > MAX_QUESTION_CHARS:
        raise ValueError(f"question: {len(text)} characters; the most is {MAX_QUESTION_CHARS}.")
    found = _decoded("passages", _passages, passages)
    if len(found) > MAX_PASSAGES:
        raise ValueError(f"passages: {len(found)} of them; the most is {MAX_PASSAGES}.")
    return ReaderRequest(text, found, _decoded("params", _params, params or b"{}"))


def _decoded(name: str, decoder: msgspec.json.Decoder[Decoded], raw: bytes) -> Decoded:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name}: {error}.") from None
