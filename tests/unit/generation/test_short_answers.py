"""How the reader is asked where little will do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.generation.extractive import MAX_SENTENCES, ReaderParams
from gateway.generation.triton_reader import TritonReader
from gateway.generation.wire import decode_request
from gateway.types import Inquiry


class Listener:
    """Stands for the Triton client: keeps what it is sent, answers nothing."""

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}

    async def stream(self, model: object, inputs: dict[str, Any], *, timeout_s: float) -> AsyncIterator[Any]:
        self.inputs = inputs
        nothing: tuple[Any, ...] = ()
        for each in nothing:
            yield each


@pytest.mark.parametrize(
    ("inquiry", "sentences"),
    [
        (Inquiry(question="q"), MAX_SENTENCES),
        (Inquiry(question="q", is_short=True), 1),
        (Inquiry(question="q", is_short=True, parts=["a", "b"]), 2),
        (Inquiry(question="q", parts=["a", "b"]), MAX_SENTENCES),
    ],
    ids=["usual", "short", "short-of-parts", "parts"],
)
async def test_a_short_answer_has_one_sentence_for_each_part(inquiry: Inquiry, sentences: int) -> None:
    listener = Listener()
    async for _ in TritonReader(listener, "fast").answer(inquiry, [], timeout_s=1):  # type: ignore[arg-type]
        pass
    sent = decode_request(listener.inputs["question"], listener.inputs["passages"], listener.inputs["params"])
    assert sent.params.max_sentences == sentences
    assert ReaderParams().max_sentences == MAX_SENTENCES
