"""One request to `generate`, from its prompt to its last message: what the Triton model sends, without Triton.

Joins the engine (ids), the text of its tokens, stop strings and coalescing; adds the counts at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, cast

import msgspec

from gateway.checkpoint.chat_format import ChatFormat
from gateway.errors import InvalidRequest, PromptTooLong
from gateway.generation.coalesce import Coalescer
from gateway.generation.generate_wire import GenerateRequest
from gateway.generation.text_stream import TextStream
from gateway.ports import Engine

# More than that is left to a thread: the loop has tokens to hand out.
LONG_TEXT_CHARS = 4000
LONG_TOKENS = 500


class Answer(msgspec.Struct, frozen=True):
    """One message. finish_reason and num_input_tokens belong to the last one alone."""

    text: str
    token_ids: list[int]
    finish_reason: str = ""
    num_input_tokens: int = 0


Send = Callable[[Answer], None]


class AnswerStream:
    """send: takes each message; called in the event loop, in order."""

    def __init__(self, engine: Engine, chat: ChatFormat, context_tokens: int, send: Send) -> None:
        self._engine = engine
        self._chat = chat
        self._context_tokens = context_tokens
        self._send = send
        self._coalescer: Coalescer
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, request: GenerateRequest) -> None:
        """Send everything, the last message with a finish reason. Cancelling it frees the engine's slot.

        Raises: ValueError and the errors of ports.Engine, before the first message or in between.
        """
        self._coalescer = Coalescer(request.coalesce_ms)
        if not request.params.max_tokens:
            self._send(Answer("", [], "length", 0))
            return
        prompt_ids = await self._prompt_ids(request)
        text, reason = await self._replayed(request, self._context_tokens - len(prompt_ids))
        if not reason:
            try:
                reason = await self._generate(request, prompt_ids, text)
            finally:
                if self._timer is not None:
                    self._timer.cancel()
        if not text.is_stopped:
            self._coalescer.add(text.finish(), [], 0.0, 0)
        left = self._coalescer.take()
        self._send(Answer(left.text, left.token_ids, reason, len(prompt_ids)))

    async def _prompt_ids(self, request: GenerateRequest) -> list[int]:
        """Raises: ValueError, InvalidRequest, PromptTooLong."""
        if request.messages is not None:
            text, encode = self._chat.render(request.messages), self._chat.encode
        else:
            text, encode = request.prompt or "", self._chat.encode_plain
        if len(text) > LONG_TEXT_CHARS:
            ids = await asyncio.to_thread(encode, text)
        else:
            ids = encode(text)
        if not ids:
            raise InvalidRequest("prompt: it has no tokens.")
        if len(ids) >= self._context_tokens:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens; at most {self._context_tokens - 1} leave room for an answer."
            )
        return ids

    async def _replayed(self, request: GenerateRequest, room: int) -> tuple[TextStream, str]:
        """The text so far, which is not sent again; and the finish reason, should that have been all.

        room: tokens that the context has left for output. Raises: InvalidRequest.
        """
        ids = request.continuation_ids
        if len(ids) > room:
            raise InvalidRequest(f"continuation_ids: {len(ids)} tokens; the context has room for {room}.")
        wrong = next((token_id for token_id in ids if not 0 <= token_id < self._chat.num_tokens), None)
        if wrong is not None:
            raise InvalidRequest(f"continuation_ids: {wrong} is no token of this model.")
        text = TextStream(self._chat.tokenizer, request.stop)
        end_ids = frozenset[int]() if request.params.ignore_eos else self._chat.end_ids
        if len(ids) < LONG_TOKENS:
            is_ended = _replay(text, ids, end_ids)
        else:
            is_ended = await asyncio.to_thread(_replay, text, ids, end_ids)
        if is_ended:
            return text, "stop"
        return text, "length" if len(ids) >= min(request.params.max_tokens, room) else ""

    async def _generate(self, request: GenerateRequest, prompt_ids: list[int], text: TextStream) -> str:
        """Returns the finish reason."""
        made = request.continuation_ids
        params = msgspec.structs.replace(request.params, max_tokens=request.params.max_tokens - len(made))
        steps = cast(Any, self._engine.generate([*prompt_ids, *made], params))
        async with aclosing(steps):
            async for step in steps:
                pieces, ids = [], []
                for token_id in step.token_ids:
                    ids.append(token_id)
                    pieces.append(text.feed(token_id))
                    if text.is_stopped:
                        break
                self._take("".join(pieces), ids, is_last=text.is_stopped or bool(step.finish_reason))
                if text.is_stopped:
                    return "stop"
                if step.finish_reason:
                    return str(step.finish_reason)
        return "stop"

    def _take(self, text: str, ids: list[int], *, is_last: bool) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        coalescer = self._coalescer
        coalescer.add(text, ids, now_s, self._engine.load().num_running)
        if is_last or not coalescer.has_text:
            return
        if coalescer.due_s <= now_s:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_at(coalescer.due_s, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        message = self._coalescer.take()
        self._send(Answer(message.text, message.token_ids))


def _replay(text: TextStream, token_ids: list[int], end_ids: frozenset[int]) -> bool:
    """Feed what was heard already. Returns whether that was the whole output."""
    for token_id in token_ids:
        text.feed(token_id)
        if text.is_stopped or token_id in end_ids:
            return True
    return False
