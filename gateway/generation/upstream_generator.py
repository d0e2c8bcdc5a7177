"""A generative tier on another server: ports.Answerer over OpenAI's chat completions.

Builds the prompt as for a checkpoint of our own, streams, verifies citations, and leaves a server alone that fails.
An answer that breaks off ends with an error: to ask again could give another text.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from gateway.errors import (
    CircuitOpen,
    TidegateError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.generation.circuit import Circuit, State
from gateway.generation.citing import AsWritten, CitationStream, check_not_json
from gateway.generation.extractive import NO_ANSWER
from gateway.generation.prompt import Format, Message, Prompt, PromptBuilder
from gateway.generation.token_estimate import EstimatedFormat
from gateway.generation.upstream_client import UpstreamClient
from gateway.generation.upstream_wire import Chunk, Counts, OutOfTime, malformed
from gateway.tier_config import UpstreamTier
from gateway.types import Citation, Delta, Inquiry, Passage, Sampling

AT_ONCE_CHARS = 600  # a prompt with no more than that to count is built without the detour over a thread
SEAM_TOKENS = 4  # between two parts of a prompt, which is counted by its parts
FINISHES = ("stop", "length", "content_filter")  # any other reason has no meaning here and is told as `stop`

# What chat templates set turns apart with. The server renders the template, and many take such a mark in a message for
# the real one: a document must not be able to end a turn.
_MARK = re.compile(
    r"<[|｜][^<>|｜\s]{1,60}[|｜]>|</?s>|<(?:start|end)_of_turn>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\]|<</?SYS>>"
)


class UpstreamGenerator:
    """chat: the model's own tokenizer, where the operator has it; else tokens are estimated. count: told how each call
    ended (`ok`, `left` or an error's code). clock: monotonic seconds.
    """

    def __init__(
        self,
        client: UpstreamClient,
        tier: UpstreamTier,
        chat: Format | None = None,
        *,
        circuit: Circuit | None = None,
        clock: Callable[[], float] = time.monotonic,
        count: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._client, self._tier = client, tier
        self._circuit, self._clock, self._count = circuit or Circuit(), clock, count
        self._encode = msgspec.json.Encoder().encode
        self._builder = PromptBuilder(
            tier.name,
            chat or EstimatedFormat(),
            context_tokens=tier.context_tokens,
            max_tokens=tier.max_tokens,
        )

    def check(self) -> None:
        """Refuse at once what would not be tried. Raises: CircuitOpen."""
        wait_s = self._circuit.wait_s(self._clock())
        if wait_s > 0:
            raise self._open(wait_s)

    async def close(self) -> None:
        await self._client.close()

    def state(self) -> State:
        return self._circuit.state(self._clock())

    async def answer(
        self, inquiry: Inquiry, passages: Sequence[Passage], *, timeout_s: float
    ) -> AsyncIterator[Delta]:
        """The answer as it is written; the last delta has the finish reason and the server's counts.

        Where passages were looked for and none found, nothing is written: an answer from a model's memory has no source
        to check. Until the server has counted, output tokens are the events that had text, which are never more.
        Raises: PromptTooLong, UpstreamError and its subclasses; InvalidRequest where JSON would have to say nothing.
        """
        schema = inquiry.sampling.json_schema
        if not passages and not inquiry.without_documents:
            check_not_json(schema)
            yield Delta(text=NO_ANSWER, finish_reason="no_answer")
            return
        began = self._clock()
        prompt = await self._prompt(inquiry, passages)
        yield Delta(num_passages=prompt.num_passages, num_input_tokens=prompt.num_tokens)
        left_s = max(timeout_s - (self._clock() - began), 0.0)
        is_own = bool(schema) or inquiry.without_documents
        marks = AsWritten() if is_own else CitationStream(passages[: prompt.num_passages])
        said = _Said(inquiry if self._tier.continues else Inquiry(question=""))
        for shown, citations in marks.feed(said.begun):
            yield said.shown(shown, citations)
        async with aclosing(cast(Any, self._batches(prompt, inquiry.sampling, said, left_s))) as batches:
            async for texts in batches:
                for text in texts:
                    for shown, citations in marks.feed(said.hear(text)):
                        yield said.shown(shown, citations)
        for shown, citations in marks.finish():
            yield said.shown(shown, citations)
        num_prompt, num_made = said.counted(prompt.num_tokens)
        yield Delta(
            finish_reason=said.finish_reason if said.finish_reason in FINISHES else "stop",
            num_input_tokens=num_prompt,
            num_output_tokens=num_made,
            num_unsupported=marks.num_unsupported,
        )

    async def _prompt(self, inquiry: Inquiry, passages: Sequence[Passage]) -> Prompt:
        if self._builder.num_fresh_chars(inquiry, passages) > AT_ONCE_CHARS:
            return await asyncio.to_thread(self._builder.build, inquiry, passages)
        return self._builder.build(inquiry, passages)

    async def _batches(
        self, prompt: Prompt, sampling: Sampling, said: _Said, timeout_s: float
    ) -> AsyncIterator[list[str]]:
        """The server's words, at once all that have come, and the circuit's view of how it went.

        Raises: CircuitOpen, UpstreamError and its subclasses, PromptTooLong.
        """
        number = self._circuit.enter(self._clock())
        if number is None:
            raise self._open(self._circuit.wait_s(self._clock()))
        result = "left"
        try:
            body, max_tokens = self._body(prompt, sampling, said)
            batches: Any = self._client.stream(body, max_tokens=max_tokens, timeout_s=timeout_s)
            async with aclosing(batches):
                async for chunks in batches:
                    if result == "left" and any(chunk.is_token for chunk in chunks):
                        self._circuit.succeeded(number, self._clock())
                        result = "ok"
                    yield said.take(chunks)
            if not said.finish_reason:
                raise malformed("the answer ended early, without a finish reason")
            if result == "left":  # an answer without a word is an answer
                self._circuit.succeeded(number, self._clock())
                result = "ok"
        except TidegateError as error:
            result = error.code
            if _is_its_fault(error):
                self._circuit.failed(number, self._clock())
            raise
        finally:
            self._circuit.left(number)  # nothing, where it has been told better
            self._count(result)

    def _body(self, prompt: Prompt, sampling: Sampling, said: _Said) -> tuple[bytes, int]:
        """The request, and the most tokens that it asks for: servers refuse what could outgrow the context."""
        tier = self._tier
        seams = SEAM_TOKENS * (prompt.num_passages + len(prompt.messages))
        room = min(prompt.max_tokens, tier.context_tokens - prompt.num_tokens - seams)
        max_tokens = max(1, room - said.num_begun)
        fields = {
            "model": tier.model,
            "messages": [_harmless(message) for message in [*prompt.messages, *said.messages]],
            tier.max_tokens_field: max_tokens,
            "temperature": tier.temperature if sampling.temperature is None else sampling.temperature,
            "top_p": tier.top_p if sampling.top_p is None else sampling.top_p,
            "seed": sampling.seed,
            "stop": sampling.stop or None,
            "response_format": _as_json(sampling.json_schema) if sampling.json_schema else None,
            "add_generation_prompt": False if said.begun else None,
            "continue_final_message": True if said.begun else None,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return self._encode({name: value for name, value in fields.items() if value is not None}), max_tokens

    def _open(self, wait_s: float) -> CircuitOpen:
        return CircuitOpen(
            f"The tier {self._tier.name!r} has failed too often just now and is tried again later.",
            retry_after_s=max(wait_s, 1.0),
        )


def _as_json(schema: str) -> dict[str, object]:
    """OpenAI's words for it. strict: else the schema is a mere hint to many servers."""
    asked = {"name": "answer", "strict": True, "schema": msgspec.Raw(schema.encode())}
    return {"type": "json_schema", "json_schema": asked}


class _Said:
    """What one answer has come to. begun: the words that it goes on from. num_events: those with text.

    A server may drop white space at the end of those words, so it is not told of it, and may say it once more.
    """

    def __init__(self, inquiry: Inquiry) -> None:
        self.begun, self.num_begun = inquiry.said, inquiry.num_said
        self.num_events = self.num_begun
        self.finish_reason = ""
        self.counts: Counts | None = None
        self._fresh = self.begun  # since the delta before
        self._seam = self.begun[len(self.begun.rstrip()) :]

    @property
    def messages(self) -> list[Message]:
        return [{"role": "assistant", "content": self.begun.rstrip()}] if self.begun else []

    def hear(self, text: str) -> str:
        """What is new in the text of one event."""
        self.num_events += 1
        while self._seam and text[:1] == self._seam[:1]:
            text, self._seam = text[1:], self._seam[1:]
        if text:
            self._seam = ""
        self._fresh += text
        return text

    def shown(self, text: str, citations: list[Citation]) -> Delta:
        said, self._fresh = self._fresh, ""
        return Delta(text=text, citations=citations, num_output_tokens=self.num_events, said=said)

    def counted(self, num_prompt: int) -> tuple[int, int]:
        """Tokens of the prompt and of the answer, by the server's count; to it, words so far are part of the prompt."""
        counts = self.counts or Counts()
        if not counts.completion_tokens:
            return counts.prompt_tokens or num_prompt, self.num_events
        return max(
            0, counts.prompt_tokens - self.num_begun
        ) or num_prompt, counts.completion_tokens + self.num_begun

    def take(self, chunks: list[Chunk]) -> list[str]:
        """Texts of these, each of an event of its own."""
        for chunk in chunks:
            self.finish_reason = chunk.finish_reason or self.finish_reason
            self.counts = chunk.usage or self.counts
        return [text for chunk in chunks if (text := chunk.text)]


def _is_its_fault(error: TidegateError) -> bool:
    """Whether the server shows that it does not work. A server that is full works; a bad request is ours, and a caller
    that gives an answer a tenth of a second shows nothing of the server."""
    if isinstance(error, UpstreamOverloaded | OutOfTime):
        return False
    return isinstance(error, UpstreamUnavailable | UpstreamTimeout | UpstreamProtocolError)


def _harmless(message: Message) -> Message:
    return {**message, "content": _MARK.sub(lambda mark: f"{mark[0][:1]} {mark[0][1:]}", message["content"])}
