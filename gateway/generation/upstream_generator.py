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
from gateway.generation.citing import CitationStream
from gateway.generation.extractive import NO_ANSWER
from gateway.generation.prompt import Format, Message, Prompt, PromptBuilder
from gateway.generation.token_estimate import EstimatedFormat
from gateway.generation.upstream_client import UpstreamClient
from gateway.generation.upstream_wire import Counts, malformed
from gateway.tier_config import UpstreamTier
from gateway.types import Delta, Inquiry, Passage, Sampling

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

        Without passages nothing is written: an answer from a model's memory has no source to check. Until the server
        has counted, output tokens are the events that had text, which are never more.
        Raises: PromptTooLong, UpstreamError and its subclasses.
        """
        if not passages:
            yield Delta(text=NO_ANSWER, finish_reason="no_answer")
            return
        began = self._clock()
        prompt = await self._prompt(inquiry, passages)
        yield Delta(num_passages=prompt.num_passages, num_input_tokens=prompt.num_tokens)
        left_s = max(timeout_s - (self._clock() - began), 0.0)
        marks = CitationStream(passages[: prompt.num_passages])
        said = _Said()
        async with aclosing(cast(Any, self._texts(prompt, inquiry.sampling, said, left_s))) as texts:
            async for text in texts:
                for shown, citations in marks.feed(text):
                    yield Delta(text=shown, citations=citations, num_output_tokens=said.num_events)
        for shown, citations in marks.finish():
            yield Delta(text=shown, citations=citations, num_output_tokens=said.num_events)
        counts = said.counts or Counts()
        yield Delta(
            finish_reason=said.finish_reason if said.finish_reason in FINISHES else "stop",
            num_input_tokens=counts.prompt_tokens or prompt.num_tokens,
            num_output_tokens=counts.completion_tokens or said.num_events,
            num_unsupported=marks.num_unsupported,
        )

    async def _prompt(self, inquiry: Inquiry, passages: Sequence[Passage]) -> Prompt:
        if self._builder.num_fresh_chars(inquiry, passages) > AT_ONCE_CHARS:
            return await asyncio.to_thread(self._builder.build, inquiry, passages)
        return self._builder.build(inquiry, passages)

    async def _texts(
        self, prompt: Prompt, sampling: Sampling, said: _Said, timeout_s: float
    ) -> AsyncIterator[str]:
        """The server's words, and the circuit's view of how it went.

        Raises: CircuitOpen, UpstreamError and its subclasses, PromptTooLong.
        """
        number = self._circuit.enter(self._clock())
        if number is None:
            raise self._open(self._circuit.wait_s(self._clock()))
        result = "left"
        try:
            body, max_tokens = self._body(prompt, sampling)
            chunks: Any = self._client.stream(body, max_tokens=max_tokens, timeout_s=timeout_s)
            async with aclosing(chunks):
                async for chunk in chunks:
                    if chunk.is_token and result == "left":
                        self._circuit.succeeded(number, self._clock())
                        result = "ok"
                    said.finish_reason = chunk.finish_reason or said.finish_reason
                    said.counts = chunk.usage or said.counts
                    if chunk.text:
                        said.num_events += 1
                        yield chunk.text
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

    def _body(self, prompt: Prompt, sampling: Sampling) -> tuple[bytes, int]:
        """The request, and the most tokens that it asks for: servers refuse what could outgrow the context."""
        tier = self._tier
        seams = SEAM_TOKENS * (prompt.num_passages + len(prompt.messages))
        max_tokens = max(1, min(prompt.max_tokens, tier.context_tokens - prompt.num_tokens - seams))
        fields = {
            "model": tier.model,
            "messages": [_harmless(message) for message in prompt.messages],
            tier.max_tokens_field: max_tokens,
            "temperature": tier.temperature if sampling.temperature is None else sampling.temperature,
            "top_p": tier.top_p if sampling.top_p is None else sampling.top_p,
            "seed": sampling.seed,
            "stop": sampling.stop or None,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return self._encode({name: value for name, value in fields.items() if value is not None}), max_tokens

    def _open(self, wait_s: float) -> CircuitOpen:
        return CircuitOpen(
            f"The tier {self._tier.name!r} has failed too often just now and is tried again later.",
            retry_after_s=max(wait_s, 1.0),
        )


class _Said:
    """What one answer has come to. num_events: those with text."""

    def __init__(self) -> None:
        self.num_events = 0
        self.finish_reason = ""
        self.counts: Counts | None = None


def _is_its_fault(error: TidegateError) -> bool:
    """Whether the server shows that it does not work. A server that is full works; a bad request is ours."""
    if isinstance(error, UpstreamOverloaded):
        return False
    return isinstance(error, UpstreamUnavailable | UpstreamTimeout | UpstreamProtocolError)


def _harmless(message: Message) -> Message:
    return {**message, "content": _MARK.sub(lambda mark: f"{mark[0][:1]} {mark[0][1:]}", message["content"])}
