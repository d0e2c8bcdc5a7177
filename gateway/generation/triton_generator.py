"""A generative tier's engine on Triton: ports.Answerer over the tier's `generate` model.

Builds the prompt, streams, verifies citations. A replica that dies in mid-stream is left for another one, which goes
on after the tokens that were made: none is lost or doubled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import msgspec
import numpy as np

from gateway.errors import PromptTooLong, UpstreamProtocolError, UpstreamUnavailable
from gateway.generation.citing import AsWritten, CitationStream, check_not_json
from gateway.generation.extractive import NO_ANSWER
from gateway.generation.prompt import Format, Prompt, PromptBuilder
from gateway.tensors import generate_model
from gateway.tier_config import GenerateTier
from gateway.triton import TritonClient, Value, read_raw, unpack_bytes
from gateway.types import Citation, Delta, Inquiry, Passage

MAX_MOVES = 2  # to another replica, in the life of one answer
# How the model begins the text of these two errors.
TOO_LONG = "prompt_too_long: "
FULL = "engine_full: "
# Our permit says that there is a slot; the engine may take a step to see that the last one to hold it has left.
HANDOVER_S = 5.0
HANDOVER_LOOK_S = 0.01

TOKEN_BYTES = 4
AT_ONCE_CHARS = 600  # a prompt with no more than that to tokenise is built without the detour over a thread


class TritonGenerator:
    """coalesce_ms: how long made tokens may wait for company on Triton (0 = not at all, -1 = by its load)."""

    def __init__(
        self, client: TritonClient, tier: GenerateTier, chat: Format, *, coalesce_ms: int = -1
    ) -> None:
        self._client = client
        self._tier = tier
        self._model = generate_model(tier.name)
        self._coalesce = np.array([coalesce_ms], np.int32)
        self._encode = msgspec.json.Encoder().encode
        self._builder = PromptBuilder(
            tier.name, chat, context_tokens=tier.context_tokens, max_tokens=tier.max_tokens
        )

    async def answer(  # noqa: PLR0912  one straight story, and a generator more would cost every token
        self, inquiry: Inquiry, passages: Sequence[Passage], *, timeout_s: float
    ) -> AsyncIterator[Delta]:
        """The answer as it is written; the last delta has the finish reason and the engine's counts.

        Where passages were looked for and none found, nothing is written: an answer from a model's memory has no source
        to check.
        Raises: PromptTooLong, UpstreamError and its subclasses; InvalidRequest where JSON would have to say nothing.
        """
        schema = inquiry.sampling.json_schema
        if not passages and not inquiry.without_documents:
            check_not_json(schema)
            yield Delta(text=NO_ANSWER, finish_reason="no_answer")
            return
        deadline = time.monotonic() + timeout_s
        build = self._builder.build
        if self._builder.num_fresh_chars(inquiry, passages) > AT_ONCE_CHARS:
            prompt = await asyncio.to_thread(build, inquiry, passages)
        else:
            prompt = build(inquiry, passages)
        yield Delta(num_passages=prompt.num_passages, num_input_tokens=prompt.num_tokens)
        is_own = bool(schema) or inquiry.without_documents
        marks = AsWritten() if is_own else CitationStream(passages[: prompt.num_passages])
        inputs = self._inputs(prompt, inquiry)
        made = _Made(inquiry.ids, inquiry.said, can_go_on=not schema)
        for text, citations in marks.feed(inquiry.said):
            yield made.shown(text, citations)
        moves = 0
        handover_until = min(time.monotonic() + HANDOVER_S, deadline)
        while not made.finish_reason:
            if made.ids:
                inputs["continuation_ids"] = np.frombuffer(bytes(made.ids), np.dtype("<i4"))
            left_s = max(deadline - time.monotonic(), 0.0)
            try:
                answers = self._client.stream_with(
                    read_raw, self._model, inputs, timeout_s=left_s, pin=inquiry.pin
                )
                async with aclosing(answers):
                    async for outputs in answers:
                        for text, citations in marks.feed(made.take(outputs)):
                            yield made.shown(text, citations)
                break
            except UpstreamUnavailable as error:
                if FULL in error.detail and time.monotonic() < handover_until:
                    await asyncio.sleep(HANDOVER_LOOK_S)
                    continue
                moves += 1
                if not made.ids or moves > MAX_MOVES or schema:
                    raise
            except UpstreamProtocolError as error:
                raise _refusal(error) from error
        for text, citations in marks.finish():
            yield made.shown(text, citations)
        yield Delta(
            finish_reason=made.finish_reason,
            num_input_tokens=made.num_input_tokens,
            num_output_tokens=made.num_tokens,
            num_unsupported=marks.num_unsupported,
            version="" if moves or inquiry.ids else made.version,
        )

    def _inputs(self, prompt: Prompt, inquiry: Inquiry) -> dict[str, Value]:
        sampling = inquiry.sampling
        temperature = self._tier.temperature if sampling.temperature is None else sampling.temperature
        top_p = self._tier.top_p if sampling.top_p is None else sampling.top_p
        inputs: dict[str, Value] = {
            "messages": self._encode(prompt.messages),
            "max_tokens": np.array([prompt.max_tokens], np.int32),
            "temperature": np.array([temperature], np.float32),
            "top_p": np.array([top_p], np.float32),
            "coalesce_ms": self._coalesce,
        }
        if sampling.seed is not None:
            inputs["seed"] = np.array([sampling.seed], np.int64)
        if sampling.json_schema:
            inputs["json_schema"] = sampling.json_schema
        if sampling.stop:
            inputs["stop"] = self._encode(sampling.stop)
        if inquiry.priority:
            inputs["priority"] = np.array([inquiry.priority], np.int32)
        return inputs


class _Made:
    """What a request's engine has made so far, over all replicas it ran on. ids: little-endian INT32.

    Begins with what another worker had made of it.
    """

    def __init__(self, ids: bytes = b"", said: str = "", *, can_go_on: bool = True) -> None:
        """can_go_on: whether another worker may be given the tokens to go on from."""
        self._can_go_on = can_go_on
        self.ids = bytearray(ids)
        self.num_tokens = len(ids) // TOKEN_BYTES
        self._fresh = bytearray(ids)  # since the delta before
        self._said = said
        self.num_input_tokens = 0
        self.finish_reason = self.version = ""

    def take(self, outputs: dict[str, bytes]) -> str:
        """Account for one message. Returns its text. Raises: UpstreamProtocolError."""
        self.ids += outputs["output_ids"]
        self._fresh += outputs["output_ids"]
        self.num_tokens = len(self.ids) // TOKEN_BYTES
        if "finish_reason" in outputs:
            self.finish_reason = _text(outputs["finish_reason"])
            self.num_input_tokens = int.from_bytes(outputs.get("num_input_tokens", b""), "little")
            self.version = _text(outputs["version"]) if "version" in outputs else ""
        text = _text(outputs["text_output"])
        self._said += text
        return text

    def shown(self, text: str, citations: list[Citation]) -> Delta:
        """A step of the answer, with all that was made for it."""
        ids, said, self._fresh, self._said = bytes(self._fresh), self._said, bytearray(), ""
        if not self._can_go_on:
            ids = b""
        return Delta(text=text, citations=citations, num_output_tokens=self.num_tokens, ids=ids, said=said)


def _text(raw: bytes) -> str:
    """The one element of a BYTES tensor."""
    try:
        (item,) = unpack_bytes(raw)
        return item.decode()
    except ValueError as error:  # more elements than one, or not UTF-8
        raise UpstreamProtocolError(
            "The model server gave a malformed answer.", detail=f"generate: {error}"
        ) from error


def _refusal(error: UpstreamProtocolError) -> PromptTooLong | UpstreamProtocolError:
    """The one refusal of the model that is the caller's to mend."""
    _, found, text = error.detail.partition(TOO_LONG)
    return PromptTooLong(text, param="messages") if found else error
