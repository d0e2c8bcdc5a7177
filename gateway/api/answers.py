"""A finished answer in OpenAI's shapes: the completion, its annotations, its usage; streamed or not, the same."""

from __future__ import annotations

from typing import Any

from gateway.chat import ChatRequest, Sink
from gateway.shown import ready_to_encode
from gateway.types import Citation, Passage, Receipt


class Transcript:
    """A sink that keeps the answer, and passes all that comes on to another one if there is one."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink
        self._parts: list[str] = []
        self._length = 0
        self.annotations: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def chosen(self, tier: str) -> None:
        if self._sink is not None:
            self._sink.chosen(tier)

    async def stage(self, name: str) -> None:
        if self._sink is not None:
            await self._sink.stage(name)

    def waiting(self, position: int, eta_s: float) -> None:
        if self._sink is not None:
            self._sink.waiting(position, eta_s)

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        self._parts.append(text)
        self._length += len(text)
        self.annotations += [annotation(citation, passages, self._length) for citation in citations]
        if self._sink is not None:
            await self._sink.delta(text, citations, passages)


def completion(chat: ChatRequest, receipt: Receipt, answer: Transcript) -> dict[str, Any]:
    """The `chat.completion` object."""
    message = {
        "role": "assistant",
        "content": answer.text,
        "refusal": None,
        "annotations": answer.annotations,
    }
    return {
        "id": chat.id,
        "object": "chat.completion",
        "created": chat.created,
        "model": receipt.tier,
        "choices": [
            {"index": 0, "message": message, "finish_reason": finish_reason(receipt), "logprobs": None}
        ],
        "usage": usage(receipt),
        "tidegate": {"receipt": ready_to_encode(receipt)},
    }


def annotation(citation: Citation, passages: list[Passage], index: int) -> dict[str, Any]:
    """An OpenAI annotation for one quoted sentence. index: characters of the answer up to and with its [n]."""
    passage = passages[citation.passage - 1]
    return {
        "type": "file_citation",
        "file_citation": {
            "file_id": passage.file_id,
            "filename": passage.filename,
            "index": index,
            "passage": citation.passage,
            "quote": citation.text,
            "start": citation.start,
            "end": citation.end,
        },
    }


def finish_reason(receipt: Receipt) -> str:
    """OpenAI knows no `no_answer`: for its clients an honest no is an ordinary stop."""
    return "length" if receipt.finish_reason == "length" else "stop"


def usage(receipt: Receipt) -> dict[str, int]:
    used = receipt.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
